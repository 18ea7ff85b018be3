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
from dmlbench.specs.registry import own_folder, tuned_mark
from dmlbench.specs.tuned import TRIALS, TunedFile, default_path, read_tuned, write_tuned
from dmlbench.tuning import STORAGE, TuningRequest, plan_tuning, tune
from tests.reporting.fake_results import history, write_cell, write_failure

METHODS = ("triplet", "triplet+psd", "triplet+dm2")


@pytest.fixture(autouse=True)
def _alone(empty_folder):
    """No `./methods` but the package's own."""


class Trainings:
    """In the place of executors: R@1 depends on the margin alone; the process is killed after `until` cells."""

    def __init__(self) -> None:
        self.cells, self.until, self.broken = [], math.inf, {}

    def __call__(self, cells, execution, observers, interrupts) -> None:
        for cell in cells:
            if len(self.cells) >= self.until:
                raise KeyboardInterrupt
            self.cells.append(cell)
            shutil.rmtree(execution.store.folder(cell))  # a plan
            if cell.method.name in self.broken:
                self._fail(execution.store.root, cell)
                continue
            rows, margin = history(cell), cell.method.loss.values()["margin"]
            rows[-1]["test/recall_at_1"] = 0.7 - 0.1 * abs(math.log(margin / 0.4)) + 0.001 * (cell.seed - 1000)
            write_cell(execution.store.root, cell, rows=rows)

    def _fail(self, root, cell) -> None:
        summary = write_failure(root, cell) / "summary.json"
        summary.write_text(summary.read_text().replace('"diverged"', f'"{self.broken[cell.method.name]}"'))


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


def run(root, trials: int, methods=METHODS, **request):
    store = Store(root / TRIALS)
    store.check_writable()
    subjects = plan_tuning(TuningRequest(methods, ("glyphs",), **request), lambda _: None)
    with Interrupts(lambda _: None) as interrupts:
        return tune(
            subjects, trials, Execution(store), lambda _: Silent(), interrupts,
            command="dmlbench tune", tell=lambda *_: None,
        )  # fmt: skip


def test_a_killed_tuning_finds_what_an_undisturbed_one_finds(trainings, tmp_path):
    undisturbed = run(tmp_path / "undisturbed", 8)
    whole = [cell.hash for cell in trainings.cells]
    assert not undisturbed.failures
    trainings.cells = []
    for until in (1, 4, 5, 11, 20):
        trainings.until = until
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "killed", 8)
    trainings.until = math.inf
    assert run(tmp_path / "killed", 8) == undisturbed
    assert [cell.hash for cell in trainings.cells] == whole  # no cell twice
    assert (tmp_path / "killed" / STORAGE).is_file()


def test_every_method_has_the_same_number_of_trials(trainings, tmp_path):
    entries = run(tmp_path, 6).entries
    assert [entry.method for entry in entries] == list(METHODS)
    assert {entry.trials for entry in entries} == {6}
    names = [cell.method.name for cell in trainings.cells]
    assert {name: names.count(name) for name in names} == dict.fromkeys(METHODS, 6)
    for entry in entries:
        assert entry.recall_at_1 >= entry.recall_at_1_of_files
    run(tmp_path, 6)
    assert len(trainings.cells) == 18
    run(tmp_path, 7)
    assert len(trainings.cells) == 21
    fewer = run(tmp_path, 2)
    assert {entry.trials for entry in fewer.entries} == {2}
    assert fewer.notes == [f"{name} on glyphs: 7 trials are there; the first 2 count" for name in METHODS]


def test_trials_are_scored_on_training_classes_alone(trainings, tmp_path):
    run(tmp_path, 2, settings=("training.epochs=4", "validation.classes=0.3"), seeds=2)
    assert {cell.dataset.held_out for cell in trainings.cells} == {0.3}
    assert {cell.protocol.validation.classes for cell in trainings.cells} == {0.0}
    assert {(cell.protocol.training.epochs, cell.protocol.evaluation.every) for cell in trainings.cells} == {(4, 4)}
    assert {cell.seed for cell in trainings.cells} == {1000, 1001}
    assert len({cell.hash for cell in trainings.cells}) == len(trainings.cells) == 12
    for cell in trainings.cells:
        assert cell.overrides[-2:] == ("training.epochs=4", "validation.classes=0.3")
        assert f"loss.margin={cell.method.loss.values()['margin']}" in cell.overrides
        assert cell.index()["dataset"] == "glyphs (tested on 30% of its training classes)"


def test_a_trial_counts_by_the_mean_over_its_seeds(trainings, tmp_path):
    one, two = (run(tmp_path / str(seeds), 3, ("triplet",), seeds=seeds).entries[0] for seeds in (1, 3))
    assert one.values == two.values
    assert two.recall_at_1 == pytest.approx(one.recall_at_1 + 0.001)
    assert (one.seeds, two.seeds) == ((1000,), (1000, 1001, 1002))


def test_a_training_that_fails_ends_its_method_and_no_other(trainings, tmp_path):
    trainings.broken = {"triplet+psd": "memory"}
    found = run(tmp_path, 4)
    assert [entry.method for entry in found.entries] == ["triplet", "triplet+dm2"]
    assert len(found.failures) == 1
    assert found.failures[0].startswith("triplet+psd on glyphs, trial 1: memory")
    trainings.broken = {}
    assert [entry.trials for entry in run(tmp_path, 4).entries] == [4, 4, 4]


def test_a_training_that_diverges_is_a_trial(trainings, tmp_path):
    trainings.broken = {"triplet+psd": "diverged"}
    found = run(tmp_path, 3)
    assert [entry.method for entry in found.entries] == ["triplet", "triplet+dm2"]
    assert found.failures == ["triplet+psd on glyphs: all 3 trials diverged"]
    assert len(trainings.cells) == 9
    run(tmp_path, 3)
    assert len(trainings.cells) == 9


def test_what_tuning_found_is_what_runs_tuned(trainings, tmp_path):
    found = run(tmp_path, 5)
    path = default_path(tmp_path)
    write_tuned(path, found.entries)
    assert read_tuned(path) == TunedFile(entries=tuple(sorted(found.entries, key=lambda entry: entry.key)))
    cells = plan(Request(METHODS, ("glyphs",), (0,), tuned=path))
    for cell, entry in zip(cells, found.entries, strict=True):
        values = {f"loss.{key}": value for key, value in cell.method.loss.values().items()}
        if cell.method.distillation:
            values |= {f"distillation.{key}": value for key, value in cell.method.distillation.values().items()}
        assert entry.values.items() <= values.items()
        assert cell.dataset.held_out == 0
        assert cell.method.tuned == 5
        assert tuned_mark("5") in cell.method.marks
        assert not any(mark.startswith(("untuned", "transferred")) for mark in cell.method.marks)
        assert "tuned: trial" in cell.method.loss.parameters["margin"].source
        assert cell.index()["variant"] == "tuned"


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
    write_tuned(path, run(tmp_path, 2, ("triplet",)).entries)
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
    write_tuned(path, run(tmp_path, 2, ("triplet", "margin")).entries)
    write_tuned(path, run(tmp_path, 3, ("triplet",)).entries)
    assert {entry.method: entry.trials for entry in read_tuned(path).entries} == {"triplet": 3, "margin": 2}


def test_what_cannot_be_tuned(tmp_path):
    with pytest.raises(UserError, match="tuning chooses the values of methods"):
        plan_tuning(TuningRequest(("ms",), ("glyphs",), settings=("loss.alpha=3",)), lambda _: None)
    folder = tmp_path / "mine"
    folder.mkdir()
    text = (own_folder() / "triplet.yaml").read_text()
    (folder / "triplet.yaml").write_text(text.replace("value: 0.2", "value: 0.9"))
    with pytest.raises(UserError, match=r"loss\.margin: its search \(0\.05 to 0\.8, logarithmic\) does not hold 0\.9"):
        plan_tuning(TuningRequest(("triplet",), ("glyphs",), methods_dir=folder), lambda _: None)
    (folder / "plain.yaml").write_text(
        "name: plain\ntitle: Plain\nkind: loss\nclass: triplet\npaper: null\n"
        "parameters:\n  margin: {value: 0.2, source: mine}\n  mining: {value: distance, source: mine}\n"
    )
    with pytest.raises(UserError, match="plain: none of its values has a search range"):
        plan_tuning(TuningRequest(("plain",), ("glyphs",), methods_dir=folder), lambda _: None)


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
        ("version: 1", "version: 2", "version"),
        ("trials: 2", "trial: 2", "unknown key 'trial'"),
    ],
)
def test_an_overlay_that_was_edited(old, new, message, trainings, tmp_path):
    path = default_path(tmp_path)
    write_tuned(path, run(tmp_path, 2, ("triplet",)).entries)
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
        write_tuned(path, run(tmp_path, 2, ("triplet",), settings=settings).entries)
    assert len(read_tuned(path).entries) == 2
    for settings in ((), ("training.epochs=4",), ("evaluation.every=1",)):  # what is measured changes no training
        (cell,) = plan(Request(("triplet",), ("glyphs",), (0,), settings=settings, tuned=path))
        assert cell.method.tuned == 2


def test_several_trainings_a_trial_stand_in_the_mark(trainings, tmp_path):
    path = default_path(tmp_path)
    write_tuned(path, run(tmp_path, 2, ("triplet",), seeds=3).entries)
    (cell,) = plan(Request(("triplet",), ("glyphs",), (0,), tuned=path))
    assert cell.method.marks == (tuned_mark("2 x 3"),)


def test_a_pinned_search_that_its_class_refuses_is_found_before_any_trial(trainings, tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "triplet+psd.yaml").write_text(
        "name: triplet+psd\ntitle: Pinned\nkind: pinned\ndistillation:\n"
        "  lambda: {value: 5.0, source: a test, search: {choices: [5.0, -3.0]}}\n"
    )
    with pytest.raises(UserError, match=r"triplet\+psd on glyphs, search of distillation: parameters: lambda: "):
        run(tmp_path, 2, ("triplet+psd",), methods_dir=folder)
    assert trainings.cells == []


def test_a_folder_with_too_few_classes_is_found_before_any_trial(trainings, tmp_path):
    for name in "abcde":
        (tmp_path / "leaves" / name).mkdir(parents=True)
        for number in range(2):
            Image.new("L", (16, 16), ord(name) + number).save(tmp_path / "leaves" / name / f"{number}.png")
    asked = TuningRequest(("triplet",), (f"leaves={tmp_path / 'leaves'}",), protocol="conv4-64")
    with pytest.raises(UserError, match="leaves: its 2 training classes are too few for tuning, which holds out 2"):
        plan_tuning(asked, lambda _: None)
