"""Training time of methods against their reference, a modified method's base, from the phase clock of ordinary runs.

The step times are those that training wrote down. Runs may have shared their machine, so this is a first reading,
not an isolated measurement with the two methods interleaved in one process.

Interleaved overhead: ratios of a method's step to its base's in the same round, with intervals.

Each process gives a median over its rounds; the interval is Student's over processes, on
logarithms; of a single one it is the bootstrap's over its rounds, which does not know how far processes differ.
"""

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from statistics import median

import pandas as pd

from dmlbench.analysis.groups import DEFAULT, GROUP, METHOD, OTHER, Against, done, paired, slug
from dmlbench.analysis.statistics import Estimate, log_ratio_interval, median_interval
from dmlbench.results.frames import ENSEMBLE, MEAN
from dmlbench.results.measurements import UNFOLDED_MARK, Measured, Measurement
from dmlbench.specs.overrides import Settings

KEYS = [*GROUP, *METHOD]
TOTALS = ("time/train_s", "time/evaluation_s")
CAVEAT = (
    "From the phase clock of ordinary runs, without the wait for data; they may have shared their machine, so it is a "
    "first reading, not an isolated, interleaved measurement."
)


def step_time_pairs(results: pd.DataFrame, against: Against = DEFAULT) -> pd.DataFrame:
    """Step times (ms) of every method and of its reference, per seed, with the machine of each.

    Args:
        results: As `load_results` returns them.
        against: What the reference is.

    Returns:
        One row per seed that both have: `KEYS`, `OTHER`, seed, marks; step_ms, machine, exclusive, and those of the
        reference (`step_ms_to`, ...).
    """
    # The mean of several networks, like their ensemble, takes the training of all; a single one has no time of its own.
    cells = done(results).drop_duplicates(["folder", "network"])
    cells = cells[cells["network"].isin([MEAN, ENSEMBLE])]
    cells = cells.assign(machine=cells["machine"].fillna("")).dropna(subset=["step_ms"])
    timed = ["step_ms", "machine", "exclusive"]
    names = [*KEYS, *OTHER, "seed", "marks", *timed, *(f"{name}_to" for name in timed)]
    pairs: pd.DataFrame = paired(cells, [], timed, against)[names]
    return pairs


def overhead(results: pd.DataFrame, against: Against = DEFAULT) -> pd.DataFrame:
    """Ratio of a method's step time to its reference's of the same group, seed and machine, where both had it alone.

    Args:
        results: As `load_results` returns them.
        against: What the reference is.

    Returns:
        One row per method with a reference: `KEYS`, `OTHER`, marks, mean (geometric), low, high (95% t-interval on
        logarithms) and n of the ratio; step_ms and step_ms_to, the geometric means in milliseconds; `other_machine`,
        the number of pairs left out because the two ran on different machines, or during another runner's cells.
    """
    keys = [*KEYS, *OTHER]
    columns = [*keys, "marks", "mean", "low", "high", "n", "step_ms", "step_ms_to", "other_machine"]
    rows = []
    for key, pairs in step_time_pairs(results, against).groupby(keys, sort=False):
        alone = (pairs["exclusive"] & pairs["exclusive_to"]).astype(bool)
        here = pairs[(pairs["machine"] == pairs["machine_to"]) & alone].set_index("seed")
        ratio = asdict(log_ratio_interval(here["step_ms"], here["step_ms_to"]))
        times = {name: _geometric_mean(here[name]) for name in ("step_ms", "step_ms_to")}
        dropped = {"other_machine": len(pairs) - len(here), "marks": pairs["marks"].iloc[0]}
        rows.append(dict(zip(keys, key, strict=True)) | ratio | times | dropped)
    return pd.DataFrame(rows, columns=columns)


def phase_times(history: pd.DataFrame) -> pd.DataFrame:
    """Where a training step's time goes: milliseconds a step in each phase of the clock.

    A seed's value is the median over its epochs from the second, for the first warms up. The number of steps of an
    epoch follows from its step time, which is the sum of all phases but the wait for data.

    Args:
        history: Rows of `load_history`.

    Returns:
        One row per phase, in the order of a step: `KEYS`, phase, ms (mean over seeds), n (seeds).
    """
    kept = [
        name for name in map(str, history) if name.startswith("time/") and name.endswith("_s") and name not in TOTALS
    ]
    trained = history[history["epoch"] > 1]
    if trained.empty or not kept:
        return pd.DataFrame(columns=[*KEYS, "phase", "ms", "n"])
    steps = 1000 * trained[[name for name in kept if name != "time/data_s"]].sum(axis=1) / trained["time/step_ms"]
    per_step = trained[kept].mul(1000).div(steps, axis=0)
    per_step.columns = [name.removeprefix("time/").removesuffix("_s") for name in kept]
    long = trained[[*KEYS, "seed"]].join(per_step).melt([*KEYS, "seed"], var_name="phase", value_name="ms")
    seeds = long.dropna(subset=["ms"]).groupby([*KEYS, "phase", "seed"], sort=False)["ms"].median()
    return (
        seeds.groupby([*KEYS, "phase"], sort=False)
        .agg(["mean", "count"])
        .reset_index()
        .rename(columns={"mean": "ms", "count": "n"})
    )


def _geometric_mean(times: pd.Series) -> float:
    return log_ratio_interval(times, pd.Series(1.0, index=times.index)).mean


COLUMNS = [
    *METHOD, *OTHER, "marks", "mean", "low", "high", "n", "step_ms", "step_low", "step_high",
    "step_ms_to", "added", "added_low", "added_high", "same_work", "over_training", "arithmetic", "images_per_s",
    "peak_mb", "memory",
]  # fmt: skip
MEASURED = ["protocol", "variant", "dataset", "device", "started"]
SAME_ON_GPU = 0.02
ADDED = ("teacher", "distillation")
SAME_WORK = ("forward", "loss", "optimiser")  # of a method and of its base; going back, a method has more to do
NOTHING = Estimate(math.nan, math.nan, math.nan, 0)
NOISE = 0.02  # a difference in the time of the same work that is worth a word


@dataclass(frozen=True)
class Agreement:
    """Two measurements of one method on one machine: the ratio of each, and whether they agree.

    On a CPU they do where their intervals overlap, on a GPU where they differ by no more than 2%. `before` is when the
    earlier one was started.
    """

    method: str
    before: str
    earlier: Estimate
    later: Estimate
    agree: bool


def by_setup(measurements: Sequence[Measurement]) -> list[list[Measurement]]:
    """Measurements of the same methods with the same setup together, the oldest first."""
    by_place: dict[tuple[str, ...], list[Measurement]] = {}
    for measurement in measurements:
        by_place.setdefault(_contents(measurement), []).append(measurement)
    return list(by_place.values())


def measured_overhead(measurement: Measurement, against: Against = DEFAULT) -> pd.DataFrame:
    """Every method's cost relative to its reference's: a modified method's base, and for a base the first one.

    Args:
        measurement: What was measured.
        against: Names another reference for all methods, where it was measured, too.

    Returns:
        One row per method: `METHOD`, `OTHER` (its own of the first base), marks; `mean` (the median over rounds; of
        several processes the geometric mean of their medians), low, high (its 95% interval) and n (processes, or the
        rounds of a single one) of the ratio to the reference in the same round; `step_ms` with its interval `step_low`,
        `step_high`, and `step_ms_to`, in milliseconds; `added` with its interval, the phases that a base has not over
        the reference's step; `same_work`, the time of the phases in which both do the same over the reference's, which
        an undisturbed machine would make 1 (both NaN for a method without a teacher, which does more in the phases that
        the base has, too); `over_training`, the ratio over all epochs of the protocol, the first without a teacher;
        `arithmetic`, the ratio of the floating-point operations; `images_per_s`; `peak_mb` in MiB, and `memory`, its
        ratio to the reference's.
    """
    rows = [_row(name, method, measurement, against) for name, method in measurement.methods.items()]
    return pd.DataFrame(rows, columns=COLUMNS)


def reference_in(measurement: Measurement, name: str, against: Against = DEFAULT) -> str:
    """The name of the method that one is compared with in a measurement; its own where there is no other."""
    if against.method in measurement.methods:
        return against.method
    method = measurement.methods[name]
    return method.base if method.modifier else next(own for own, its in measurement.methods.items() if not its.modifier)


def measured_frame(measurements: Sequence[Measurement]) -> pd.DataFrame:
    """`measured_overhead` of every measurement, with protocol, variant, dataset, device and started in front."""
    frames = []
    for measurement in measurements:
        own = measured_overhead(measurement)
        frames.append(own.assign(**{name: getattr(measurement, name) for name in MEASURED})[[*MEASURED, *COLUMNS]])
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=[*MEASURED, *COLUMNS])


def measured_phases(measurement: Measurement) -> pd.DataFrame:
    """Where a step's time goes: `METHOD`, phase, ms (median over all rounds), n (rounds).

    What the phases do not cover, the host's own work between them, is the phase `other`.
    """
    rows = []
    for name, method in measurement.methods.items():
        rest = [total - sum(values) for total, *values in zip(method.step_ms, *method.phases_ms.values(), strict=True)]
        for phase, values in {**method.phases_ms, "other": rest}.items():
            rows.append(_named(name, method) | {"phase": phase, "ms": max(median(values), 0.0), "n": len(values)})
    return pd.DataFrame(rows, columns=[*METHOD, "phase", "ms", "n"])


def phase_order(phases: pd.DataFrame) -> list[str]:
    """The phases of all methods in the order of a step: that of the method with the most of them."""
    by_method = [list(own["phase"]) for _, own in phases.groupby("method", sort=False)]
    longest = max(by_method, key=len, default=[])
    return list(dict.fromkeys([*longest, *phases["phase"]]))


def agreements(earlier: Sequence[Measurement], later: Measurement) -> list[Agreement]:
    """Every modified method beside the latest of the earlier measurements with the same setup that holds it, if any.

    Other sources and other versions of PyTorch may well cost something else: those are no repetitions.
    """
    same = [one for one in earlier if (_place(one), _made_by(one)) == (_place(later), _made_by(later))]
    found = []
    for name, method in later.methods.items():
        before = [one for one in same if name in one.methods]
        if method.modifier and before:
            found.append(_agreement(name, before[-1], later))
    return found


def doubts(measurement: Measurement) -> list[str]:
    """What speaks against taking a measurement's ratios for the methods' own, a sentence each."""
    found = []
    for row in measured_overhead(measurement).to_dict("records"):
        if not row["modifier"]:
            continue
        if row["high"] < 1 <= row["arithmetic"]:
            found.append(
                f"{row['method']}: its interval lies below 1, though it computes no less than its base: noise of the "
                "machine, not a gain."
            )
        if abs(row["same_work"] - 1) > NOISE:
            found.append(
                f"{row['method']}: {', '.join(SAME_WORK)}, the same work as its base's, took {row['same_work']:.3f} of "
                "the base's time: that much of the ratio may be the machine's."
            )
    return found


def measurement_slug(measurement: Measurement) -> str:
    """A name for files and anchors, the same for all measurements of the same methods with the same setup alone."""
    parts = (measurement.protocol, measurement.dataset, measurement.device)
    own = hashlib.sha256("|".join(_contents(measurement)).encode()).hexdigest()[:6]
    return "_".join(["cost", *(slug(part) for part in parts), own])


def _contents(measurement: Measurement) -> tuple[str, ...]:
    return *_place(measurement), *sorted(measurement.methods)


def _place(measurement: Measurement) -> tuple[str, ...]:
    """What is measured, but for the methods, and on which machine."""
    machine = str(measurement.environment.machine), str(measurement.environment.device)
    return measurement.protocol, measurement.variant, measurement.protocol_hash, measurement.dataset, *machine


def _made_by(measurement: Measurement) -> tuple[str, ...]:
    return measurement.code.digest, str(measurement.environment.torch)


def _agreement(name: str, earlier: Measurement, later: Measurement) -> Agreement:
    one, other = _ratio(name, earlier), _ratio(name, later)
    on_gpu = bool(later.environment.gpu)
    overlap = one.low <= other.high and other.low <= one.high
    close = abs(one.mean / other.mean - 1) <= SAME_ON_GPU
    return Agreement(name, earlier.started, one, other, close if on_gpu else overlap)


def _row(name: str, method: Measured, measurement: Measurement, against: Against) -> dict[str, object]:
    other = reference_in(measurement, name, against)
    base, step = measurement.methods[other], _of(method.step_ms, measurement)
    ratio = _over(method.step_ms, base.step_ms, measurement)
    has_teacher, epochs = "teacher" in method.phases_ms, measurement.epochs
    added = _over(_sum(method, ADDED), base.step_ms, measurement) if has_teacher else NOTHING
    # Without a teacher, the extra work is in phases that the base has, too: further networks, or further parameters.
    same = _over(_sum(method, SAME_WORK), _sum(base, SAME_WORK), measurement) if has_teacher else NOTHING
    return (
        _named(name, method)
        | {f"to_{key}": value for key, value in _named(other, base).items()}
        | asdict(ratio)
        | {
            "marks": "; ".join(method.marks),
            "step_ms": step.mean,
            "step_low": step.low,
            "step_high": step.high,
            "step_ms_to": _of(base.step_ms, measurement).mean,
            "added": added.mean,
            "added_low": added.low,
            "added_high": added.high,
            "same_work": same.mean,
            # In the first epoch there is no teacher; a method without one costs the same in every epoch.
            "over_training": 1 + (ratio.mean - 1) * (epochs - 1) / epochs if has_teacher else ratio.mean,
            "arithmetic": method.gflop / base.gflop,
            "images_per_s": 1000 * measurement.batch_size / step.mean,
            "peak_mb": method.peak_mb,
            "memory": method.peak_mb / base.peak_mb,
        }
    )


def _named(name: str, method: Measured) -> dict[str, object]:
    """The columns `METHOD` of a method that was measured."""
    settings = Settings(("unfolded",) if UNFOLDED_MARK in method.marks else ())
    own = {"method": name, "base": method.base, "modifier": method.modifier_name, "network": MEAN, "tuned": False}
    return own | {"base_settings": Settings(), "modifier_settings": settings}


def _ratio(name: str, measurement: Measurement) -> Estimate:
    method = measurement.methods[name]
    return _over(method.step_ms, measurement.methods[method.base].step_ms, measurement)


def _sum(method: Measured, phases: Iterable[str]) -> list[float]:
    """The time of several phases in every round; 0 where the method has none of them."""
    nothing = (0.0,) * len(method.step_ms)
    return [sum(times) for times in zip(*(method.phases_ms.get(phase, nothing) for phase in phases), strict=True)]


def _over(times: Sequence[float], base: Sequence[float], measurement: Measurement) -> Estimate:
    return _of([own / its if its else math.nan for own, its in zip(times, base, strict=True)], measurement)


def _of(values: Sequence[float], measurement: Measurement) -> Estimate:
    """An estimate of a value per round, of all processes; NaN where it is nothing at all."""
    if not min(values) > 0:
        return NOTHING
    if measurement.processes == 1:
        return median_interval(values)
    rounds = measurement.rounds
    medians = pd.Series([median(values[at : at + rounds]) for at in range(0, len(values), rounds)])
    return log_ratio_interval(medians, pd.Series(1.0, index=medians.index))
