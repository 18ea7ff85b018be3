"""The comparison that `dmlbench run` ends with: one table per protocol and dataset."""

from collections.abc import Callable

import pandas as pd
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from dmlbench.analysis.comparisons import comparisons, seed_pairs, star, to_base
from dmlbench.analysis.costs import overhead
from dmlbench.analysis.estimates import SELECTIONS, accuracy, seed_values
from dmlbench.analysis.groups import Group, check_unambiguous, groups, in_order
from dmlbench.reporting.naming import named, percent, plain, points
from dmlbench.reporting.tables.table import about_pairs, few_seeds, mark_signs, other_machines, signed, without_base
from dmlbench.results.frames import UNTRAINED

COLUMNS = ("method", "R@1", "n", "to base", "MAP@R", "time")


def comparison(results: pd.DataFrame, selection: str = "last") -> list[RenderableType]:
    """Tables of R@1 with its interval, the difference to the base, MAP@R and the step time's ratio to the base's.

    Args:
        results: As `load_results` returns them, or part of it.
        selection: How the epoch was chosen, a key of `SELECTIONS`.

    Returns:
        What a rich console prints: for every group a table and how to read it. Empty where no cell finished.

    Raises:
        UserError: where results that may not be mixed would be.
    """
    check_unambiguous(results)
    values = named(seed_values(results))
    values = values[values["selection"].isin([UNTRAINED, selection])]
    pairs = to_base(seed_pairs(values))
    means, paired, times = map(named, (accuracy(values), comparisons(pairs, values), overhead(results)))
    return [
        part
        for group in groups(values)
        for part in _group(
            group,
            selection,
            *(group.of(frame) for frame in (means, paired, times)),
            unpaired=about_pairs(group.of(values)),
        )
    ]


def _group(
    group: Group,
    selection: str,
    means: pd.DataFrame,
    paired: pd.DataFrame,
    times: pd.DataFrame,
    *,
    unpaired: list[str],
) -> list[RenderableType]:
    # Titles and names are Text, not markup: a name in square brackets is a name.
    title = Text(f"{group.title}: {SELECTIONS[selection]}", style="bold")
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="dim")
    for column in COLUMNS:
        table.add_column(column, justify="left" if column == "method" else "right", no_wrap=column == "method")
    signs = mark_signs(means["marks"])
    for method in in_order(means.drop_duplicates("name")).to_dict("records"):
        own = [frame[frame["name"] == method["name"]] for frame in (means, paired, times)]
        table.add_row(*map(Text, _cells(method["name"], signed(method["marks"], signs), *own)))
    notes = [
        f"{SELECTIONS[selection].capitalize()}. R@1 and MAP@R in %; n: seeds; [low, high]: 95% t-interval over seeds.",
        "to base: R@1 minus the base's, paired by seed, in points.",
        "*: p below .05 (paired t-test, Holm over this table).",
    ]
    notes += (
        ["time: step time over the base's, in ordinary runs that may have shared the machine."] if len(times) else []
    )
    notes += [f"{sign}: {mark}." for mark, sign in signs.items()]
    notes += [*few_seeds(means[means["name"] != UNTRAINED]), *without_base(means, paired)]
    notes += [*unpaired, *other_machines(times)]
    return [table, Text("\n".join(notes), style="dim"), Text("")]


def _cells(method: str, letters: str, means: pd.DataFrame, paired: pd.DataFrame, times: pd.DataFrame) -> list[str]:
    recall = means[means["metric"] == "recall_at_1"]
    precision = means[means["metric"] == "map_at_r"]
    seeds = int(recall["n"].max()) if len(recall) else 0
    differs = paired[paired["metric"] == "recall_at_1"]
    slower = times.loc[times["n"] > 0, "mean"]
    return [
        f"{method} ({letters})" if letters else method,
        _estimate(recall, percent, seeds),
        str(seeds) if seeds else "–",
        _estimate(differs, points, seeds, "".join(map(star, differs["p_holm"]))),
        f"{percent(precision['mean'].iloc[0])}{_other_n(precision, seeds)}" if len(precision) else "–",
        f"{plain(slower.iloc[0])}×" if len(slower) else "",
    ]


def _other_n(rows: pd.DataFrame, seeds: int) -> str:
    n = int(rows["n"].iloc[0])
    return f" n={n}" if n != seeds else ""


def _estimate(rows: pd.DataFrame, write: Callable[[float], str], seeds: int, sign: str = "") -> str:
    if rows.empty:
        return ""
    row = rows.iloc[0]
    # No space inside: on a narrow terminal the interval goes to the next line whole.
    interval = f" [{write(row['low'])},{write(row['high'])}]" if row["n"] > 1 else ""
    return write(row["mean"]) + sign + interval + _other_n(rows, seeds)
