"""Declared claims: `claims/` of a results folder, a YAML file a claim, written before its first cell runs."""

import math
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import pandas as pd
from pydantic import NonNegativeInt

from dmlbench.atomic import write_atomically
from dmlbench.errors import OnDamaged, UserError, attempt, sound, unknown_name, warn
from dmlbench.results.store import Store, read_spec
from dmlbench.specs.cell import Cell, digest
from dmlbench.specs.dataset import Section
from dmlbench.specs.study import Claim
from dmlbench.specs.yaml_files import dump, read_yaml, validate

FOLDER = "claims"


class Declared(Section):
    """A claim as it was written down.

    Attributes:
        claim: What is claimed.
        declared: When, ISO 8601 in UTC.
        cells: Hashes of the cells that decide it.
        datasets: Theirs.
        begun: How many of them had begun by then: with any, the claim is after the fact.
    """

    version: Literal[1] = 1
    claim: Claim
    declared: str
    cells: tuple[str, ...]
    datasets: tuple[str, ...] = ()
    begun: NonNegativeInt

    @property
    def when(self) -> str:
        """For people: when it was declared, and whether before the runs."""
        time = self.declared.replace("T", " ").replace("+00:00", " UTC")
        if not self.begun:
            return f"declared {time}, before its first cell"
        return f"after the fact: declared {time}, when {self.begun} of its {len(self.cells)} cells had begun"


def cells_of(claim: Claim, cells: Sequence[Cell]) -> list[Cell]:
    """The cells that decide a claim, of those of a run."""
    datasets = set(claim.datasets) or {cell.dataset.name for cell in cells}
    return [cell for cell in cells if cell.method.name in claim.methods and cell.dataset.name in datasets]


def check_names(claim: Claim, bases: Collection[str], modifiers: Collection[str]) -> None:
    """Raise UserError for a base or a modifier that is not among the known ones."""
    where = f"claim {claim.modifier}:{','.join(claim.bases)}"
    if claim.modifier not in modifiers:
        if claim.modifier in bases:
            said = f"{where}: {claim.modifier} is a base, and a claim is of a modifier"
            raise UserError(said, hint="compare two bases without a claim: `--methods A,B`, exploratory")
        raise unknown_name("modifier", claim.modifier, sorted(modifiers), where=where)
    for base in claim.bases:
        if base not in bases:
            raise unknown_name("base", base, sorted(bases), where=where)


def in_advance(claims: Sequence[Claim], cells: Sequence[Cell], store: Store) -> list[str]:
    """What `declare` would write of each claim, in words."""
    found = []
    for claim in claims:
        own = cells_of(claim, cells)
        begun = sum(store.state(cell) != "missing" for cell in own)
        when = f"after the fact: {begun} of its {len(own)} cells have begun" if begun else "before its first cell"
        found.append(f"{claim.title}: would be declared {when}, unless it was before")
    return found


def check_claims(claims: Sequence[Claim], cells: Sequence[Cell]) -> None:
    """Raise UserError for a claim on a dataset that the run does not have: nothing would ever decide it."""
    known = {cell.dataset.name for cell in cells}
    for claim in claims:
        if unknown := [name for name in claim.datasets if name not in known]:
            raise unknown_name("dataset", unknown[0], sorted(known), where=f"claim {claim.title}: datasets")


def declare(claims: Sequence[Claim], cells: Sequence[Cell], store: Store) -> list[Declared]:
    """Write claims down; a claim of the same cells that is there already keeps its time.

    Args:
        claims: What is claimed.
        cells: All cells of the run.
        store: Their results folder.
    """
    found, now = [], datetime.now(UTC).isoformat(timespec="seconds")  # of all of a study the same
    for claim in claims:
        own = cells_of(claim, cells)
        hashes = tuple(sorted(cell.hash for cell in own))
        name = digest({"claim": claim.model_dump(mode="json"), "cells": hashes})[:12]
        path = store.root / FOLDER / f"{claim.modifier}-{name}.yaml"
        if not path.is_file():
            begun = sum(store.state(cell) != "missing" for cell in own)
            datasets = tuple(dict.fromkeys(cell.dataset.label for cell in own))
            _write(path, Declared(claim=claim, declared=now, cells=hashes, datasets=datasets, begun=begun))
        found.append(_read(path))
    return found


def after_the_fact(claim: Claim, results: pd.DataFrame) -> Declared:
    """A claim that is made when the results are there; it is not written down.

    Args:
        claim: What is claimed.
        results: As `load_results` returns them; tuned values and other settings of methods are left out.
    """
    plain = ~results["tuned"].astype(bool) & ~results[["base_settings", "modifier_settings"]].any(axis="columns")
    own = results[plain & results["method"].isin(claim.methods)]
    if claim.datasets:
        own = own[own["dataset"].isin(claim.datasets)]
    hashes = tuple(sorted(own["hash"].unique()))
    now = datetime.now(UTC).isoformat(timespec="seconds")
    datasets = tuple(map(str, own["dataset"].unique()))
    return Declared(claim=claim, declared=now, cells=hashes, datasets=datasets, begun=len(hashes))


def declared_claims(roots: Sequence[Path], damaged: OnDamaged = warn) -> list[Declared]:
    """The claims of results folders, the oldest first; `damaged` takes the files that cannot be read.

    A claim that several folders make for other seeds of the same methods, datasets and protocol is one claim, which was
    declared when the last of them was. Cells that had begun by then, also in another folder than the claim's, make it
    one after the fact: who has seen some of the results has chosen to go on.
    """
    each = [
        list(sound((attempt(_read, path) for path in sorted((root / FOLDER).glob("*.yaml"))), damaged))
        for root in roots
    ]
    if not any(each):
        return []
    found = _merged(each, _kinds(roots)) if len(roots) > 1 else each[0]
    started = _started(roots)
    found = [own.model_copy(update={"begun": max(own.begun, _begun(own, started))}) for own in found]
    return sorted(found, key=lambda own: (own.declared, own.claim.title))


def _kinds(roots: Sequence[Path]) -> dict[str, tuple[str, ...]]:
    """What every readable cell of several folders is but for its seed, by hash."""
    folders = (folder for root in roots for folder in Store(root).folders())
    indices = (spec.index() for spec in sound((attempt(read_spec, folder) for folder in folders), lambda _: None))
    names = ("protocol_hash", "dataset", "method", "variant")
    return {str(index["hash"]): tuple(str(index[name]) for name in names) for index in indices}


def _started(roots: Sequence[Path]) -> dict[str, float]:
    """When each finished cell first began, in seconds, by hash."""
    found: dict[str, float] = {}
    for summary in (record.summary for root in roots for record in Store(root).records(lambda _: None)):
        if summary.started:
            found[summary.cell.hash] = min(_seconds(summary.started), found.get(summary.cell.hash, math.inf))
    return found


def _seconds(time: str) -> float:
    return datetime.fromisoformat(time).timestamp()


def _merged(each: Sequence[Sequence[Declared]], kinds: Mapping[str, tuple[str, ...]]) -> list[Declared]:
    """The claims of several folders: what is a copy, or a part, of another is that one."""
    found: list[Declared] = []
    for folder in each:
        before = len(found)  # claims of one folder stay apart
        for own in folder:
            place = next((place for place in range(before) if _joins(own, found[place], kinds)), None)
            if place is None:
                found.append(own)
            else:
                found[place] = _joined(found[place], own)
    return found


def _begun(own: Declared, started: Mapping[str, float]) -> int:
    declared = _seconds(own.declared)
    return sum(started[cell] < declared for cell in own.cells if cell in started)


def _joins(own: Declared, other: Declared, kinds: Mapping[str, tuple[str, ...]]) -> bool:
    first, second = ({kinds[cell] for cell in one.cells if cell in kinds} for one in (own, other))
    cells = set(own.cells)
    apart, part = cells.isdisjoint(other.cells), cells <= set(other.cells)
    alike = first <= second or second <= first  # a cell that was deleted says nothing
    return own.claim == other.claim and (part or (apart and alike))


def _joined(other: Declared, own: Declared) -> Declared:
    """Two declarations as one: of the same cells the earlier, of different cells declared when the later was."""
    if set(own.cells) <= set(other.cells):
        return min(own, other, key=lambda one: (-len(one.cells), one.declared))
    cells = tuple(sorted({*own.cells, *other.cells}))
    declared = max(own.declared, other.declared)
    return other.model_copy(update={"cells": cells, "declared": declared, "begun": own.begun + other.begun})


def _read(path: Path) -> Declared:
    return validate(Declared, read_yaml(path), str(path))


def _write(path: Path, declared: Declared) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    head = "# Written by `dmlbench run` when this claim was declared. Editing it makes it worthless.\n"
    content = {"version": declared.version} | declared.model_dump(mode="json", exclude_defaults=True)
    write_atomically(path, head + dump(content, width=120))
