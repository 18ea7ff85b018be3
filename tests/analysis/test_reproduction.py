"""The verdicts on cells that were trained again, on results made by hand."""

import pytest
from scipy import stats

from dmlbench.analysis.reproduction import Verdict, compare
from dmlbench.results.records import Summary
from dmlbench.results.store import Record, read_summary
from dmlbench.results.writer import CellWriter
from tests.begun import ended

HERE = {"device": "cpu", "cpu": "A", "cpu_capability": "AVX2", "python": "3.12", "torch": "2.9"}
ROW = (0.60, 0.62, 0.64)  # R@1 of three seeds: their standard deviation is .02


@pytest.fixture
def write(tmp_path, make_cell):
    """Writes a finished result: `write("again", 0.61, torch="2.10")`."""

    def result(place: str, recall: float, *, loss: float = 0.5, code: str = "c0de", data="f00d", start="a1", **here):
        cell = make_cell()
        folder = tmp_path / place
        folder.mkdir()
        writer = CellWriter(folder)
        writer.begin(cell)
        for epoch in range(3):
            times = {"time/train_s": len(place) / 7}
            writer.append({"epoch": epoch, "test/recall_at_1": recall, "train/loss": loss, **times})
        dataset = {"name": cell.dataset.name, "version": "test", "fingerprint": data}
        writer.finish(
            ended(
                cell,
                selections=_selections(recall),
                code={"digest": code},
                environment=HERE | here,
                initial_weights=start,
                dataset=dataset,
            )
        )
        return Record(folder, read_summary(folder))

    return result


def _selections(recall: float) -> dict:
    chosen = {"epochs": {"recall_at_1": 2, "map_at_r": 2}, "metrics": {"recall_at_1": recall, "map_at_r": recall / 2}}
    return {"last": chosen, "best_test": chosen}


@pytest.fixture
def row(make_cell) -> list[Summary]:
    """The results of three seeds of the cell."""
    return [
        Summary.model_validate(ended(make_cell(seed=seed), selections=_selections(recall)))
        for seed, recall in enumerate(ROW)
    ]


def test_equal_bits_whatever_the_times(write, row):
    found = compare(write("recorded", 0.6), write("again", 0.6), row)
    assert (found.verdict, found.origins, found.reason) == (Verdict.EQUAL, (), "")
    assert [(change.metric, change.difference) for change in found.changes] == [("recall_at_1", 0), ("map_at_r", 0)]


def test_equal_bits_of_other_training_code_say_so(write, row):
    found = compare(write("recorded", 0.6, code="01d"), write("again", 0.6), row)
    assert found.verdict is Verdict.EQUAL
    assert [(own.what, own.recorded, own.here) for own in found.origins] == [("training code", "01d", "c0de")]


@pytest.mark.parametrize(
    ("here", "what"),
    [
        ({"cpu": "B"}, "cpu"),
        ({"torch": "2.10"}, "torch"),
        ({"device": "cuda:0", "gpu": "H"}, "device"),
        ({"gpus_per_cell": 2}, "GPUs per cell"),
        ({"code": "4e3"}, "training code"),
    ],
)
def test_where_bits_may_differ_the_spread_over_seeds_decides(write, row, here, what):
    most = float(stats.t.ppf(0.975, df=2)) * 0.02 * 2**0.5
    recorded = write("recorded", 0.6)
    within = compare(recorded, write("within", 0.6 + 0.999 * most, **here), row)
    assert within.verdict is Verdict.WITHIN
    assert within.changes[0].most == pytest.approx(most)
    assert within.changes[1].most == pytest.approx(most / 2)
    assert [own.what for own in within.origins] == [what]
    beyond = compare(recorded, write("beyond", 0.6 - 1.001 * most, **here), row)
    assert beyond.verdict is Verdict.DIFFERS
    assert beyond.reason.startswith("first in epoch 0: test/recall_at_1 0.6 recorded, ")


def test_the_same_machine_owes_the_same_bits(write, row):
    found = compare(write("recorded", 0.6), write("again", 0.6, loss=0.5000000000000001), row)
    assert found.verdict is Verdict.DIFFERS
    assert found.reason.startswith("first in epoch 0: train/loss 0.5 recorded, 0.5000000000000001 here; this kind of")
    assert "another machine" not in found.reason
    other = compare(write("recorded elsewhere", 0.6, machine="m1"), write("again here", 0.61, machine="m2"), row)
    assert other.verdict is Verdict.DIFFERS
    assert "another machine" in other.reason


def test_other_initial_weights_are_other_bits(write, row):
    found = compare(write("recorded", 0.6), write("again", 0.6, start="b2"), row)
    assert (found.verdict, found.reason.split(";")[0]) == (Verdict.DIFFERS, "the initial weights differ")


def test_two_seeds_have_no_spread(write, row):
    found = compare(write("recorded", 0.6), write("again", 0.6001, torch="2.10"), row[:2])
    assert (found.verdict, found.verdict.agrees, found.seeds) == (Verdict.NONE, False, 2)
    assert found.reason == "2 of 3 seeds that a spread needs"
    assert compare(write("same", 0.6), write("bits", 0.6, torch="2.10"), row[:2]).verdict is Verdict.EQUAL


def test_map_at_r_counts_too(write, row):
    recorded, again = write("recorded", 0.6), write("again", 0.61, torch="2.10")
    assert compare(recorded, again, row).verdict is Verdict.WITHIN
    last = again.summary.selections["last"]
    worse = last.model_copy(update={"metrics": last.metrics | {"map_at_r": 0.1}})
    summary = again.summary.model_copy(update={"selections": again.summary.selections | {"last": worse}})
    assert compare(recorded, Record(again.folder, summary), row).verdict is Verdict.DIFFERS


def test_no_spread_excuses_other_images(write, row):
    others = compare(write("of images", 0.6), write("of other images", 0.6, data="cafe", torch="2.10"), row)
    assert (others.verdict, others.reason) == (
        Verdict.DIFFERS,
        "the images have another fingerprint than the recorded ones",
    )


def test_what_only_a_later_release_measures_is_no_difference(write, row, make_cell):
    recorded, again = write("recorded", 0.6), write("again", 0.6)
    writer = CellWriter(again.folder)
    for epoch in range(3):
        writer.append({"epoch": epoch, "test/recall_at_1": 0.6, "train/loss": 0.5, "test/new": 1.0})
    assert compare(recorded, again, row).verdict is Verdict.EQUAL
    writer.append({"epoch": 3})
    assert compare(recorded, again, row).reason.startswith("3 epochs recorded, 4 here")


def test_a_training_that_failed_confirms_nothing(write, row, tmp_path, make_cell):
    cell = make_cell()
    (tmp_path / "failed").mkdir()
    CellWriter(tmp_path / "failed").finish(ended(cell, "failed"))
    found = compare(write("recorded", 0.6), Record(tmp_path / "failed", read_summary(tmp_path / "failed")), row)
    assert (found.verdict, found.verdict.agrees, found.reason) == (Verdict.FAILED, False, "diverged: loss is nan")
