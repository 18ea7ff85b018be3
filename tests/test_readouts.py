import pandas as pd
import pytest
from dmlbench.results.readouts import ENSEMBLE, FIRST, MEAN, by_readout, is_of_one_member, mark, named

from dmlbench.analysis.comparisons import seed_pairs
from dmlbench.analysis.estimates import accuracy, seed_values
from dmlbench.results.frames import record_rows
from dmlbench.results.history import selections
from dmlbench.results.store import Record


def history(*recalls):
    """Rows of a cohort of two: each member's R@1 and that of the ensemble by epoch."""
    rows = []
    for epoch, (one, other, joint) in enumerate(recalls):
        values = {"": (one + other) / 2, "member1/": one, "member2/": other, "ensemble/": joint}
        rows.append({"epoch": epoch} | {f"test/{readout}recall_at_1": value for readout, value in values.items()})
    return rows


def record(method="ms+dm2", seed=0, rows=None):
    base, _, modifier = method.partition("+")
    cell = {"protocol": "p", "variant": "", "dataset": "d", "method": method, "base": base, "modifier": modifier}
    summary = {
        "status": "done",
        "cell": cell | {"seed": seed, "hash": f"{method}{seed}", "marks": ["untuned"] if modifier else []},
        "environment": {"machine": "m", "device": "cpu"},
        "initial_weights": "w",
        "timing": {"step_ms": 2.0, "train_s": 1.0},
        "selections": selections(rows),
    }
    return Record(pd.NA, summary)


COHORT = history((0.1, 0.2, 0.15), (0.5, 0.7, 0.8), (0.6, 0.4, 0.7))
SINGLE = [{"epoch": epoch, "test/recall_at_1": value} for epoch, value in enumerate((0.1, 0.5, 0.55))]


def test_names_marks_and_metrics_of_a_readout():
    assert [named("dm2", readout) for readout in (MEAN, FIRST, ENSEMBLE)] == ["dm2", "dm2{member 1}", "dm2{ensemble}"]
    assert [is_of_one_member(named("dm2", readout)) for readout in (MEAN, "member12", ENSEMBLE)] == [False, True, False]
    assert mark(ENSEMBLE, 3) == "3 networks side by side: 3 forward passes, 3 x the dimensions at test time"
    assert by_readout({"nmi": 1, "ensemble/nmi": 2}) == {"": {"nmi": 1}, "ensemble": {"nmi": 2}}


def test_every_readout_is_a_row_of_each_choice_of_the_epoch():
    rows = pd.DataFrame(record_rows(record(rows=COHORT))).set_index(["selection", "method"])
    last, best = rows.loc["last"], rows.loc["best_test"]
    assert last["recall_at_1"].to_dict() == {
        "ms+dm2": 0.5, "ms+dm2{member 1}": 0.6, "ms+dm2{member 2}": 0.4, "ms+dm2{ensemble}": 0.7,
    }  # fmt: skip
    assert best["recall_at_1"].to_dict() == pytest.approx({
        "ms+dm2": 0.6, "ms+dm2{member 1}": 0.6, "ms+dm2{member 2}": 0.7, "ms+dm2{ensemble}": 0.8,
    })  # fmt: skip
    assert best["epoch"].to_dict() == {
        "ms+dm2": 1, "ms+dm2{member 1}": 2, "ms+dm2{member 2}": 1, "ms+dm2{ensemble}": 1,
    }  # fmt: skip
    assert last.loc["ms+dm2{ensemble}", "modifier"] == "dm2{ensemble}"
    assert last.loc["ms+dm2{ensemble}", "marks"] == f"untuned; {mark(ENSEMBLE, 2)}"


def test_the_untrained_network_is_the_bases():
    results = pd.DataFrame(record_rows(record("ms", rows=SINGLE)) + record_rows(record(rows=COHORT)))
    means = accuracy(seed_values(results))
    (untrained,) = means.loc[means["selection"] == "untrained", "mean"]
    assert untrained == 0.1


def test_what_is_compared_with_what():
    """One network is shown and not tested; several are compared with several, one with one, and all with the base."""
    cells = {"ms": SINGLE, "ms+psd": SINGLE, "ms+dm2": COHORT, "ms+independent": COHORT}
    rows = [row for name, own in cells.items() for seed in (0, 1) for row in record_rows(record(name, seed, own))]
    pairs = seed_pairs(seed_values(pd.DataFrame(rows)))
    found = set(pairs.loc[pairs["selection"] == "last", ["method", "to"]].itertuples(index=False, name=None))
    assert found == {
        ("ms+psd", "ms"), ("ms+dm2", "ms"), ("ms+dm2{ensemble}", "ms"), ("ms+independent", "ms"),
        ("ms+independent{ensemble}", "ms"), ("ms+dm2", "ms+psd"), ("ms+independent", "ms+psd"),
        ("ms+dm2", "ms+independent"), ("ms+dm2{ensemble}", "ms+independent{ensemble}"),
    }  # fmt: skip
