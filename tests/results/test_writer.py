import csv
import io
import json
import re

import pytest

from dmlbench.results.history import history_text
from dmlbench.results.records import VERSION
from dmlbench.results.store import read_spec, read_summary
from dmlbench.results.writer import CellWriter
from tests.begun import begin, ended


def test_a_new_attempt_clears_the_failure_and_goes_on_with_the_log(store, make_cell):
    cell = make_cell()
    writer = begin(store, cell)
    writer.append({"epoch": 0})
    writer.log("an old line")
    writer.finish({"status": "failed"})
    again = begin(store, cell)
    assert sorted(path.name for path in writer.folder.iterdir()) == ["history.csv", "log.txt", "spec.yaml"]
    assert read_spec(writer.folder) == cell
    again.restart()
    assert not (writer.folder / "history.csv").exists()
    again.log("one\n")
    lines = (writer.folder / "log.txt").read_text().splitlines()
    assert [line.partition(" ")[2] for line in lines] == ["an old line", "one"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", lines[1].partition(" ")[0])


def test_rows_beyond_the_checkpoint_are_dropped(store, make_cell):
    writer = begin(store, make_cell())
    for epoch in range(4):
        writer.append({"epoch": epoch})
    again = begin(store, make_cell())
    again.resume([{"epoch": 0}, {"epoch": 1}])
    again.append({"epoch": 2})
    assert (again.folder / "history.csv").read_text() == "epoch\n0\n1\n2\n"


def test_nothing_is_written_once_the_claim_is_lost(store, make_cell):
    cell, lost = make_cell(), []

    def check():
        if lost:
            raise RuntimeError("lost")

    store.folder(cell).mkdir(parents=True)
    writer = CellWriter(store.folder(cell), check)
    writer.begin(cell)
    writer.append({"epoch": 0})
    lost.append(True)
    for write in (lambda: writer.append({"epoch": 1}), lambda: writer.finish({}), lambda: writer.resume([])):
        with pytest.raises(RuntimeError, match="lost"):
            write()
    assert (writer.folder / "history.csv").read_text() == "epoch\n0\n"
    assert not (writer.folder / "summary.json").exists()


def test_rows_are_on_disk_as_soon_as_they_are_known(store, make_cell):
    writer = begin(store, make_cell())
    for epoch in range(3):
        writer.append({"epoch": epoch, "train/loss": 1 / (epoch + 1)})
        with (writer.folder / "history.csv").open(newline="") as file:
            assert [row["epoch"] for row in csv.DictReader(file)] == [str(past) for past in range(epoch + 1)]


def test_history_in_full_precision_with_timings_last():
    rows = [
        {"epoch": 0, "time/evaluation_s": 0.1, "test/recall_at_1": 1 / 3},
        {"epoch": 1, "train/loss": 1e-17, "time/train_s": 2.0, "time/evaluation_s": 0.0},
        {"epoch": 2, "train/loss": None, "test/recall_at_1": 0.1 + 0.2, "test/nmi": 1.0},
    ]
    text = history_text(rows)
    header, *lines = text.splitlines()
    assert header == "epoch,test/recall_at_1,train/loss,test/nmi,time/evaluation_s,time/train_s"
    assert lines[1] == "1,,1e-17,,0.0,2.0"
    read = list(csv.DictReader(io.StringIO(text)))
    assert float(read[0]["test/recall_at_1"]) == 1 / 3
    assert float(read[2]["test/recall_at_1"]) == 0.1 + 0.2
    assert read[2]["train/loss"] == read[2]["time/train_s"] == ""
    assert "\r" not in text


def test_a_summary_carries_its_version_and_no_nan(store, make_cell):
    cell = make_cell()
    writer = begin(store, cell)
    with pytest.raises(ValueError, match="Out of range float"):
        writer.finish(ended(cell) | {"x": float("nan")})
    assert read_summary(writer.folder) is None
    writer.finish(ended(cell) | {"x": 0.1})
    summary = read_summary(writer.folder)
    content = json.loads((writer.folder / "summary.json").read_text())
    assert list(content) == ["version", *ended(cell), "x", "files", "digest"]
    assert (summary.version, summary.status, content["x"]) == (VERSION, "done", 0.1)
    assert list(summary.files) == ["spec.yaml"]


def test_summaries_are_text_for_people_and_git(store, make_cell):
    writer = begin(store, make_cell())
    writer.finish({"status": "done", "selections": {}})
    text = (writer.folder / "summary.json").read_text()
    assert text.endswith("}\n")
    assert len(text.splitlines()) == 9
    assert json.loads(text)["version"] == 1
