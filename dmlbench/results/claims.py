"""Declared claims: `claims/` of a results folder, a YAML file a claim, written before its first cell runs."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import pandas as pd
import yaml
from pydantic import NonNegativeInt

from dmlbench.atomic import write_atomically
from dmlbench.errors import OnDamaged, attempt, sound, warn
from dmlbench.results.store import Store
from dmlbench.specs.cell import Cell, digest
from dmlbench.specs.dataset import Section
from dmlbench.specs.study import Claim
from dmlbench.specs.yaml_files import Dumper, read_yaml, validate

FOLDER = "claims"


class Declared(Section):
    """A claim as it was written down.

    Attributes:
        claim: What is claimed.
        declared: When, ISO 8601 in UTC.
        cells: Hashes of the cells that decide it.
        begun: How many of them had begun by then: with any, the claim is after the fact.
    """

    version: Literal[1] = 1
    claim: Claim
    declared: str
    cells: tuple[str, ...]
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


def declare(claims: Sequence[Claim], cells: Sequence[Cell], store: Store) -> list[Declared]:
    """Write claims down; a claim of the same cells that is there already keeps its time.

    Args:
        claims: What is claimed.
        cells: All cells of the run.
        store: Their results folder.
    """
    found = []
    for claim in claims:
        own = cells_of(claim, cells)
        hashes = tuple(sorted(cell.hash for cell in own))
        name = digest({"claim": claim.model_dump(mode="json"), "cells": hashes})[:12]
        path = store.root / FOLDER / f"{claim.modifier}-{name}.yaml"
        if not path.is_file():
            begun = sum(store.state(cell) != "missing" for cell in own)
            now = datetime.now(UTC).isoformat(timespec="seconds")
            _write(path, Declared(claim=claim, declared=now, cells=hashes, begun=begun))
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
    return Declared(claim=claim, declared=now, cells=hashes, begun=len(hashes))


def declared_claims(roots: Sequence[Path], damaged: OnDamaged = warn) -> list[Declared]:
    """The claims of results folders, the oldest first; `damaged` takes the files that cannot be read.

    A claim that several folders make for different cells, such as the seeds of two machines, is one claim.
    """
    found: list[Declared] = []
    for root in roots:
        earlier, paths = found, sorted((root / FOLDER).glob("*.yaml"))
        for own in sound((attempt(_read, path) for path in paths), damaged):
            same = next((other for other in earlier if _joins(own, other)), None)
            found = [*(other for other in found if other is not same), _joined(own, same) if same else own]
    return sorted(found, key=lambda own: (own.declared, own.claim.title))


def _joins(own: Declared, other: Declared) -> bool:
    cells = set(own.cells)
    return own.claim == other.claim and (cells.isdisjoint(other.cells) or cells == set(other.cells))


def _joined(own: Declared, other: Declared) -> Declared:
    """Two declarations as one: of the same cells the earlier, of different cells declared when the later was."""
    if set(own.cells) == set(other.cells):
        return min(own, other, key=lambda one: one.declared)
    cells = tuple(sorted({*own.cells, *other.cells}))
    declared = max(own.declared, other.declared)
    return own.model_copy(update={"cells": cells, "declared": declared, "begun": own.begun + other.begun})


def _read(path: Path) -> Declared:
    return validate(Declared, read_yaml(path), str(path))


def _write(path: Path, declared: Declared) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    head = "# Written by `dmlbench run` when this claim was declared. Editing it makes it worthless.\n"
    content = {"version": declared.version} | declared.model_dump(mode="json", exclude_defaults=True)
    write_atomically(path, head + yaml.dump(content, Dumper=Dumper, sort_keys=False, width=120))
