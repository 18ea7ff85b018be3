"""The report at a glance: every modified method on every dataset, in one table per protocol.

How much of the matrix is there.

The methods appendix: every resolved value with its source.
"""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from dmlbench.analysis.estimates import SELECTIONS
from dmlbench.analysis.groups import GROUP, METHOD, Group, groups, in_order, slug, without_paths
from dmlbench.reporting.naming import metric_name, points
from dmlbench.reporting.sources import NETWORKS_RATE
from dmlbench.reporting.tables.comparison import LABELS, Verdict, power
from dmlbench.reporting.tables.table import Entry, Table, interval_of, interval_with_n, reach, step_time_entry
from dmlbench.specs.overrides import Settings

SIGNS = ", ".join(f"{label[0]} {label[2:]}" for label in LABELS.values())


def summary_tables(verdicts: Mapping[Group, Sequence[Verdict]], pooled: pd.DataFrame) -> list[Table]:
    """One table per protocol with its settings: a row per method, a column per dataset and one for all.

    Args:
        verdicts: Those of every group.
        pooled: Rows of `comparisons.primary` of the pooled comparisons.
    """
    scopes = dict.fromkeys((group.protocol, group.overrides) for group, own in verdicts.items() if own)
    tables = []
    for protocol, overrides in scopes:
        mine = {own: said for own, said in verdicts.items() if (own.protocol, own.overrides) == (protocol, overrides)}
        tables.append(_summary(protocol, overrides, mine, pooled))
    return tables


def _summary(
    protocol: str, overrides: Settings, verdicts: Mapping[Group, Sequence[Verdict]], pooled: pd.DataFrame
) -> Table:
    by_method = {(verdict.row["name"], group.dataset): verdict for group, own in verdicts.items() for verdict in own}
    rows = pd.DataFrame([verdict.row for verdict in by_method.values()])
    datasets = [group.dataset for group in sorted(verdicts)]
    title = protocol + (f", {without_paths(str(overrides))}" if overrides else "")
    first = rows.iloc[0]
    wanted = {"protocol": protocol, "overrides": overrides, "selection": first["selection"], "metric": first["metric"]}
    for key, value in wanted.items():
        pooled = pooled[pooled[key] == value]
    together = {row["name"]: row for row in pooled.to_dict("records")}
    body, spread = [], "; over datasets" if len(datasets) > 1 else ""
    interleaved = any(found.ratio and found.ratio.get("interleaved") for found in by_method.values())
    how = ", of interleaved steps where they were measured" if interleaved else ""
    for _, method in in_order(rows.drop_duplicates("name")).iterrows():
        own = [by_method.get((method["name"], dataset)) for dataset in datasets]
        marks = "; ".join(dict.fromkeys(found.row["marks"] for found in own if found and found.row["marks"]))
        step = step_time_entry([found.ratio for found in own if found and found.ratio])
        whole = [_pooled_entry(together.get(method["name"]))] if together else []
        pairs = max(int(found.row["n"]) for found in own if found)
        figures = [_entry(found, pairs) for found in own]
        body.append((Entry(method["name"]), Entry(method["to_name"]), *figures, *whole, step, Entry(marks)))
    return Table(
        "_".join(["summary", *(slug(part) for part in (protocol, str(overrides)) if part)]),
        f"{metric_name(first['metric'])} against the reference under {title}; {SELECTIONS[first['selection']]}",
        ("Method", "Against", *datasets, *(["Together"] if together else []), "Step time", "Marks"),
        tuple(body),
        (
            f"{SIGNS}. Exploratory: paired t-tests, Benjamini and Hochberg's correction, at .05.",
            f"In percentage points, paired by seed [95% t-interval]. Step time over the reference's{spread}{how}.",
            *power(rows),
            *(["n: pairs, where another dataset of the row has more."] if len(set(rows["n"])) > 1 else []),
            *(["Together: the mean over datasets, of the seeds that all of them have."] if together else []),
            *reach(rows),
        ),
    )


def _entry(verdict: Verdict | None, pairs: int) -> Entry:
    if verdict is None:
        return Entry("–")
    mean = float(verdict.row["mean"])
    return Entry(f"{verdict.sign} {points(mean)}", interval_with_n(verdict.row, points, pairs), mean, kind=verdict.kind)


def _pooled_entry(row: Mapping[Hashable, Any] | None) -> Entry:
    if row is None or not row["n"]:
        return Entry("–")
    kind = row["verdict"]
    text = f"{LABELS[kind][0]} {points(row['mean'])}"
    return Entry(text, interval_of(row, points), row["mean"], kind=kind)


def coverage_table(results: pd.DataFrame, unfinished: pd.DataFrame) -> Table:
    """Seeds that are done, failed and not finished, of every method on every dataset.

    Args:
        results: Results, named.
        unfinished: As `sources.unfinished` returns it, named.
    """
    columns = [*GROUP, *METHOD, "name", "seed", "status"]
    ended = results[[*columns, "folder"]].drop_duplicates("folder")[columns]
    there = set(ended[ended["status"] == "done"][[*GROUP, "name", "seed"]].itertuples(index=False, name=None))
    cells = pd.concat([ended, unfinished.assign(status="unfinished")[columns]], ignore_index=True)
    # A seed that another spec has finished since is not missing.
    keys = cells[[*GROUP, "name", "seed"]].itertuples(index=False, name=None)
    open_ = np.array([key not in there for key in keys], dtype=bool)
    cells = cells[(cells["status"] == "done") | open_]
    scopes = groups(cells)
    rows = [
        (
            Entry(method["name"]),
            *(_coverage_entry(scope.of(cells[cells["name"] == method["name"]])) for scope in scopes),
        )
        for _, method in in_order(cells.drop_duplicates("name")).iterrows()
    ]
    names = tuple(place.title for place in scopes)
    note = "Seeds that are done, of all that were planned; f: failed."
    return Table("coverage", "The matrix", ("Method", *names), tuple(rows), (note,))


def is_uneven(coverage: Table) -> bool:
    """Whether some method lacks seeds or a dataset that others have."""
    return len({entry.text for row in coverage.rows for entry in row[1:]}) > 1


def _coverage_entry(cells: pd.DataFrame) -> Entry:
    if cells.empty:
        return Entry("–")
    done, failed = ((cells["status"] == state).sum() for state in ("done", "failed"))
    words = str(done) if done == len(cells) else f"{done}/{len(cells)}"
    return Entry(words + (f" ({failed} f)" if failed else ""), "", float(done))


def settings_tables(settings: pd.DataFrame) -> list[Table]:
    """One table per method: every hyperparameter, where it holds, and where its value comes from.

    Args:
        settings: As `sources.settings` returns it.
    """
    return [_method(str(name), part) for name, part in settings.groupby("name", sort=False)]


def protocol_tables(values: pd.DataFrame) -> list[Table]:
    """One table per protocol: every value, and where datasets or `--set` give it another one.

    Args:
        values: As `sources.protocol_values` returns it.
    """
    return [_protocol(str(name), part) for name, part in values.groupby("protocol", sort=False)]


def _method(method: str, part: pd.DataFrame) -> Table:
    keys = ["part", "implementation", "parameter", "value", "source", "published"]
    rows = [
        (Entry(row["parameter"]), Entry(row["part"]), Entry(without_paths(str(row["value"]))), Entry(where),
         Entry(row["source"]), Entry(row["published"]))
        for row, where in _shared(part, keys)
    ]  # fmt: skip
    kinds = part.loc[part["implementation"] != "", ["part", "implementation"]].drop_duplicates()
    notes = [": ".join(names) + "." for names in kinds.itertuples(index=False, name=None)]
    unrated = part.loc[part["source"] == NETWORKS_RATE, "parameter"].str.removeprefix("learning rate of ").unique()
    if len(unrated):
        notes.append(f"Of the loss's own parameters these learn at the network's rate: {', '.join(unrated)}.")
    columns = ("Parameter", "Part", "Value", "Dataset", "Source", "Published setting")
    return Table(f"settings_{slug(method)}", method, columns, tuple(rows), tuple(notes))


def _protocol(protocol: str, values: pd.DataFrame) -> Table:
    rows = [
        (Entry(row["parameter"]), Entry(without_paths(row["value"])), Entry(where))
        for row, where in _shared(values, ["parameter", "value"])
    ]
    return Table(f"protocol_{slug(protocol)}", protocol, ("Parameter", "Value", "Dataset"), tuple(rows))


def _shared(part: pd.DataFrame, keys: list[str]) -> list[tuple[pd.Series, str]]:
    """Rows that many scopes share once, with the scopes in words; `all` where it is all of them."""
    settings = part["overrides"].map(lambda overrides: f" ({without_paths(str(overrides))})" if overrides else "")
    scopes = part["dataset"] + settings
    every, found = set(scopes), []
    for _, same in part.assign(scope=scopes).groupby(keys, sort=False, dropna=False):
        own = dict.fromkeys(same["scope"])
        found.append((same.iloc[0], "all" if set(own) == every else ", ".join(own)))
    return found
