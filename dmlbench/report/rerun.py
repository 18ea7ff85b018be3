"""The command lines that make a report's numbers again."""

import shlex
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from dmlbench.analysis.groups import done, without_paths
from dmlbench.protocol import own_protocols
from dmlbench.registry import REPLACED, shipped_files
from dmlbench.report.sources import Specs
from dmlbench.spec import Cell


@dataclass(frozen=True, order=True)
class _Matrix:
    """Cells that one command line makes, but for its methods."""

    protocol: str
    overrides: tuple[str, ...]
    datasets: tuple[str, ...]
    seeds: tuple[int, ...] = ()
    own_files: bool = False
    kept: bool = False
    tuned: bool = False


def commands(arranged: pd.DataFrame, specs: Specs, kept: Collection[str]) -> list[str]:
    """The command lines that make these results again, one per protocol with its settings, dataset and seeds.

    Args:
        arranged: Results after `groups.arrange`.
        specs: Their specs.
        kept: The folders that hold embeddings.
    """
    methods: dict[tuple[_Matrix, str], list[int]] = {}
    trials = False
    for folder in done(arranged)["folder"].unique():
        cell = specs[folder]
        data = cell.dataset
        if data.held_out:  # no run makes it
            trials = True
            continue
        words = (f"{data.name}=FOLDER" if data.root else data.name, *(["--skip-bad"] if data.skipped else []))
        place = _Matrix(
            cell.protocol.name, cell.overrides, words, own_files=_needs_own_files(cell), kept=folder in kept,
            tuned=cell.method.tuned is not None,
        )  # fmt: skip
        methods.setdefault((place, cell.method.name), []).append(cell.seed)
    lines: dict[_Matrix, list[str]] = {}
    for (place, method), seeds in sorted(methods.items()):
        lines.setdefault(replace(place, seeds=tuple(sorted(seeds))), []).append(method)
    notes = {
        "# trials on held-out training classes are made by `dmlbench tune`": trials,
        "# METHODS: the folder of the method files that are not shipped": any(line.own_files for line in lines),
        "# tuned.yaml: what `dmlbench tune` wrote, in tuning/ of its results folder": any(line.tuned for line in lines),
    }
    written = [note for note, wanted in notes.items() if wanted]
    return [*(_command(*line) for line in lines.items()), *written, *_weights(specs.values())]


def for_readers(command: str) -> str:
    """A command line as anyone may type it: without the folder that its user had for results."""
    words = shlex.split(command)
    kept = [word for before, word in zip(["", *words], words, strict=False) if "--results" not in (before, word)]
    return without_paths(shlex.join(word for word in kept if not word.startswith("--results=")))


def _weights(cells: Iterable[Cell]) -> list[str]:
    """A note on every file of pretrained weights, which a protocol names and a reader has to bring."""
    models = [cell.protocol.model for cell in cells]
    found = {
        (Path(model.weights).name, model.weights_sha256) for model in models if model.weights and model.weights_sha256
    }
    where = "your copy of the pretrained weights, by this name in the folder where this runs; SHA-256"
    return [f"# {name}: {where} {digest}" for name, digest in sorted(found)]


def _needs_own_files(cell: Cell) -> bool:
    """Whether a part of the method has its code or its values from a user's folder."""
    names = {part.name for part in (cell.method.loss, cell.method.distillation) if part}
    marks = {REPLACED.format(name) for name in (*names, cell.method.name)}
    return not names <= shipped_files().keys() or not marks.isdisjoint(cell.method.marks)


def _command(matrix: _Matrix, methods: Sequence[str]) -> str:
    words = ["dmlbench", "run", "--methods", ",".join(methods), "--datasets", *matrix.datasets]
    words += ["--protocol", matrix.protocol if matrix.protocol in own_protocols() else f"{matrix.protocol}.yaml"]
    words += ["--methods-dir", "METHODS"] if matrix.own_files else []
    words += ["--tuned", "tuned.yaml"] if matrix.tuned else []
    words += ["--keep", "embeddings"] if matrix.kept else []
    seeds = matrix.seeds
    first = seeds == tuple(range(len(seeds)))
    words += ["--seeds", str(len(seeds))] if first else [word for seed in seeds for word in ("--seed", str(seed))]
    words += [word for setting in matrix.overrides for word in ("--set", without_paths(setting))]
    return " ".join(shlex.quote(word) for word in words)
