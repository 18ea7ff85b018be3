"""Rows of what was not trained here: written, read back, and in the tables of results and reports."""

import json

import numpy as np
import pandas as pd
import pytest

from dmlbench import load_results
from dmlbench.analysis.estimates import seed_values
from dmlbench.analysis.leaderboard import leaderboard
from dmlbench.errors import UserError
from dmlbench.results.evaluated import Evaluated, check_name, new_file, now, read_evaluated, write_evaluated
from tests.analysis.fake_values import values

METRICS = {"recall_at_1": 0.6, "map_at_r": 0.25, "nmi": 0.5}


def row(name="mine", **changed) -> Evaluated:
    known = {
        "name": name, "what": "embeddings", "about": "embeddings, 16-d", "protocol": "p", "dataset": "d",
        "dataset_version": "1", "test_images": 10, "test_classes": 2, "metrics": METRICS, "made": now(),
    }  # fmt: skip
    return Evaluated(**(known | changed))


def write(root, own):
    write_evaluated(new_file(root, own.protocol, own.dataset, own.name), own)


def test_a_row_comes_back_and_is_in_the_frame(tmp_path):
    write(tmp_path, row())
    write(tmp_path, row("other", metrics={"recall_at_1": 0.5}))
    (_, first), (_, second) = read_evaluated([tmp_path])
    assert (first.name, first.metrics, second.name) == ("mine", METRICS, "other")
    assert first.hash == row().hash != second.hash
    frame = load_results(tmp_path)
    assert frame["status"].tolist() == ["evaluated"] * 2
    assert frame["method"].tolist() == ["mine", "other"]
    assert frame["marks"].tolist() == ["not trained here: embeddings, 16-d"] * 2
    assert frame["nmi"].tolist() == pytest.approx([0.5, np.nan], nan_ok=True)
    assert (frame["base"] == "").all()
    assert seed_values(frame).empty  # no comparison, interval or verdict is of it


def test_nothing_is_written_over(tmp_path):
    write(tmp_path, row())
    with pytest.raises(UserError, match=r"mine\.json: is there already; give another --name"):
        new_file(tmp_path, "p", "d", "mine")
    new_file(tmp_path, "p", "another", "mine")


@pytest.mark.parametrize("name", ["", "a b", "../x", "a+b", ".x", "x" * 101])
def test_names_that_are_none(name):
    with pytest.raises(UserError, match="not a plain name"):
        check_name(name, ())


def test_a_methods_name_is_taken():
    for name in ("ms", "untrained"):
        with pytest.raises(UserError, match="is a method's name"):
            check_name(name, ["ms"])


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("version", 2, "version 2 is not known"),
        ("metrics", {"nmi": 0.1}, "no recall_at_1"),
        ("metrics", {"recall_at_1": 0.1, "protocol": 1.0}, "'protocol' is no metric"),
        ("metrics", {"recall_at_1": "high"}, "metrics"),
        ("made", "yesterday", "not an evaluation"),
        ("what", "guess", "what"),
        ("test_images", -1, "test_images"),
    ],
)
def test_a_damaged_row_is_named_and_stops_nothing(tmp_path, key, value, message):
    write(tmp_path, row())
    write(tmp_path, row("whole"))
    path = tmp_path / "evaluated" / "p" / "d" / "mine.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    told = []
    frame = load_results(tmp_path, told.append)
    assert frame["method"].tolist() == ["whole"]
    assert len(told) == 1
    assert message in told[0].reason
    path.write_text("{")
    assert len(load_results(tmp_path, told.append)) == 1
    assert "damaged JSON" in told[1].reason


def test_of_several_folders_the_first_counts(tmp_path):
    for folder, own in (("a", row()), ("b", row()), ("c", row(metrics={"recall_at_1": 0.1}))):
        write(tmp_path / folder, own)
    told = []
    frame = load_results([tmp_path / name for name in "abc"], told.append)
    assert frame["recall_at_1"].tolist() == [0.6]
    assert [found.path.parts[-5] for found in told] == ["c"]
    assert "has other metrics than" in told[0].reason


class TestLeaderboard:
    def board(self, tmp_path, *rows, runs=None):
        for own in rows:
            write(tmp_path, own)
        trained = values({"ms": [0.7, 0.71, 0.69], "triplet": [0.5, 0.51, 0.49]} if runs is None else runs)
        given = load_results(tmp_path)
        place = trained.iloc[0] if len(trained) else None
        if place is not None:
            given = given.assign(protocol=place["protocol"], dataset=place["dataset"])
        return trained, leaderboard(trained, given)

    def test_it_stands_by_its_mean_and_has_no_rank(self, tmp_path):
        trained, board = self.board(tmp_path, row())
        own = board[(board["metric"] == "recall_at_1") & (board["selection"] == "last")]
        assert own["method"].tolist() == ["ms", "mine", "triplet"]
        assert own["n"].tolist() == [3, 0, 3]
        mine = own.iloc[1]
        assert mine["mean"] == 0.6
        assert all(pd.isna(mine[key]) for key in ("low", "high", "std", "best_rank", "worst_rank"))
        plain = leaderboard(trained)
        others = board[board["method"] != "mine"].reset_index(drop=True)
        pd.testing.assert_frame_equal(others, plain, check_dtype=False)

    def test_without_trained_methods_it_stands_alone(self, tmp_path):
        for own in (row(), row("best", metrics={"recall_at_1": 0.9})):
            write(tmp_path, own)
        given = load_results(tmp_path)
        board = leaderboard(seed_values(given), given)
        assert board[board["metric"] == "recall_at_1"]["method"].tolist() == ["best", "mine"]
        assert set(board["selection"]) == {"last"}
        assert board[board["metric"] == "map_at_r"]["method"].tolist() == ["mine"]
