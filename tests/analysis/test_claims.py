"""Claims by hand: a gate, then every base."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from dmlbench.analysis.claims import claims_frame, judge, protected_holm
from dmlbench.analysis.statistics import detectable
from dmlbench.results.claims import Declared
from dmlbench.specs.study import Claim
from tests.analysis.fake_values import values

BASES = {"ms": [0.60, 0.62, 0.61, 0.63, 0.62, 0.60], "triplet": [0.50, 0.51, 0.52, 0.50, 0.49, 0.51]}
GAINS = {"ms": [0.02, 0.03, 0.025, 0.02, 0.03, 0.02], "triplet": [0.01, 0.0, 0.02, 0.01, 0.015, 0.01]}


def results(gains=GAINS, datasets=("d",)):
    """What `load_results` returns, as far as claims look at it."""
    frames = []
    for dataset in datasets:
        runs = dict(BASES)
        runs |= {f"{base}+psd": list(np.array(BASES[base]) + gains[base]) for base in gains}
        own = values(runs, dataset=dataset).rename(columns={"value": "recall_at_1"}).drop(columns="metric")
        cell = own["method"] + own["dataset"] + own["seed"].astype(str)
        frames.append(own.assign(hash=cell, folder=cell, status="done", networks=1))
    return pd.concat(frames, ignore_index=True)


def declared(frame, missing=0, **changes):
    claim = Claim(**{"modifier": "psd", "bases": ("ms", "triplet")} | changes)
    cells = (*frame["hash"], *(f"missing{number}" for number in range(missing)))
    datasets = tuple(frame["dataset"].unique())
    return Declared(claim=claim, declared="2026-01-02T03:04:05+00:00", cells=cells, datasets=datasets, begun=0)


def test_the_main_effect_is_the_mean_over_bases_of_each_seed():
    frame = results()
    found = judge(declared(frame), frame, "last")
    per_seed = (np.array(GAINS["ms"]) + GAINS["triplet"]) / 2
    assert found.main.estimate.mean == pytest.approx(per_seed.mean())
    assert found.main.p == pytest.approx(stats.ttest_1samp(per_seed, 0).pvalue)
    assert found.main.verdict == "better"
    assert [base.name for base in found.bases] == ["ms", "triplet"]
    # Of two bases neither needs a factor: the main effect has rejected that both are 0.
    for base in found.bases:
        own = stats.ttest_1samp(GAINS[base.name], 0).pvalue
        assert base.p == pytest.approx(max(own, found.main.p))  # none is surer than the gate
    assert found.consistent
    assert found.p_consistent == pytest.approx(max(base.evidence.p_t for base in found.bases) / 2)
    assert (found.missing, found.datasets) == (0, ("d",))


def test_a_closed_gate_gives_no_base_a_verdict():
    frame = results({"ms": GAINS["ms"], "triplet": [-value for value in GAINS["ms"]]})
    found = judge(declared(frame), frame, "last")
    assert found.main.verdict in ("equivalent", "inconclusive")
    assert np.isnan([base.p for base in found.bases]).all()  # not tested
    assert found.apart == ("ms", "triplet")  # opposite effects, which their mean hides
    assert [base.verdict for base in found.bases] == ["inconclusive", "inconclusive"]
    assert not found.consistent


def test_a_single_base_is_the_main_effect():
    frame = results({"ms": GAINS["ms"]})
    found = judge(declared(frame, bases=("ms",)), frame, "last")
    assert found.bases[0].p == found.main.p
    assert math.isnan(found.p_consistent)
    assert not found.consistent


def test_consistently_needs_the_main_effect():
    """Behind the gate, one-sided tests need no level of their own."""
    gains = [0.002, 0.004, -0.001, 0.003, 0.0005, 0.001]
    frame = results({"ms": gains, "triplet": gains})
    found = judge(declared(frame), frame, "last")
    assert found.p_consistent < 0.05 < found.main.p
    assert not found.consistent


def test_every_base_needs_every_declared_dataset():
    frame = results(datasets=("d", "e"))
    lacking = frame[~((frame["base"] == "triplet") & (frame["dataset"] == "e"))]
    found = judge(declared(frame), lacking, "last")
    assert (found.main, found.absent, found.datasets) == (None, ("triplet on e",), ("d", "e"))
    gone = judge(declared(frame), frame[frame["dataset"] == "d"], "last")
    assert (gone.main, gone.absent) == (None, ("ms on e", "triplet on e"))


def test_the_epoch_is_chosen_as_in_its_own_cells():
    frame = results()
    other = frame.assign(hash="other", selection="validation")
    assert judge(declared(frame), pd.concat([frame, other])).selection == "last"


def test_datasets_weigh_alike_within_a_base():
    frame = results(datasets=("d", "e"))
    found = judge(declared(frame), frame, "last")
    assert found.datasets == ("d", "e")
    assert found.main.estimate.n == 6


def test_a_seed_without_all_cells_does_not_count_and_a_base_without_results_stops_it():
    frame = results()
    lacking = frame[~((frame["method"] == "ms+psd") & (frame["seed"] == 5))]
    found = judge(declared(frame), lacking, "last")
    assert (found.main.estimate.n, found.missing) == (5, 1)
    alone = frame[frame["base"] == "ms"]
    assert judge(declared(frame), alone, "last").main is None


def test_two_seeds_have_no_verdict():
    frame = results()
    frame = frame[frame["seed"] < 2]
    found = judge(declared(frame), frame, "last")
    assert (found.main.verdict, found.consistent) == ("", False)


@pytest.mark.parametrize(
    ("p", "corrected"),
    [
        ([0.03], [0.03]),
        ([0.03, 0.04], [0.03, 0.04]),
        ([0.01, 0.02, 0.5], [0.02, 0.04, 0.5]),
        ([0.2, 0.01, 0.011, 0.012], [0.2, 0.03, 0.033, 0.033]),
    ],
)
def test_holm_after_the_gate_by_hand(p, corrected):
    assert protected_holm(p) == pytest.approx(corrected)


def test_claims_as_rows():
    frame = results()
    found = claims_frame([judge(declared(frame), frame, "last")])
    assert found["base"].tolist() == ["", "ms", "triplet"]
    assert found["verdict"].tolist() == ["better"] * 3
    assert found["consistent"].tolist() == [True, "", ""]
    assert found["n"].tolist() == [6] * 3
    # Of two bases none needs a stricter level than .05: the main effect has rejected that both are 0.
    assert found["detectable"].tolist() == pytest.approx([detectable(std, 6) for std in found["std"]])
    ms = found.iloc[1]
    assert ms["all_low"] < ms["low"] < ms["mean"] == pytest.approx(np.mean(GAINS["ms"]))


def test_several_bases_need_a_stricter_level():
    gains = dict.fromkeys(("ms", "triplet"), GAINS["ms"])
    frame = results(gains)
    third = frame[frame["base"] == "ms"].assign(base="margin")
    third = third.assign(hash="margin" + third["hash"], method=third["method"].str.replace("ms", "margin"))
    frame = pd.concat([frame, third], ignore_index=True)
    found = claims_frame([judge(declared(frame, bases=("ms", "triplet", "margin")), frame, "last")])
    std = found["std"][1]
    assert found["detectable"][1] == pytest.approx(detectable(std, 6, 0.025))
    assert found["seeds_needed"][1] >= found["seeds_needed"][0]


def test_a_claim_without_results_has_no_rows():
    frame = results()
    lacking = frame[frame["base"] == "ms"]
    assert claims_frame([judge(declared(frame), lacking, "last")]).empty
