"""The methods appendix: every resolved value with its source."""

import pandas as pd

from dmlbench.analysis.groups import slug, without_paths
from dmlbench.report.sources import NETWORKS_RATE
from dmlbench.report.tables.table import Entry, Table


def settings_tables(settings: pd.DataFrame) -> list[Table]:
    """One table per method: every hyperparameter, where it holds, and where its value comes from.

    Args:
        settings: As `sources.settings` returns it.
    """
    return [_method(str(name), part) for name, part in settings.groupby("method", sort=False)]


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
         Entry(row["source"]), Entry("yes" if row["published"] else "no"))
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
    """Rows that many places share once, with the places in words; `all` where it is all of them."""
    places = part["dataset"] + part["variant"].map(lambda variant: f" ({without_paths(variant)})" if variant else "")
    every, found = set(places), []
    for _, same in part.assign(place=places).groupby(keys, sort=False, dropna=False):
        own = dict.fromkeys(same["place"])
        found.append((same.iloc[0], "all" if set(own) == every else ", ".join(own)))
    return found
