"""What `dmlbench overhead` prints: costs, phases, and whether an earlier measurement agrees."""

import math
from collections.abc import Sequence

import pandas as pd
from rich.console import Console
from rich.table import Table

from dmlbench.analysis.measured import agreements, doubts, measured_overhead, measured_phases, phase_order
from dmlbench.measurement import Measurement


def print_costs(console: Console, measurement: Measurement) -> None:
    """A row a method with its step, its ratio and its memory; then the phases of its step."""
    costs = measured_overhead(measurement)
    console.print(f"\n{measurement.title}; batch {measurement.batch_size}", markup=False)
    columns = ("method", "step (ms)", "ratio to base", "added phases", "same work", f"over {measurement.epochs} epochs")
    table = Table(*columns, "arithmetic", "images/s", "peak (MiB)", box=None)
    for row in costs.to_dict("records"):
        modified = bool(row["modifier"])
        ratio = f"{row['mean']:.3f} [{row['low']:.3f}, {row['high']:.3f}]" if modified else ""
        keys = ("added", "same_work", "over_training", "arithmetic")
        rest = ("" if not modified or math.isnan(row[key]) else f"{row[key]:.3f}" for key in keys)
        figures = f"{row['images_per_s']:.0f}", f"{row['peak_mb']:.0f}"
        table.add_row(row["method"], f"{row['step_ms']:.2f}", ratio, *rest, *figures)
    console.print(table)
    console.print(f"{measurement.how}; a ratio is formed within a round", markup=False)
    console.print(
        "with a teacher, added phases: it and distillation over the base's step; same work: forward, loss and "
        "optimiser over the base's, 1 but for noise"
    )
    console.print(_phases(measured_phases(measurement)))
    for doubt in doubts(measurement):
        console.print(f"note: {doubt}", markup=False, style="yellow")


def print_agreement(console: Console, measurement: Measurement, earlier: Sequence[Measurement]) -> None:
    """Whether the latest of the earlier ones of each method, by the same code on the same machine, says the same."""
    for found in agreements(earlier, measurement):
        verdict = "agrees" if found.agree else "DISAGREES"
        ratios = f"{found.earlier.mean:.3f} [{found.earlier.low:.3f}, {found.earlier.high:.3f}]"
        console.print(f"{found.method}: {verdict} with {ratios} of {found.before}", markup=False)


def _phases(phases: pd.DataFrame) -> Table:
    names = phase_order(phases)
    table = Table("phase (ms)", *names, box=None)
    for method, own in phases.groupby("method", sort=False):
        by_phase = dict(zip(own["phase"], own["ms"], strict=True))
        table.add_row(str(method), *(f"{by_phase[name]:.2f}" if name in by_phase else "" for name in names))
    return table
