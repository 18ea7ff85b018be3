"""What a method costs.

What methods cost, measured interleaved.
"""

import math
from collections.abc import Sequence

import pandas as pd

from dmlbench.analysis.costs import CAVEAT, Agreement
from dmlbench.analysis.groups import Group, in_order
from dmlbench.reporting.naming import plain
from dmlbench.reporting.tables.table import Entry, Table, few_seeds, interval_of, number, other_machines
from dmlbench.results.measurements import Measurement


def overhead_table(group: Group, overhead: pd.DataFrame) -> Table:
    """Every method's step time, its reference's, and their ratio."""
    rows = []
    mine = in_order(group.of(overhead))
    for row in mine.to_dict("records"):
        times = [number(row[name], plain) for name in ("step_ms", "step_ms_to")]
        ratio = number(row["mean"], plain, interval_of(row, plain))
        rows.append(
            (
                Entry(row["name"]),
                Entry(row["to_name"]),
                *times,
                ratio,
                number(row["n"], "{:.0f}".format),
                Entry(row["marks"]),
            )
        )
    return Table(
        f"overhead_{group.slug}",
        f"Training-time overhead on {group.title}",
        ("Method", "Against", "Step (ms)", "Its step (ms)", "Ratio", "Pairs", "Marks"),
        tuple(rows),
        ("Geometric means over seeds [95% t-interval].", CAVEAT, *other_machines(mine), *few_seeds(mine)),
    )


WITH_TEACHER = (
    "With a teacher, added phases: it and distillation over the reference's step; same work: forward pass, loss and "
    "optimiser over the reference's, 1 but for the machine's noise."
)
IDEAL = (
    "Arithmetic: ratio of the multiplications and additions, all that an ideal machine would take. Peak: weights, "
    "gradients, optimiser, teacher, activations."
)
TURNS = "All methods take turns in one process, and a ratio is formed within a round."


def measured_table(
    title: str,
    slug: str,
    measurement: Measurement,
    costs: pd.DataFrame,
    *,
    found: Sequence[Agreement] = (),
    notes: Sequence[str] = (),
) -> Table:
    """Every method's step, its ratio to its base's, its memory, and what theory says.

    Args:
        title: Of what it is measured.
        slug: Of its files.
        measurement: The measurement.
        costs: `measured.measured_overhead` of it.
        found: Whether an earlier measurement agrees.
        notes: What else is to be said of it.
    """
    rows = []
    for row in in_order(costs).to_dict("records"):
        step = number(row["step_ms"], plain, f"[{plain(row['step_low'])}, {plain(row['step_high'])}]")
        ratios = [Entry("")] * 6
        if row["to_name"] != row["name"]:
            ratio = number(row["mean"], _ratio, f"[{_ratio(row['low'])}, {_ratio(row['high'])}]")
            teacher = [Entry("")] * 2
            if not math.isnan(row["added"]):
                added = number(row["added"], _ratio, f"[{_ratio(row['added_low'])}, {_ratio(row['added_high'])}]")
                teacher = [added, number(row["same_work"], _ratio)]
            ratios = [
                Entry(row["to_name"]),
                ratio,
                *teacher,
                *(number(row[name], _ratio) for name in ("over_training", "arithmetic")),
            ]
        rest = number(row["images_per_s"], "{:.0f}".format), number(row["peak_mb"], "{:.0f}".format)
        rows.append((Entry(row["name"]), step, *ratios, *rest, Entry(row["marks"])))
    return Table(
        f"measured_{slug}",
        f"Cost of a training step, {title}",
        ("Method", "Step (ms)", "Against", "Ratio", "Added phases", "Same work", f"Over {measurement.epochs} epochs",
         "Arithmetic", "Images/s", "Peak (MiB)", "Marks"),
        tuple(rows),
        (*_notes(measurement), *_agreement(found), *notes),
    )  # fmt: skip


def _notes(measurement: Measurement) -> list[str]:
    how = f"{measurement.how[0].upper()}{measurement.how[1:]}"
    return [
        f"{how}; batches of {measurement.batch_size}. {TURNS}",
        f"{WITH_TEACHER} Over {measurement.epochs} epochs: the first has no teacher. {IDEAL}",
    ]


def _agreement(found: Sequence[Agreement]) -> list[str]:
    if not found:
        return []
    said = "; ".join(f"{one.method} {_before(one)}{'' if one.agree else ', does not agree'}" for one in found)
    return [f"The measurement before, by the same code on this machine: {said}."]


def _before(one: Agreement) -> str:
    return f"{_ratio(one.earlier.mean)} [{_ratio(one.earlier.low)}, {_ratio(one.earlier.high)}]"


def _ratio(value: float) -> str:
    return f"{value:.3f}"
