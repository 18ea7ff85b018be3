"""What stands below a table: what cannot be concluded, what was left out and why, and letters for marks."""

import itertools
import string
from collections.abc import Iterable, Iterator

import pandas as pd

from dmlbench.analysis.comparisons import other_kinds, other_origins
from dmlbench.analysis.statistics import FEWEST, smallest_p
from dmlbench.analysis.tuning import unequal_trials
from dmlbench.readouts import is_of_one_member
from dmlbench.report.naming import p_value


def few_seeds(estimates: pd.DataFrame) -> list[str]:
    """A warning that names the methods with fewer than `FEWEST` seeds, if there are any."""
    counts = estimates.groupby("method", sort=False)["n"].max()
    few = [f"{method} ({n})" for method, n in counts.items() if n < FEWEST]
    return [f"Fewer than {FEWEST} seeds, so nothing can be concluded from: {', '.join(few)}."] if few else []


def few_pairs(compared: pd.DataFrame) -> list[str]:
    """A warning that names the comparisons of fewer than `FEWEST` pairs, if there are any."""
    rows = compared[compared["n"] < FEWEST].to_dict("records")
    few = [f"{row['method']} against {row['to']} ({row['n']})" for row in rows]
    return [f"Fewer than {FEWEST} pairs, so nothing can be concluded from: {', '.join(few)}."] if few else []


def reach(compared: pd.DataFrame) -> list[str]:
    """What the sign-flip test can reach at most with the numbers of pairs that were tested."""
    tested = sorted({int(n) for n in compared["n"] if n >= FEWEST})
    found = [f"{p_value(smallest_p(n))} with {n} pairs" for n in tested]
    if not found:
        return []
    below = [n for n in tested if smallest_p(n) >= 0.05]
    why = " Six pairs are the fewest with which it can fall below .05." if below else ""
    return [f"The smallest p that the sign-flip test can reach: {', '.join(found)}.{why}"]


def without_base(accuracy: pd.DataFrame, differences: pd.DataFrame) -> list[str]:
    """A note that names the modified methods whose base has no result with the same seed, if there are any."""
    modified = accuracy.loc[accuracy["modifier"] != "", "method"].unique()
    compared = set(differences["method"])
    alone = [method for method in modified if method not in compared and not is_of_one_member(method)]
    return (
        [f"No result of the base with the same seed among these, so no difference for: {', '.join(alone)}."]
        if alone
        else []
    )


def other_machines(overhead: pd.DataFrame) -> list[str]:
    """A note on the pairs that ran on two machines and form no ratio, if there are any."""
    dropped = overhead[overhead["other_machine"] > 0]
    named = [f"{row.method} ({row.other_machine})" for row in dropped.itertuples()]
    why = "the two ran on different machines or under different loads, or one beside another run's cells"
    return [f"Pairs whose times form no ratio because {why}: {', '.join(named)}."] if named else []


def other_starts(values: pd.DataFrame) -> list[str]:
    """A note on the seeds of which method and base form no pair, if there are any; `values` as of `seed_values`."""
    named = [f"{method} ({count})" for method, count in other_origins(values).items()]
    why = "the base's run had other initial weights, other images or another kind of device"
    return [f"Seeds that form no pair, for {why}: {', '.join(named)}."] if named else []


def about_pairs(values: pd.DataFrame) -> list[str]:
    """Notes on what the pairs of a group are, and on what they are not; `values` as of `seed_values`."""
    return [*other_starts(values), *mixed_kinds(values), *unequal_trials(values)]


def mixed_kinds(values: pd.DataFrame) -> list[str]:
    """A note on the pairs whose two runs were made by processors or libraries of two kinds, if there are any."""
    named = [f"{method} ({count})" for method, count in other_kinds(values).items()]
    why = "on processors of two kinds or with two releases of a library, where rounding makes a run another draw"
    return [f"Pairs with the base whose two runs were made {why}: {', '.join(named)}."] if named else []


def mark_signs(marks: Iterable[str]) -> dict[str, str]:
    """A letter for every mark, where a table has no room for them: `{"unpublished composition": "a"}`; z, aa, ab."""
    distinct = dict.fromkeys(mark for own in marks for mark in own.split("; ") if mark)
    return dict(zip(distinct, _letters(), strict=False))


def _letters() -> Iterator[str]:
    for length in itertools.count(1):
        yield from map("".join, itertools.product(string.ascii_lowercase, repeat=length))


def signed(marks: str, signs: dict[str, str]) -> str:
    """The letters of a row's marks: `a,b`."""
    return ",".join(signs[mark] for mark in marks.split("; ") if mark)
