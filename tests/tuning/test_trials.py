"""Tuning whole, with scores that are made up in the place of trainings."""

import dataclasses
import math
import re
import shutil

import pytest
from PIL import Image

from dmlbench.errors import UserError
from dmlbench.results.store import Store
from dmlbench.runner import matrix
from dmlbench.runner.matrix import Execution, Request, plan
from dmlbench.runner.signals import Interrupts
from dmlbench.specs.registry import own_folder, searched_mark
from dmlbench.specs.tuned import TRIALS, TunedFile, default_path, read_own, read_tuned, write_tuned
from dmlbench.tuning import Runner, TuningRequest, plan_tuning, tune
from tests.reporting.fake_results import history, write_cell, write_failure

METHODS = ("triplet", "triplet+psd", "triplet+dm2")
BUDGET, EPOCHS = 192, 12  # 16 trainings of glyphs' protocol: 16 + 4 x 2 + 2 x 4 cells
CELLS = 16 + 8 + 8


@pytest.fixture(autouse=True)
def _alone(empty_folder):
    """No `./methods` but the package's own."""


class Trainings:
    """In the place of executors: MAP@R depends on the values alone, and the process is killed after `until` cells."""

    def __init__(self) -> None:
        self.cells, self.until, self.broken, self.best = [], math.inf, {}, 0.4

    def __call__(self, cells, execution, observers, interrupts) -> None:
        for cell in cells:
            if len(self.cells) >= self.until:
                raise KeyboardInterrupt
            self.cells.append(cell)
            shutil.rmtree(execution.store.folder(cell))  # a plan
            if cell.method.name in self.broken:
                self._fail(execution.store.root, cell)
                continue
            rows = history(cell)
            rows[-1]["test/map_at_r"] = self.score(cell)
            write_cell(execution.store.root, cell, rows=rows)

    def score(self, cell) -> float:
        score = 0.7 - 0.1 * abs(math.log(cell.method.loss.values()["margin"] / self.best))
        if cell.method.distillation:
            score -= 0.01 * abs(math.log10(cell.method.distillation.values()["lambda"] / 5))
        return score + 0.001 * (cell.seed % 7) + 0.002 * (cell.dataset.fold.number == 3)

    def _fail(self, root, cell) -> None:
        summary = write_failure(root, cell) / "summary.json"
        summary.write_text(summary.read_text().replace('"diverged"', f'"{self.broken[cell.method.name]}"'))

    def of(self, method) -> list:
        return [cell for cell in self.cells if cell.method.name == method]


class Silent:
    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def __call__(self, cell, folder, event):
        return None


@pytest.fixture
def trainings(monkeypatch) -> Trainings:
    own = Trainings()
    monkeypatch.setattr(matrix, "execute", own)
    return own


def run(root, methods=METHODS, epochs=BUDGET, tell=lambda *_: None, **request):
    store = Store(root / TRIALS)
    store.check_writable()
    known = read_own(default_path(root))
    subjects = plan_tuning(TuningRequest(methods, ("glyphs",), epochs, **request), lambda _: None, known)
    with Interrupts(lambda _: None) as interrupts:
        return tune(subjects, Runner(Execution(store), lambda _: Silent(), interrupts, "dmlbench tune", tell))


def test_a_killed_tuning_finds_what_an_undisturbed_one_finds(trainings, tmp_path):
    undisturbed = run(tmp_path / "undisturbed")
    whole = [cell.hash for cell in trainings.cells]
    assert not undisturbed.failures
    trainings.cells = []
    for until in (1, 4, 17, 40, 70):
        trainings.until = until
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "killed")
    trainings.until = math.inf
    assert run(tmp_path / "killed") == undisturbed
    assert [cell.hash for cell in trainings.cells] == whole  # no cell twice


def test_every_method_has_the_same_budget(trainings, tmp_path):
    entries = run(tmp_path).entries
    assert [entry.method for entry in entries] == list(METHODS)
    assert {(entry.budget, entry.epochs) for entry in entries} == {(BUDGET, BUDGET)}
    for name in METHODS:
        assert sum(cell.protocol.training.epochs for cell in trainings.of(name)) == BUDGET
    run(tmp_path)
    assert len(trainings.cells) == 3 * CELLS


def test_a_larger_budget_uses_the_trainings_of_a_smaller_one(trainings, tmp_path):
    run(tmp_path, ("triplet",))
    first = {cell.hash for cell in trainings.cells}
    (entry,) = run(tmp_path, ("triplet",), 2 * BUDGET).entries
    stages = [(stage.stage, stage.configurations, stage.epochs, len(stage.pairs)) for stage in entry.schedule]
    assert stages == [("explore", 32, 3, 1), ("promote", 8, 6, 2), ("final", 4, 12, 4)]
    assert len(trainings.cells) < len(first) + 32 + 16 + 16 - 16  # at least those of the first stage are there


def test_a_modifier_is_searched_on_its_bases_chosen_values(trainings, tmp_path):
    base, psd, _ = run(tmp_path).entries
    assert not base.stayed
    assert abs(math.log(base.values["loss.margin"] / 0.4)) < 0.3
    assert psd.values["loss.margin"] == base.values["loss.margin"]
    assert set(psd.search) == {"distillation.lambda"}
    assert {cell.method.loss.values()["margin"] for cell in trainings.of("triplet+psd")} == {base.values["loss.margin"]}
    files, chosen = psd.finalists
    assert files.values == {**base.values, "distillation.lambda": 75.0}
    assert chosen.values == psd.values
    assert psd.over_files.difference == pytest.approx(sum(chosen.map_at_r) / 4 - sum(files.map_at_r) / 4, abs=1e-6)


def test_a_base_that_is_not_named_is_tuned_first_and_once(trainings, tmp_path):
    found = run(tmp_path, ("triplet+psd",))
    assert [entry.method for entry in found.entries] == ["triplet", "triplet+psd"]
    write_tuned(default_path(tmp_path), found.entries)
    later = run(tmp_path, ("triplet+dm2",))
    assert [entry.method for entry in later.entries] == ["triplet+dm2"]
    assert later.entries[0].values["loss.margin"] == found.entries[0].values["loss.margin"]
    assert len(trainings.of("triplet")) == CELLS
    with pytest.raises(
        UserError, match=r"triplet on glyphs: was tuned with 192 epochs, .* give --epochs 192, or name tri"
    ):
        run(tmp_path, ("triplet+psd",), 2 * BUDGET)
    assert len(run(tmp_path, ("triplet", "triplet+psd"), 2 * BUDGET).entries) == 2


def test_a_modifier_without_a_search_takes_its_bases_values(trainings, tmp_path):
    base, control = run(tmp_path, ("triplet+independent",)).entries
    assert control.values == base.values
    assert (control.epochs, control.finalists, control.margin) == (0, (), "nothing of its own to search")
    write_tuned(default_path(tmp_path), [base, control])
    (cell,) = plan(Request(("triplet+independent",), ("glyphs",), (0,), tuned=default_path(tmp_path)))
    assert cell.method.loss.values()["margin"] == base.values["loss.margin"]


def test_the_files_values_stay_unless_beaten(trainings, tmp_path):
    trainings.best = 0.2  # those of the file
    (entry,) = run(tmp_path, ("triplet",)).entries
    assert entry.stayed
    assert entry.values == {"loss.margin": 0.2}
    assert entry.over_files is None
    assert entry.over_runner_up.difference > 0
    assert entry.margin.startswith("files' values stay; the best other −")


def test_what_trials_are_trained_and_scored_on(trainings, tmp_path):
    run(tmp_path, ("triplet",), 128, settings=("training.epochs=8", "validation.classes=0.3"))
    assert {cell.protocol.validation.classes for cell in trainings.cells} == {0.0}
    lengths = {(cell.protocol.training.epochs, cell.protocol.evaluation.every) for cell in trainings.cells}
    assert lengths == {(2, 2), (4, 4), (8, 8)}
    final = {(cell.dataset.fold.number, cell.seed) for cell in trainings.cells if cell.protocol.training.epochs == 8}
    assert final == {(3, 1003), (0, 1004), (1, 1005), (2, 1006)}
    # What found the finalists does not decide among them.
    partitions = {(cell.protocol.training.epochs, cell.dataset.fold.partition) for cell in trainings.cells}
    assert partitions == {(2, 0), (4, 0), (8, 1)}
    assert len({cell.hash for cell in trainings.cells}) == len(trainings.cells) == CELLS
    for cell in trainings.cells:
        assert f"loss.margin={cell.method.loss.values()['margin']}" in cell.overrides
        assert f"training.epochs={cell.protocol.training.epochs}" in cell.overrides
        assert cell.index()["dataset"].startswith("glyphs (tested on fold ")


def test_short_trainings_lower_the_learning_rate_at_the_same_shares(trainings, tmp_path):
    settings = ("training.epochs=8", "training.milestones=[3, 6, 7]", "training.gamma=0.5")
    run(tmp_path, ("triplet",), 128, settings=settings)
    training = [cell.protocol.training for cell in trainings.cells]
    assert {(own.epochs, own.milestones) for own in training} == {(2, (1, 2)), (4, (2, 3, 4)), (8, (3, 6, 7))}


def test_another_study_tries_other_values_on_other_folds_with_other_seeds(trainings, tmp_path):
    path = default_path(tmp_path)
    for study_seed in (1, 0):
        write_tuned(path, run(tmp_path, ("triplet",), study_seed=study_seed).entries)
    first, second = read_own(path)
    assert (first.study_seed, second.study_seed) == (0, 1)
    seeds = [{seed for stage in own.schedule for _, seed in stage.pairs} for own in (first, second)]
    assert seeds == [set(range(1000, 1007)), set(range(2000, 2007))]
    assert {cell.dataset.fold.study_seed for cell in trainings.cells} == {0, 1}
    assert len({cell.hash for cell in trainings.cells}) == 2 * CELLS
    (cell,) = plan(Request(("triplet",), ("glyphs",), (0,), tuned=path))
    assert cell.method.loss.values()["margin"] == first.values["loss.margin"]


def test_every_configuration_is_told_of(trainings, tmp_path):
    told = []
    run(tmp_path, ("triplet",), tell=lambda subject, trial: told.append((subject.label, trial)))
    assert [(trial.stage, trial.number, trial.of) for _, trial in told] == [
        *(("explore", n, 16) for n in range(1, 17)),
        *(("promote", n, 4) for n in range(1, 5)),
        ("final", 1, 2),
        ("final", 2, 2),
    ]
    assert {label for label, _ in told} == {"triplet on glyphs"}
    assert told[-2][1].values == {"loss.margin": 0.2}
    assert told[-2][1].map_at_r == pytest.approx(0.7 - 0.1 * math.log(2) + 0.0005 + 0.0035, abs=0.002)


def test_a_training_that_fails_ends_its_method_and_no_other(trainings, tmp_path):
    trainings.broken = {"triplet+psd": "memory"}
    found = run(tmp_path)
    assert [entry.method for entry in found.entries] == ["triplet", "triplet+dm2"]
    assert len(found.failures) == 1
    assert found.failures[0].startswith("triplet+psd on glyphs, stage explore: memory")
    assert found.failures[0].endswith("the same command tries again")
    trainings.broken = {}
    assert len(run(tmp_path).entries) == 3


def test_without_its_base_a_modified_method_is_not_tuned(trainings, tmp_path):
    trainings.broken = {"triplet": "memory"}
    found = run(tmp_path, ("triplet+psd",))
    assert found.entries == []
    assert found.failures[1] == "triplet+psd on glyphs: its base triplet could not be tuned"


def test_a_training_that_diverges_is_a_result(trainings, tmp_path):
    trainings.broken = {"triplet+psd": "diverged"}
    found = run(tmp_path)
    assert [entry.method for entry in found.entries] == ["triplet", "triplet+dm2"]
    assert found.failures == ["triplet+psd on glyphs: all finalists diverged"]
    count = len(trainings.cells)
    run(tmp_path)
    assert len(trainings.cells) == count


def test_what_tuning_found_is_what_runs_tuned(trainings, tmp_path):
    found = run(tmp_path)
    path = default_path(tmp_path)
    write_tuned(path, found.entries)
    assert read_tuned(path) == TunedFile(entries=tuple(sorted(found.entries, key=lambda entry: entry.key)))
    cells = plan(Request(METHODS, ("glyphs",), (0,), tuned=path))
    for cell, entry in zip(cells, found.entries, strict=True):
        assert entry.values.items() <= cell.method.searchable().items()
        assert cell.dataset.fold is None
        assert cell.method.tuned == BUDGET
        assert searched_mark(BUDGET, 4) in cell.method.marks
        assert not any(mark.startswith(("untuned", "transferred")) for mark in cell.method.marks)
        assert cell.method.loss.parameters["margin"].source.startswith("tuned with 192 epochs, on 4 folds")
        assert cell.index()["variant"] == "tuned"


RATES = """\
  beta: {value: 0.0005, source: x, search: {low: 0.0001, high: 0.01, log: true}}
  network: {value: network, source: the protocol's, search: {low: 0.0001, high: 0.01, log: true}}
"""


def test_learning_rates_are_searched_that_of_the_network_too(trainings, tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    text = (own_folder() / "margin.yaml").read_text()
    (mine / "margin.yaml").write_text(re.sub(r"(?<=\nlearning_rates:\n).*\n", RATES, text))
    path = default_path(tmp_path)
    write_tuned(path, run(tmp_path, ("margin+psd",), methods_dir=mine).entries)
    base, modified = read_own(path)
    rates = {"loss.learning_rates.beta", "loss.learning_rates.network"}
    assert rates < set(base.search)
    assert base.finalists[0].values["loss.learning_rates.network"] == 0.001  # the protocol's
    assert {key: base.values[key] for key in rates} == {key: modified.values[key] for key in rates}
    assert len({cell.method.network_rate(0.001) for cell in trainings.of("margin")}) == 17
    cells = plan(Request(("margin", "margin+psd"), ("glyphs",), (0,), tuned=path, methods_dir=mine))
    chosen = base.values["loss.learning_rates.network"]
    assert [cell.method.network_rate(0.001) for cell in cells] == [chosen, chosen]
    assert {cell.protocol.training.learning_rate for cell in cells} == {0.001}  # one table, one protocol


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"methods": ("ms",)}, "no entry for ms on glyphs under conv4-64"),
        (
            {"settings": ("training.epochs=3",)},
            r"was tuned with another protocol \(.*give the options of `dmlbench tune",
        ),
        ({"settings": ("loss.margin=0.3",)}, "--tuned and --set of a method's values exclude each other"),
        ({"tuned": "nowhere.yaml"}, "nowhere.yaml: no such file"),
        ({"methods_dir": True}, "was tuned with another method file"),
    ],
)
def test_tuned_values_hold_for_what_was_tuned(request_, message, trainings, tmp_path):
    path = default_path(tmp_path)
    write_tuned(path, run(tmp_path, ("triplet",)).entries)
    if "methods_dir" in request_:
        folder = tmp_path / "mine"
        folder.mkdir()
        text = (own_folder() / "triplet.yaml").read_text().replace("value: 0.2", "value: 0.25")
        (folder / "triplet.yaml").write_text(text)
        request_ = {"methods_dir": folder}
    asked = dataclasses.replace(Request(("triplet",), ("glyphs",), (0,), tuned=path), **request_)
    asked = dataclasses.replace(asked, tuned=tmp_path / asked.tuned)
    with pytest.raises(UserError, match=message):
        plan(asked)


def test_entries_of_other_methods_stay(trainings, tmp_path):
    path = default_path(tmp_path)
    write_tuned(path, run(tmp_path, ("triplet", "margin")).entries)
    write_tuned(path, run(tmp_path, ("triplet",), 2 * BUDGET).entries)
    assert {entry.method: entry.budget for entry in read_own(path)} == {"triplet": 2 * BUDGET, "margin": BUDGET}


def test_what_cannot_be_tuned(tmp_path):
    def refused(**request) -> str:
        with pytest.raises(UserError) as caught:
            plan_tuning(TuningRequest(**({"datasets": ("glyphs",), "epochs": BUDGET} | request)), lambda _: None)
        return str(caught.value)

    assert "tuning chooses the values of methods" in refused(methods=("ms",), settings=("loss.alpha=3",))
    assert "--epochs 95: too few for a search under a protocol of 12 epochs; give 96" in refused(
        methods=("ms",), epochs=95
    )
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "plain.yaml").write_text(
        "name: plain\ntitle: Plain\nkind: loss\nclass: triplet\npaper: null\n"
        "parameters:\n  margin: {value: 0.2, source: mine}\n  mining: {value: distance, source: mine}\n"
    )
    said = refused(methods=("plain",), methods_dir=folder)
    assert "plain: none of its values has a search range" in said


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("loss.margin:", "margin:", "'margin' must be loss.NAME or distillation.NAME"),
        ("loss.margin:", "loss.marign:", "unknown value 'loss.marign'; did you mean 'loss.margin'"),
        ("loss.margin:", "distillation.lambda:", "unknown value 'distillation.lambda'"),
        (
            "loss.margin: ",
            "loss.margin: -",
            "triplet on glyphs: loss: parameters: margin: must be above 0",
        ),
        ("version: 2", "version: 3", "version: must be 2, not 3"),
        ("budget: 192", "budge: 192", "unknown key 'budge'; did you mean 'budget'"),
    ],
)
def test_an_overlay_that_was_edited(old, new, message, trainings, tmp_path):
    path = default_path(tmp_path)
    write_tuned(path, run(tmp_path, ("triplet",)).entries)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        plan(Request(("triplet",), ("glyphs",), (0,), tuned=path))
    assert str(path) in str(caught.value)
    assert "--set" not in str(caught.value).partition("; ")[0]


def test_protocols_of_other_settings_have_entries_of_their_own(trainings, tmp_path):
    path = default_path(tmp_path)
    for settings in ((), ("training.epochs=4",)):
        write_tuned(path, run(tmp_path, ("triplet",), settings=settings).entries)
    assert len(read_own(path)) == 2
    for settings in ((), ("training.epochs=4",), ("evaluation.every=1",)):  # what is measured changes no training
        (cell,) = plan(Request(("triplet",), ("glyphs",), (0,), settings=settings, tuned=path))
        assert cell.method.tuned == BUDGET


def test_a_pinned_search_that_its_class_refuses_is_found_before_any_trial(trainings, tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "triplet+psd.yaml").write_text(
        "name: triplet+psd\ntitle: Pinned\nkind: pinned\ndistillation:\n"
        "  lambda: {value: 5.0, source: a test, search: {choices: [5.0, -3.0]}}\n"
    )
    with pytest.raises(UserError, match=r"triplet\+psd on glyphs, search of distillation: parameters: lambda: "):
        run(tmp_path, ("triplet+psd",), methods_dir=folder)
    assert trainings.cells == []


def test_a_folder_with_too_few_classes_is_found_before_any_trial(trainings, tmp_path):
    for name in "abcde":
        (tmp_path / "leaves" / name).mkdir(parents=True)
        for number in range(2):
            Image.new("L", (16, 16), ord(name) + number).save(tmp_path / "leaves" / name / f"{number}.png")
    asked = TuningRequest(("triplet",), (f"leaves={tmp_path / 'leaves'}",), 320, protocol="conv4-64")
    with pytest.raises(UserError, match="leaves: 2 training classes are too few for 4 folds of at least 2 classes"):
        plan_tuning(asked, lambda _: None)
