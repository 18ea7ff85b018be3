"""Which results may be in one table: one protocol with its settings, one dataset; in which order, under which names.

`--set` of the protocol (`training.epochs=3`) opens another group. Settings of a method stay in the group and make
another method, which is compared with its own base; so do tuned values.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from dmlbench.errors import UserError, unknown_name
from dmlbench.results.frames import ENSEMBLE, MEAN
from dmlbench.specs.overrides import Settings
from dmlbench.specs.registry import shipped_order

GROUP = ["protocol", "overrides", "dataset"]
BASE = ["base", "base_settings", "tuned"]  # what a method and its own base share
MODIFIER = ["modifier", "modifier_settings", "network"]
METHOD = ["method", *BASE, *MODIFIER]  # what makes a method, within a group
OTHER = [f"to_{name}" for name in METHOD]  # the method that one is compared with
# The value of a setting is a path as a whole, also with spaces in it.
PATH_VALUE = re.compile(r"(?<==)(?:[A-Za-z]:\\|\\\\|~?/)[^,;'\"]*[\\/]([^,;'\"\\/]+)")
ABSOLUTE_PATH = re.compile(r"(?<![\w./\\…])(?:[A-Za-z]:\\|\\\\|~?/)(?:[^\s:;,'\"()\[\]]*[\\/])?([^\s:;,'\"()\[\]\\/]+)")


@dataclass(frozen=True, order=True)
class Group:
    """Results that may be compared: same protocol, same protocol settings, same dataset."""

    protocol: str
    overrides: Settings
    dataset: str

    @property
    def title(self) -> str:
        """Name for people: `conv4-64 on glyphs, training.epochs=3`."""
        settings = f", {without_paths(str(self.overrides))}" if self.overrides else ""
        return f"{self.protocol} on {self.dataset}{settings}"

    @property
    def slug(self) -> str:
        """Name for files and anchors: letters, digits, dots and dashes; distinct groups have distinct slugs."""
        return "_".join(slug(part) for part in (self.protocol, self.dataset, str(self.overrides)) if part)

    def of(self, frame: pd.DataFrame) -> pd.DataFrame:
        """The group's rows of a table that has the columns `GROUP`."""
        mine = (frame["protocol"] == self.protocol) & (frame["overrides"] == self.overrides)
        return frame[mine & (frame["dataset"] == self.dataset)]


def groups(frame: pd.DataFrame) -> list[Group]:
    """Every group of a table, in order of its name."""
    return sorted({Group(*key) for key in frame[GROUP].itertuples(index=False, name=None)})


def done(results: pd.DataFrame) -> pd.DataFrame:
    """The rows of cells that finished."""
    return results[results["status"] == "done"]


def check_unambiguous(results: pd.DataFrame) -> None:
    """Raise UserError where results that may not be averaged or compared would be: nothing is mixed silently.

    Such are two finished cells of one method, dataset and seed; and cells of one name whose values are others.
    """
    cells = done(results).drop_duplicates("folder")
    row = [*GROUP, *METHOD, "seed"]
    twice = cells[cells.duplicated(row, keep=False)].sort_values([*row, "folder"], kind="stable")
    if len(twice):
        first, second = twice.iloc[0], twice.iloc[1]
        raise UserError(
            f"{first['folder']} and {second['folder']}: two results for {first['method']} on {first['dataset']}, "
            f"seed {first['seed']}",
            hint="keep one of them in this results folder",
        )
    for keys, hashes in (GROUP, ["protocol_hash", "dataset_version"]), ([*GROUP, *METHOD], ["method_hash"]):
        distinct = cells.drop_duplicates([*keys, *hashes])
        if len(mixed := distinct[distinct.duplicated(keys, keep=False)].sort_values(keys, kind="stable")):
            first, second = mixed.iloc[0], mixed.iloc[1]
            raise UserError(
                f"{first['folder']} and {second['folder']}: made from different specs under the same names",
                hint="delete the folders of one spec, or keep them in another results folder",
            )


@dataclass(frozen=True)
class Against:
    """What methods are compared with.

    Attributes:
        method: The name of one method, as tables have it: all others are compared with it. Without, a modified method
            is compared with its base, a base of other settings with the plain one, and any other base with `base`.
        base: The base that other bases are compared with [default: the first in order].
    """

    method: str = ""
    base: str = ""


DEFAULT = Against()


def references(rows: pd.DataFrame, against: Against) -> pd.DataFrame:
    """The method that each method is compared with, its reference.

    Args:
        rows: A table with the columns `GROUP` and `METHOD`.
        against: What the reference is.

    Returns:
        Columns `GROUP`, `METHOD`, `OTHER`: one row per method of a group that has a reference there.
    """
    methods = rows.drop_duplicates([*GROUP, *METHOD])
    found: list[tuple[object, ...]] = []
    for key, own in methods.groupby(GROUP, sort=False):
        ordered = _records(in_order(own))
        pairs = [(row, _reference(row, ordered, against)) for row in ordered]
        found += [(*key, *(each[name] for each in (row, other) for name in METHOD)) for row, other in pairs if other]
    return pd.DataFrame(found, columns=[*GROUP, *METHOD, *OTHER])


def check_against(rows: pd.DataFrame, against: Against) -> None:
    """Raise UserError where no group of a table has the method that others are to be compared with."""
    names = {name for row in _records(rows.drop_duplicates(METHOD)) for name in _names(row)}
    if against.method and against.method not in names:
        raise unknown_name("method", against.method, sorted(names), where="--against")


def _names(row: Mapping[Any, Any]) -> tuple[str, ...]:
    """A method's name; one network of several also has that of its method."""
    return method_name(row), *((method_name({**row, "network": MEAN}),) if row["network"].isdigit() else ())


def _records(rows: pd.DataFrame) -> list[Mapping[Any, Any]]:
    return list(rows[METHOD].to_dict("records"))


def _reference(
    row: Mapping[Any, Any], ordered: Sequence[Mapping[Any, Any]], against: Against
) -> Mapping[Any, Any] | None:
    """A method's reference among those of its group, which are in order."""
    if against.method:
        other = next((own for own in ordered if against.method in _names(own)), None)
        return None if other == row else other
    bases = [own for own in ordered if not own["modifier"] and own["tuned"] == row["tuned"]]
    if row["modifier"]:
        same = [own for own in bases if (own["base"], own["base_settings"]) == (row["base"], row["base_settings"])]
        return next(iter(same), None)
    plain = [own for own in bases if not own["base_settings"]]
    if row["base_settings"] and (same := [own for own in plain if own["base"] == row["base"]]):
        return same[0]
    first = [own for own in plain if own["base"] == against.base] or plain
    return first[0] if first and first[0] != row else None


def paired(rows: pd.DataFrame, keys: Sequence[str], values: Sequence[str], against: Against) -> pd.DataFrame:
    """Rows of methods beside their reference's of the same seed, as `<value>` and `<value>_to`.

    Args:
        rows: One row per group, seed, method and `keys`; columns `values` beside them.
        keys: What else the two must share.
        values: Columns to take from the reference's row.
        against: What the reference is: see `references`.
    """
    names = dict(zip(METHOD, OTHER, strict=True)) | {value: f"{value}_to" for value in values}
    others = rows[[*GROUP, *METHOD, *keys, "seed", *values]].rename(columns=names)
    known = rows.merge(references(rows, against), on=[*GROUP, *METHOD], how="inner", validate="many_to_one")
    return known.merge(others, on=[*GROUP, *OTHER, *keys, "seed"], how="inner", validate="many_to_one")


def joined_marks(marks: Iterable[str]) -> str:
    """Every mark of several rows once."""
    return "; ".join(dict.fromkeys(mark for own in marks for mark in own.split("; ") if mark))


def slug(text: str) -> str:
    """A short name for files and anchors; a digest keeps names apart whose other characters are lost."""
    plain = re.sub(r"[^A-Za-z0-9.-]+", "-", without_paths(text)).strip("-.")[:40]
    return plain if plain == text else f"{plain}-{hashlib.sha256(text.encode()).hexdigest()[:6]}".lstrip("-")


def without_paths(text: str) -> str:
    """The text with absolute paths cut to their last part: a report does not reveal a user's folders."""
    return ABSOLUTE_PATH.sub(r"…/\1", PATH_VALUE.sub(r"…/\1", text))


def method_name(row: Mapping[Any, Any] | pd.Series, *, tuned: bool = True) -> str:
    """A method with what it is made of: `ms{alpha=3}+dm2{ensemble}{lambda=10}`, `ms+psd{tuned}`.

    Args:
        row: The columns `groups.METHOD` of a table; without a base, it is the untrained network.
        tuned: Whether the name says that values are tuned.
    """
    base, modifier = base_name(row, tuned=False), modifier_name(row, tuned=False)
    name = "+".join(filter(None, (base, modifier))) or str(row["method"])
    return name + _tuned(row, tuned)


def base_name(row: Mapping[Any, Any] | pd.Series, *, tuned: bool = True) -> str:
    """A method's base: `ms{alpha=3}`."""
    return str(row["base"]) + _braces(row["base_settings"]) + _tuned(row, tuned)


def modifier_name(row: Mapping[Any, Any] | pd.Series, *, tuned: bool = True) -> str:
    """A method's modifier, and which of its networks is meant: `dm2{member 1}{lambda=10}`; "" of a base."""
    if not row["modifier"]:
        return ""
    network = {MEAN: "", ENSEMBLE: "{ensemble}"}.get(row["network"], f"{{member {row['network']}}}")
    return str(row["modifier"]) + network + _braces(row["modifier_settings"]) + _tuned(row, tuned)


def _braces(settings: Settings) -> str:
    return "{" + ", ".join(map(without_paths, settings.pairs)) + "}" if settings else ""


def _tuned(row: Mapping[Any, Any] | pd.Series, said: bool) -> str:
    return "{tuned}" if said and row["tuned"] else ""


# Bases and modifiers in the order that their files state; others follow by name.
BASES = shipped_order("loss")
MODIFIERS = ("", *shipped_order("distillation"))

Rank = tuple[int, str]


def in_order(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows by base and modifier in the order of `BASES` and `MODIFIERS`; needs the columns `METHOD`.

    Of one base the files' values come before other settings, and these before tuned values; networks follow their mean.
    """
    ordered = ["tuned", "base", "base_settings", *MODIFIER, "method"]
    keys = {
        index: (base != "", rank(base, BASES), tuned, settings, modifier_rank(*own), method)
        for index, tuned, base, settings, *own, method in frame[ordered].itertuples(name=None)
    }
    return frame.loc[sorted(keys, key=lambda index: keys[index])]


def rank(name: str, known: tuple[str, ...]) -> Rank:
    """Sort key of a base or modifier: its position among the known, then its name."""
    return known.index(name) if name in known else len(known), name


def modifier_rank(modifier: str, settings: Settings, network: str) -> tuple[Rank, Settings, int]:
    """Sort key of a modifier with its settings: the mean over networks, their ensemble, then each by its number."""
    return rank(modifier, MODIFIERS), settings, -1 if network == MEAN else 0 if network == ENSEMBLE else int(network)
