from dataclasses import replace

import pytest
import yaml

from dmlbench.errors import UserError
from dmlbench.specs.tuned import (
    Finalist,
    Margin,
    StageRecord,
    Tuned,
    identity_of,
    read_own,
    read_tuned,
    settings_of,
    write_tuned,
)


def entry(cell, study_seed=0, **changes) -> Tuned:
    values = {"loss.alpha": 3.0}
    files = Finalist(values={"loss.alpha": 2.0}, map_at_r=(0.5, 0.5), recall_at_1=(0.9, 0.9))
    own = {
        "method": cell.method.name, "dataset": cell.dataset.name, "protocol": cell.protocol.name,
        "study_seed": study_seed, "values": values, "stayed": False,
        "over_files": Margin(difference=0.0123, standard_error=0.004, pairs=2),
        "over_runner_up": Margin(difference=0.0123, standard_error=0.004, pairs=2),
        "finalists": (files, Finalist(values=values, map_at_r=(0.51, 0.52), recall_at_1=(0.91, 0.9))),
        "folds": 4, "budget": 16, "epochs": 16,
        "schedule": (StageRecord(stage="final", configurations=2, epochs=2, pairs=((3, 1003), (0, 1004))),),
        "search": {"loss.alpha": {"low": 1.0, "high": 4.0}}, "code": ("a",), "device": ("b",),
        "command": "dmlbench tune",
        **identity_of(cell.method, cell.dataset, cell.protocol),
    }  # fmt: skip
    return Tuned.model_validate(own | changes)


@pytest.mark.parametrize(("root", "named"), [(None, "birds"), ("photos/birds", "birds=FOLDER")])
def test_what_was_never_tuned_is_answered_with_the_command_that_tunes_it(tmp_path, make_cell, root, named):
    cell = make_cell("ms")
    cell = replace(cell, dataset=cell.dataset.model_copy(update={"name": "birds", "root": root}))
    write_tuned(tmp_path / "tuned.yaml", [])
    with pytest.raises(UserError, match=rf"no entry for ms on birds.*--methods ms --datasets {named} --epochs N"):
        settings_of(tmp_path / "tuned.yaml", cell.method, cell.dataset, cell.protocol)


def test_what_is_written_is_what_is_read(tmp_path, make_cell):
    path, cell = tmp_path / "tuned.yaml", make_cell("ms")
    write_tuned(path, [entry(cell, 1), entry(cell, 0)])
    assert read_tuned(path).entries == (entry(cell, 0), entry(cell, 1))
    write_tuned(path, [entry(cell, 1, budget=32)])
    assert [(own.study_seed, own.budget) for own in read_own(path)] == [(0, 16), (1, 32)]
    assert yaml.safe_load(path.read_text())["version"] == 2


def test_a_run_takes_the_first_study(tmp_path, make_cell):
    path, cell = tmp_path / "tuned.yaml", make_cell("ms")
    write_tuned(path, [entry(cell, 2, values={"loss.alpha": 3.5}), entry(cell, 1)])
    found = settings_of(path, cell.method, cell.dataset, cell.protocol)
    assert (found.loss, found.tuned) == ({"alpha": 3.0}, 16)
    assert found.mark.startswith("tuned: 16 epochs of search on held-out training classes, chosen by MAP@R on 2")
    assert found.source == (
        "tuned with 16 epochs, on 2 folds of the training classes, study 1: +1.23 ± 0.40 points MAP@R over the files' "
        "values, 2 pairs"
    )


def test_a_modifier_that_was_tuned_on_other_values_of_its_base(tmp_path, make_cell):
    path, cell, base = tmp_path / "tuned.yaml", make_cell("ms+psd"), make_cell("ms")
    own = entry(cell, values={"loss.alpha": 3.0, "distillation.tau": 2.0})
    write_tuned(path, [own])
    assert settings_of(path, cell.method, cell.dataset, cell.protocol).distillation == {"tau": 2.0}
    write_tuned(path, [entry(base)])
    settings_of(path, cell.method, cell.dataset, cell.protocol)
    write_tuned(path, [entry(base, values={"loss.alpha": 3.5})])
    with pytest.raises(UserError, match=r"ms\+psd on glyphs: was tuned on other values of ms than ms has there"):
        settings_of(path, cell.method, cell.dataset, cell.protocol)


def test_a_modifier_of_another_study_than_the_base_that_a_run_takes(tmp_path, make_cell):
    """A run takes the first study of each: the pair must share the base's values, whichever studies these are."""
    path, cell, base = tmp_path / "tuned.yaml", make_cell("ms+psd"), make_cell("ms")
    own = entry(cell, 1, values={"loss.alpha": 2.0, "distillation.tau": 2.0})
    write_tuned(path, [own, entry(base, 0), entry(base, 1, values={"loss.alpha": 2.0})])
    with pytest.raises(UserError, match="was tuned on other values of ms than ms has there in study 0"):
        settings_of(path, cell.method, cell.dataset, cell.protocol)
    write_tuned(path, [entry(base, 0, values={"loss.alpha": 2.0})])
    assert settings_of(path, cell.method, cell.dataset, cell.protocol).loss == {"alpha": 2.0}


@pytest.mark.parametrize(
    ("changes", "margin"),
    [
        ({}, "+1.23 ± 0.40 points MAP@R over the files' values, 2 pairs"),
        ({"over_files": None}, "the files' values diverged"),
        (
            {"stayed": True, "over_runner_up": Margin(difference=-0.001, standard_error=0.002, pairs=4)},
            "files' values stay; the best other +0.10 ± 0.20 points MAP@R, 4 pairs",
        ),
        ({"stayed": True, "over_runner_up": None}, "files' values stay, no other finalist"),
        ({"finalists": ()}, "nothing of its own to search"),
    ],
)
def test_the_margin_in_words(make_cell, changes, margin):
    assert entry(make_cell("ms"), **changes).margin == margin


@pytest.mark.parametrize("version", ["version: 1\n", "version: 7\n", "entries: []\n"])
def test_an_unknown_version(tmp_path, make_cell, version):
    path = tmp_path / "tuned.yaml"
    path.write_text(version)
    for refused in (lambda: read_tuned(path), lambda: write_tuned(path, [entry(make_cell("ms"))])):
        with pytest.raises(UserError, match=r"tuned\.yaml: version: must be 2, not (1|7|None)"):
            refused()
    assert path.read_text() == version
