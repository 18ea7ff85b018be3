from dataclasses import replace

import numpy as np
import pytest

from dmlbench.analysis.costs import (
    agreements,
    by_setup,
    doubts,
    measured_frame,
    measured_overhead,
    measured_phases,
    measurement_slug,
    phase_order,
)
from dmlbench.analysis.statistics import median_interval
from dmlbench.results.records import Code
from tests.fake_measurements import ENVIRONMENT, RATIOS, make_measurement


def test_ratios_are_found_though_rounds_are_slowed_three_times():
    costs = measured_overhead(make_measurement(rounds=40)).set_index("method")
    for name, ratio in RATIOS.items():
        assert costs.loc[name, "mean"] == pytest.approx(ratio, rel=0.01)
        assert costs.loc[name, "low"] <= costs.loc[name, "mean"] <= costs.loc[name, "high"]
        assert costs.loc[name, "high"] - costs.loc[name, "low"] < 0.03
    assert costs.loc["ms", ["mean", "low", "high"]].tolist() == [1.0, 1.0, 1.0]
    assert (costs["step_high"] / costs["step_low"] > 1.1).all()  # the steps themselves are not known so well


def test_what_follows_from_a_ratio():
    measurement = make_measurement({"ms": 1.0, "ms+psd": 1.4}, noise=0.0)
    row = measured_overhead(measurement).set_index("method").loc["ms+psd"]
    assert row["mean"] == pytest.approx(1.4)
    assert row["over_training"] == pytest.approx(1 + 0.4 * 19 / 20)  # 20 epochs, the first without a teacher
    assert row["arithmetic"] == pytest.approx(1.4)
    assert row["memory"] == pytest.approx(1.4)
    assert row["images_per_s"] == pytest.approx(112_000 / row["step_ms"])


def test_phases_and_what_none_covers():
    phases = measured_phases(make_measurement(noise=0.0))
    step = measured_overhead(make_measurement(noise=0.0)).set_index("method")["step_ms"]
    psd = phases[phases["method"] == "ms+psd"].set_index("phase")["ms"] / step["ms+psd"]
    forward = 0.4 / RATIOS["ms+psd"]  # the same work as the base's
    expected = {"forward": forward, "backward": 0.5, "teacher": 0.05, "other": 0.45 - forward}
    assert psd.to_dict() == pytest.approx(expected)
    assert phase_order(phases) == ["forward", "backward", "teacher", "other"]


def test_several_processes_give_an_interval_that_knows_how_far_they_differ():
    """What the rounds of one process tell is narrower by far where processes differ, and covers less than it says."""
    covered = {1: 0, 5: 0}
    for seed in range(120):
        for processes in covered:
            measurement = make_measurement(
                {"ms": 1.0, "ms+psd": 1.3}, processes=processes, rounds=10, apart=0.03, noise=0.01, seed=seed
            )
            row = measured_overhead(measurement).set_index("method").loc["ms+psd"]
            covered[processes] += row["low"] <= 1.3 <= row["high"]
            assert row["n"] == (10 if processes == 1 else processes)
    assert covered[5] / 120 == pytest.approx(0.95, abs=0.06)
    assert covered[1] / 120 < 0.5


def test_a_processes_rounds_are_its_own():
    """The median of each of two processes, not of all rounds."""
    measurement = make_measurement({"ms": 1.0, "ms+psd": 1.0}, processes=2, rounds=3, noise=0.0)
    base = replace(measurement.methods["ms"], step_ms=(1.0,) * 6)
    psd = replace(measurement.methods["ms+psd"], step_ms=(1.0, 4.0, 1.0, 4.0, 1.0, 4.0))
    row = measured_overhead(replace(measurement, methods={"ms": base, "ms+psd": psd})).set_index("method").loc["ms+psd"]
    assert row["mean"] == pytest.approx(2.0)  # the geometric mean of 1 and 4


def test_added_phases_and_those_of_the_same_work():
    costs = measured_overhead(make_measurement(noise=0.0)).set_index("method")
    assert costs.loc["ms+psd", "added"] == pytest.approx(0.05 * 1.3)
    assert costs.loc["ms+psd", "same_work"] == pytest.approx(1.0)
    assert np.isnan(costs.loc["ms", "added"])


def test_doubts_are_told():
    assert doubts(make_measurement()) == []
    (gain,) = doubts(make_measurement({"ms": 1.0, "ms+psd-mem": 0.9}, arithmetic={"ms+psd-mem": 1.001}))
    assert gain.startswith("ms+psd-mem: its interval lies below 1")
    measurement = make_measurement()
    psd = measurement.methods["ms+psd"]
    slowed = replace(psd, phases_ms=psd.phases_ms | {"forward": tuple(1.05 * ms for ms in psd.phases_ms["forward"])})
    (noise,) = doubts(replace(measurement, methods=measurement.methods | {"ms+psd": slowed}))
    assert noise.startswith("ms+psd: forward, loss, optimiser, the same work as its base's, took 1.05")


def test_measurements_of_one_machine_and_protocol_belong_together():
    one, again = make_measurement(), make_measurement(seed=1, started="2026-02-01T00:00:00+00:00")
    other = make_measurement(environment=ENVIRONMENT.model_copy(update={"machine": "def"}))
    changed = make_measurement(protocol_hash="89ab")
    few = make_measurement({"ms": 1.0, "ms+psd": 1.3})
    assert by_setup([one, other, changed, few, again]) == [[one, again], [other], [changed], [few]]
    assert len({measurement_slug(measurement) for measurement in (one, again, other, changed, few)}) == 4


def test_two_measurements_agree_on_a_cpu_where_intervals_overlap():
    one, again, slower = (make_measurement({"ms": 1.0, "ms+psd": r}, seed=s) for s, r in enumerate((1.3, 1.3, 1.4)))
    (found,) = agreements([one], again)
    assert found.agree
    assert found.method == "ms+psd"
    (found,) = agreements([one], slower)
    assert not found.agree


def test_two_measurements_agree_on_a_gpu_within_two_percent():
    gpu = {"environment": ENVIRONMENT.model_copy(update={"gpu": "Big"}), "noise": 0.0}
    one, near, far = (make_measurement({"ms": 1.0, "ms+psd": ratio}, **gpu) for ratio in (1.30, 1.32, 1.34))
    assert agreements([one], near)[0].agree
    assert not agreements([one], far)[0].agree


def test_every_measurement_in_one_table():
    frame = measured_frame([make_measurement(), make_measurement(dataset="cub")])
    assert len(frame) == 2 * len(RATIOS)
    assert list(frame.columns[:5]) == ["protocol", "variant", "dataset", "device", "started"]
    assert measured_frame([]).empty
    assert list(measured_frame([]).columns) == list(frame.columns)


def test_the_interval_of_a_median_covers_it():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(1000):
        found = median_interval(rng.lognormal(0, 0.3, 30))
        covered += found.low <= 1.0 <= found.high
    assert abs(covered / 1000 - 0.95) < 0.025


def test_the_median_leaves_outliers_alone():
    found = median_interval([1.0] * 18 + [50.0, 80.0])
    assert (found.mean, found.low, found.high) == (1.0, 1.0, 1.0)


def test_one_value_has_no_interval():
    assert np.isnan(median_interval([1.0]).low)
    assert np.isnan(median_interval([]).mean)


def test_each_method_is_compared_with_the_latest_repetition_that_holds_it():
    both, few, later = (
        make_measurement({"ms": 1.0} | ratios, started=f"2026-01-0{day}T00:00:00+00:00")
        for day, ratios in enumerate(
            ({"ms+psd": 1.3, "ms+obdsd": 1.3}, {"ms+psd": 1.3}, {"ms+psd": 1.3, "ms+obdsd": 1.4}), start=1
        )
    )
    found = {one.method: one for one in agreements([both, few], later)}
    assert found["ms+psd"].before == few.started
    assert found["ms+obdsd"].before == both.started
    assert (found["ms+psd"].agree, found["ms+obdsd"].agree) == (True, False)


@pytest.mark.parametrize(
    "other", [{"code": Code(digest="other")}, {"environment": ENVIRONMENT.model_copy(update={"torch": "9.9"})}]
)
def test_other_code_is_no_repetition(other):
    assert agreements([make_measurement(**other)], make_measurement()) == []
    assert agreements([make_measurement()], make_measurement())
