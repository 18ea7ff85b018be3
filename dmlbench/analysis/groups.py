"""Which results may stand in one table: one protocol with its settings, one dataset.

`--set` makes a variant. Settings of the protocol (`training.epochs=3`) open another group; settings of a method
(`distillation.lambda=10`) stay in the group and become part of the method's name, `ms+psd{lambda=10}`, so that it
is still compared with its own base. So do tuned values: `ms+psd{tuned}` is compared with `ms{tuned}`.

In which order methods stand: the same in every table, figure and comparison.
"""

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pandas as pd

from dmlbench.errors import UserError
from dmlbench.results.readouts import whole
from dmlbench.specs.cell import TUNED
from dmlbench.specs.registry import shipped_order

GROUP = ["protocol", "variant", "dataset"]
TUNED_SUFFIX = f"{{{TUNED}}}"  # of the names of a method, base and modifier that ran with tuned values
# `variant` is one string; a value may itself hold a comma, so a setting ends where the next section begins.
SEPARATOR = re.compile(rf", (?=(?:model|input|training|evaluation|validation|loss|distillation)\.|{TUNED}$)")
# The value of a setting is a path as a whole, also with spaces in it.
PATH_VALUE = re.compile(r"(?<==)(?:[A-Za-z]:\\|\\\\|~?/)[^,;'\"]*[\\/]([^,;'\"\\/]+)")
ABSOLUTE_PATH = re.compile(r"(?<![\w./\\…])(?:[A-Za-z]:\\|\\\\|~?/)(?:[^\s:;,'\"()\[\]]*[\\/])?([^\s:;,'\"()\[\]\\/]+)")


@dataclass(frozen=True, order=True)
class Group:
    """Results that may be compared: same protocol, same protocol settings, same dataset."""

    protocol: str
    variant: str
    dataset: str

    @property
    def title(self) -> str:
        """Name for people: `conv4-64 on glyphs, training.epochs=3`."""
        return f"{self.protocol} on {self.dataset}" + (f", {without_paths(self.variant)}" if self.variant else "")

    @property
    def slug(self) -> str:
        """Name for files and anchors: letters, digits, dots and dashes; distinct groups have distinct slugs."""
        return "_".join(slug(part) for part in (self.protocol, self.dataset, self.variant) if part)

    def of(self, frame: pd.DataFrame) -> pd.DataFrame:
        """The group's rows of a table that has the columns `GROUP`."""
        mine = (frame["protocol"] == self.protocol) & (frame["variant"] == self.variant)
        return frame[mine & (frame["dataset"] == self.dataset)]


def arrange(results: pd.DataFrame) -> pd.DataFrame:
    """Move settings of methods from `variant` into the names of method, base and modifier.

    Args:
        results: As `load_results` or `load_history` returns them.

    Returns:
        The same rows; `variant` holds settings of the protocol alone.
    """
    columns = ["variant", "method", "base", "modifier"]
    named = [_named(*row) for row in results[columns].itertuples(index=False, name=None)]
    return results.assign(**pd.DataFrame(named, columns=columns, index=results.index, dtype=object))


def groups(frame: pd.DataFrame) -> list[Group]:
    """Every group of a table, in order of its name."""
    return sorted({Group(*key) for key in frame[GROUP].itertuples(index=False, name=None)})


def done(results: pd.DataFrame) -> pd.DataFrame:
    """The rows of cells that finished."""
    return results[results["status"] == "done"]


def check_unambiguous(arranged: pd.DataFrame) -> None:
    """Raise UserError where two finished cells claim one place in a table: they are never averaged silently."""
    cells = done(arranged).drop_duplicates("folder")
    place = [*GROUP, "method", "seed"]
    twice = cells[cells.duplicated(place, keep=False)].sort_values([*place, "folder"], kind="stable")
    if len(twice):
        first, second = twice.iloc[0], twice.iloc[1]
        raise UserError(
            f"{first['folder']} and {second['folder']}: two results for {first['method']} on {first['dataset']}, "
            f"seed {first['seed']}",
            hint="keep one of them in this results folder",
        )


def paired_with_base(rows: pd.DataFrame, keys: Sequence[str], values: Sequence[str]) -> pd.DataFrame:
    """Rows of modified methods beside their base's of the same seed, as `<value>` and `<value>_base`.

    Args:
        rows: One row per seed, method and `keys`; columns base, modifier and `values` beside them.
        keys: What else the two must share.
        values: Columns to take from the base's row.
    """
    bases = rows.loc[rows["modifier"] == "", [*keys, "method", "seed", *values]]
    renamed = bases.rename(columns={"method": "base"} | {value: f"{value}_base" for value in values})
    modified = rows[rows["modifier"] != ""]
    return modified.merge(renamed, on=[*keys, "base", "seed"], how="inner", validate="many_to_one")


def joined_marks(marks: Iterable[str]) -> str:
    """Every mark of several rows once."""
    return "; ".join(dict.fromkeys(mark for own in marks for mark in own.split("; ") if mark))


def is_tuned(name: str) -> bool:
    """Whether a method's name, as `arrange` gives it, is of one with tuned values."""
    return name.endswith(TUNED_SUFFIX)


def with_files_values(name: str) -> str:
    """A method's, base's or modifier's name as with the values of its files: `ms+psd` of `ms+psd{tuned}`."""
    return name.removesuffix(TUNED_SUFFIX)


def slug(text: str) -> str:
    """A short name for files and anchors; a digest keeps names apart whose other characters are lost."""
    plain = re.sub(r"[^A-Za-z0-9.-]+", "-", without_paths(text)).strip("-.")[:40]
    return plain if plain == text else f"{plain}-{hashlib.sha256(text.encode()).hexdigest()[:6]}".lstrip("-")


def without_paths(text: str) -> str:
    """The text with absolute paths cut to their last part: a report tells nothing of a user's folders."""
    return ABSOLUTE_PATH.sub(r"…/\1", PATH_VALUE.sub(r"…/\1", text))


def _named(variant: str, method: str, base: str, modifier: str) -> tuple[str, str, str, str]:
    settings = SEPARATOR.split(variant) if variant else []
    own = {section: [s for s in settings if s.startswith(f"{section}.")] for section in ("loss", "distillation")}
    tuned = TUNED_SUFFIX if settings[-1:] == [TUNED] else ""
    protocol = [setting for setting in settings if setting not in [*own["loss"], *own["distillation"], TUNED]]
    if tuned:  # of settings only a teacher's mode goes with it
        own_tuned = _braces(own["distillation"]) + tuned
        return ", ".join(protocol), method + own_tuned, base + tuned, modifier + own_tuned if modifier else ""
    named_base = base + _braces(own["loss"])
    # A base has no distillation: settings given for its companions on the command line change nothing in it.
    named_modifier = modifier + _braces(own["distillation"]) if modifier else ""
    changed = (named_base, named_modifier) != (base, modifier)
    named_method = "+".join(filter(None, (named_base, named_modifier))) if changed else method
    return ", ".join(protocol), named_method, named_base, named_modifier


def _braces(settings: Sequence[str]) -> str:
    return "{" + ", ".join(without_paths(setting.partition(".")[2]) for setting in settings) + "}" if settings else ""


# Bases and modifiers in the order that their files state; others follow by name.
BASES = shipped_order("loss")
MODIFIERS = ("", *shipped_order("distillation"))

Rank = tuple[int, str, bool, str]


def in_order(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows by base and modifier in the order of `BASES` and `MODIFIERS`; needs the columns base, modifier, method."""
    keys = {
        index: (base != "", rank(base, BASES), rank(modifier, MODIFIERS), method)
        for index, base, modifier, method in frame[["base", "modifier", "method"]].itertuples(name=None)
    }
    return frame.loc[sorted(keys, key=lambda index: keys[index])]


def rank(name: str, known: tuple[str, ...]) -> Rank:
    """Sort key of a base or modifier: its place among the known, its name with settings; readouts after the mean."""
    plain, trained = name.partition("{")[0], whole(name)
    return (known.index(plain) if plain in known else len(known), trained, trained != name, name)
