from dataclasses import replace
from pathlib import Path

import pytest

from dmlbench.errors import UserError
from dmlbench.specs.tuned import read_tuned, settings_of, write_tuned

REFERENCE = Path(__file__).parents[2] / "results" / "reference" / "tuning" / "tuned.yaml"


@pytest.mark.parametrize(("root", "named"), [(None, "birds"), ("photos/birds", "birds=FOLDER")])
def test_what_was_never_tuned_is_answered_with_the_command_that_tunes_it(tmp_path, make_cell, root, named):
    cell = make_cell("ms")
    cell = replace(cell, dataset=cell.dataset.model_copy(update={"name": "birds", "root": root}))
    write_tuned(tmp_path / "tuned.yaml", [])
    with pytest.raises(UserError, match=rf"no entry for ms on birds.*--methods ms --datasets {named} --trials N"):
        settings_of(tmp_path / "tuned.yaml", cell.method, cell.dataset, cell.protocol)


@pytest.mark.parametrize(
    ("best", "runner_up", "queries", "margin"),
    [
        (0.975926, 0.974074, 540, "0.19 points, 1 of 540 queries"),
        (0.975926, 0.975926, 540, "0.00 points, 0 of 540 queries"),
        (0.972222, 0.971296, 540, "0.09 points, 0.5 of 540 queries"),
        (0.975926, 0.974074, None, "0.19 points"),
        (0.975926, None, 540, ""),
    ],
)
def test_the_margin_in_words(best, runner_up, queries, margin):
    entry = read_tuned(REFERENCE).entries[0]
    changed = {"recall_at_1": best, "runner_up": runner_up, "queries": queries}
    assert entry.model_copy(update=changed).margin == margin


def test_triplet_obdsd_was_chosen_by_one_query():
    (entry,) = [entry for entry in read_tuned(REFERENCE).entries if entry.method == "triplet+obdsd"]
    assert entry.margin == "0.19 points, 1 of 540 queries"
