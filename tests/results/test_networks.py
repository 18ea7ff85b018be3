from pathlib import Path

import pandas as pd
import pytest

from dmlbench.analysis.comparisons import seed_pairs
from dmlbench.analysis.estimates import accuracy, seed_values
from dmlbench.reporting.naming import named
from dmlbench.results.frames import ENSEMBLE, MEAN, mark, result_rows
from dmlbench.results.history import selections
from dmlbench.results.records import Facts, Index, Summary
from dmlbench.results.store import Record
from tests.typed import NONE, parts


def history(*recalls):
    """Rows of a cohort of two: each network's R@1 and that of the ensemble by epoch."""
    rows = []
    for epoch, (one, other, joint) in enumerate(recalls):
        values = {"": (one + other) / 2, "member1/": one, "member2/": other, "ensemble/": joint}
        rows.append({"epoch": epoch} | {f"test/{network}recall_at_1": value for network, value in values.items()})
    return rows


def rows_of(method="ms+dm2", seed=0, rows=()):
    """The rows of a result whose history is given."""
    own = {key: value for key, value in parts(method).items() if key != "network"}
    hashes = ("protocol_hash", "dataset_version", "method_hash", "base_hash", "modifier_hash")
    found = Facts(protocol="p", overrides=NONE, dataset="d", seed=seed, hash=f"{method}{seed}", **own,
                  **dict.fromkeys(hashes, "0"))  # fmt: skip
    names = {key: own[key] for key in ("method", "base", "modifier")}
    cell = Index(hash="0" * 16, protocol="p", variant="", dataset="d", **names, seed=seed,
                 marks=["untuned"] if own["modifier"] else [], protocol_hash="0" * 16)  # fmt: skip
    summary = Summary.model_validate({
        "status": "done",
        "cell": cell,
        "started": "2026-01-01T00:00:00+00:00",
        "environment": {"machine": "m", "device": "cpu"},
        "initial_weights": "w",
        "dataset": {"name": "d", "version": "1", "fingerprint": "f"},
        "timing": {"step_ms": 2.0, "train_s": 1.0},
        "selections": selections(rows),
    })  # fmt: skip
    return result_rows(Record(Path(f"{method}/{seed}"), summary), found)


COHORT = history((0.1, 0.2, 0.15), (0.5, 0.7, 0.8), (0.6, 0.4, 0.7))
SINGLE = [{"epoch": epoch, "test/recall_at_1": value} for epoch, value in enumerate((0.1, 0.5, 0.55))]


def test_marks_of_networks():
    assert mark(ENSEMBLE, 3) == "ensemble of 3 networks: 3 forward passes, 3 x the dimensions at test time"
    assert [mark(network, 2) for network in (MEAN, "1")] == ["mean over 2 networks", "one of 2 networks"]


def test_every_network_is_a_row_of_each_choice_of_the_epoch():
    rows = pd.DataFrame(rows_of(rows=COHORT)).set_index(["selection", "network"])
    last, best = rows.loc["last"], rows.loc["best_test"]
    assert last["recall_at_1"].to_dict() == {"mean": 0.5, "1": 0.6, "2": 0.4, "ensemble": 0.7}
    assert best["recall_at_1"].to_dict() == pytest.approx({"mean": 0.6, "1": 0.6, "2": 0.7, "ensemble": 0.8})
    assert best["epoch"].to_dict() == {"mean": 1, "1": 2, "2": 1, "ensemble": 1}
    assert set(last["method"]) == {"ms+dm2"}
    assert last.loc["ensemble", "marks"] == f"untuned; {mark(ENSEMBLE, 2)}"


def test_the_untrained_network_is_the_bases():
    results = pd.DataFrame(rows_of("ms", rows=SINGLE) + rows_of(rows=COHORT))
    means = accuracy(seed_values(results))
    (untrained,) = means.loc[means["selection"] == "untrained", "mean"]
    assert untrained == 0.1


def test_what_is_compared_with_what():
    """One network is shown and not tested; several are compared with several, one with one, and all with the base."""
    cells = {"ms": SINGLE, "ms+psd": SINGLE, "ms+dm2": COHORT, "ms+independent": COHORT}
    rows = [row for name, own in cells.items() for seed in (0, 1) for row in rows_of(name, seed, own)]
    pairs = named(seed_pairs(seed_values(pd.DataFrame(rows))))
    found = set(pairs.loc[pairs["selection"] == "last", ["name", "to_name"]].itertuples(index=False, name=None))
    assert found == {
        ("ms+psd", "ms"), ("ms+dm2", "ms"), ("ms+dm2{ensemble}", "ms"), ("ms+independent", "ms"),
        ("ms+independent{ensemble}", "ms"), ("ms+dm2", "ms+psd"), ("ms+independent", "ms+psd"),
        ("ms+dm2", "ms+independent"), ("ms+dm2{ensemble}", "ms+independent{ensemble}"),
    }  # fmt: skip
