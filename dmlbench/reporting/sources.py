"""Where a report's numbers come from: specs, machines, data, code, and what is missing.

The command lines that make a report's numbers again.
"""

import shlex
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from dmlbench.analysis.groups import GROUP, METHOD, Group, done, groups, in_order, method_name, without_paths
from dmlbench.errors import Damaged, OnDamaged, UserError, attempt, counted, sound, warn
from dmlbench.reporting.naming import named
from dmlbench.results.frames import MEAN
from dmlbench.results.records import INDEX, Code, Environment, Summary, facts, one_wording
from dmlbench.results.store import Roots, folder_state, read_spec, read_summary
from dmlbench.results.submissions import jobs
from dmlbench.specs.cell import Cell, Part, ResolvedValue, differences, digest
from dmlbench.specs.overrides import sourced, to_type
from dmlbench.specs.protocol import own_protocols
from dmlbench.specs.protocol_spec import Scalar, TrainingSpec, protocol_identity
from dmlbench.specs.registry import REPLACED, shipped_files
from dmlbench.specs.tuned import Tuned, default_path, identity_of, read_tuned

Specs = Mapping[str, Cell]
NETWORKS_RATE = "the network's: the method's file gives no other"  # where a learning rate comes from


@dataclass(frozen=True)
class Missing:
    """A cell without a result: its name in words, and why."""

    label: str
    reason: str


def read_specs(results: pd.DataFrame, damaged: OnDamaged = warn) -> dict[str, Cell]:
    """The spec of every finished cell, by folder; `damaged` takes those that cannot be read."""
    read = ((folder, attempt(read_spec, Path(folder))) for folder in done(results)["folder"].unique())
    return dict(sound((spec if isinstance(spec, Damaged) else (folder, spec) for folder, spec in read), damaged))


def check_one_spec(results: pd.DataFrame, specs: Specs) -> None:
    """Raise UserError where cells of one row, or of one table, were made from different specs.

    A protocol or method file that was edited between two runs gives results under the same names that may not be
    averaged or compared. Seeds apart, a row has one spec; all rows of a table share protocol and dataset.
    """
    cells = done(results).drop_duplicates("folder")
    identities = [specs[folder].identity() | {"seed": None} for folder in cells["folder"]]
    shared = [(protocol_identity(specs[folder].protocol), specs[folder].dataset.version) for folder in cells["folder"]]
    cells = cells.assign(own=list(map(digest, identities)), shared=list(map(digest, shared)))
    for keys, column in ([*GROUP, *METHOD], "own"), (GROUP, "shared"):
        for _, part in cells.groupby(keys, sort=False):
            first, other = part.iloc[0], part[part[column] != part[column].iloc[0]]
            if len(other):
                raise _two_specs(part, (str(first["folder"]), str(other["folder"].iloc[0])), specs)


def group_facts(group: Group, results: pd.DataFrame, specs: Specs) -> str:
    """A group's protocol and dataset in one sentence."""
    folder = done(group.of(results))["folder"].iloc[0]
    protocol = specs[folder].protocol
    training, summary = protocol.training, read_summary(Path(folder))
    data = summary.dataset if summary else None
    said = [
        protocol.title + (" (but for what the heading says)" if group.overrides else ""),
        f"{_length(training)} in batches of {_batch(training)}",
        f"{protocol.model.embedding_dim}-d embedding",
    ]
    if protocol.validation.classes:
        said.append(f"{protocol.validation.classes:.0%} of the training classes held out")
    if data and data.train_images:
        said.append(f"{data.train_images:,} training images of {data.train_classes:,} classes")
        said.append(f"{data.test_images:,} test images of {data.test_classes:,} other classes")
        if data.query_images:
            gallery = data.test_images - data.query_images
            said.append(f"{data.query_images:,} of them queries that search the other {gallery:,}, the gallery")
    if data and data.skipped:
        said.append(f"{len(data.skipped)} unusable images left out")
    if (varied := training.vary) != "all":
        said.append(f"seeds decide the {varied} alone, with all else as in seed 0: intervals and verdicts are of that")
    return without_paths("; ".join(said)) + "."


def _length(training: TrainingSpec) -> str:
    epochs = counted(training.epochs, "epoch")
    return f"{epochs} of {counted(training.steps_per_epoch, 'step')}" if training.steps_per_epoch else epochs


def _batch(training: TrainingSpec) -> str:
    if training.samples_per_class == 1:
        return f"{training.batch_size}"
    return f"{training.batch_size // training.samples_per_class} × {training.samples_per_class}"


def other_images(results: pd.DataFrame, specs: Specs) -> dict[Group, str]:
    """Why groups were not trained on the images that papers report on: a user's own folder, or some left out."""
    found = {}
    for group in groups(done(results)):
        data = specs[done(group.of(results))["folder"].iloc[0]].dataset
        if data.root:
            found[group] = "images of the user's own"
        elif data.skipped:
            found[group] = f"{len(data.skipped)} images were left out"
    return found


def read_studies(roots: Iterable[Path], damaged: OnDamaged) -> list[Tuned]:
    """What tuning found, of each results folder's tuned.yaml; `damaged` takes the files that cannot be read.

    Of a study that several folders hold the first counts; one that chose other values there is given to `damaged`.
    """
    found: dict[Hashable, Tuned] = {}
    for path in (path for path in map(default_path, roots) if path.is_file()):
        for entry in (own for entries in sound([attempt(_entries, path)], damaged) for own in entries):
            first = found.setdefault(entry.key, entry)
            if dict(first.values) != dict(entry.values):
                what = f"{path}: {entry.method} on {entry.dataset}, study {entry.study_seed}"
                damaged(
                    Damaged(path, f"{what}: chose other values than the same study in another --results, which counts")
                )
    return list(found.values())


def _entries(path: Path) -> list[Tuned]:
    return [*read_tuned(path).entries]


def tuning_margins(entries: Sequence[Tuned], results: pd.DataFrame, specs: Specs) -> dict[tuple[str, ...], str]:
    """By how much tuned values were chosen, in words, by protocol, dataset and method.

    An entry that was found for something else, or has other values than a cell was trained with, says nothing of it.
    """
    found: dict[tuple[str, ...], str] = {}
    for cell in done(results).drop_duplicates("folder").to_dict("records"):
        spec = specs[cell["folder"]]
        if spec.method.tuned and (margin := next(filter(None, (_margin(entry, spec) for entry in entries)), "")):
            found[cell["protocol"], cell["dataset"], cell["method"]] = margin
    return found


def _margin(entry: Tuned, cell: Cell) -> str:
    """By how much an entry's values were chosen, if it is that of a cell; else empty."""
    identity = identity_of(cell.method, cell.dataset, cell.protocol)
    same = (entry.protocol, entry.dataset, entry.method) == (cell.protocol.name, cell.dataset.name, cell.method.name)
    same = same and (entry.dataset_version, entry.protocol_hash) == (
        identity["dataset_version"],
        identity["protocol_hash"],
    )
    return entry.margin if same and dict(entry.values).items() <= cell.method.searchable().items() else ""


def settings(results: pd.DataFrame, specs: Specs) -> pd.DataFrame:
    """Every method's hyperparameters: one row per group, method and parameter, with the source of its value."""
    rows = []
    cells = done(results).assign(network=MEAN).drop_duplicates([*GROUP, *METHOD])
    for cell in named(in_order(cells)).to_dict("records"):
        spec = specs[cell["folder"]]
        told = sourced(spec, spec.method.marks)
        for part, same in ((spec.method.loss, told.loss), (spec.method.distillation, told.distillation)):
            if part is None or same is None:
                continue
            own = {key: cell[key] for key in (*GROUP, "name")} | {"part": part.name, "implementation": part.variant}
            rows += [own | asdict(value) for value in _values(part, same)]
            if part.kind == "loss":
                rows += [own | asdict(value) for value in _at_networks_rate(Path(cell["folder"]), spec)]
    columns = [*GROUP, "name", "part", "implementation", "parameter", "value", "source", "published"]
    return pd.DataFrame(rows, columns=columns)


def protocol_values(results: pd.DataFrame, specs: Specs) -> pd.DataFrame:
    """Every value of every protocol, flat: one row per protocol with its settings, dataset and key."""
    rows = []
    for cell in done(results).drop_duplicates(GROUP).to_dict("records"):
        protocol = specs[cell["folder"]].protocol
        for section, content in protocol_identity(protocol).items():
            values = content.items() if isinstance(content, dict) else [("", content)]
            for key, value in values:
                name = ".".join(filter(None, (section, key)))
                rows.append({key: cell[key] for key in GROUP} | {"parameter": name, "value": str(value)})
    return pd.DataFrame(rows, columns=[*GROUP, "parameter", "value"])


def environments(summaries: Sequence[Summary]) -> list[dict[str, str]]:
    """Every distinct machine with its libraries, and how many cells ran there."""
    counts: dict[tuple[tuple[str, str], ...], int] = {}
    for summary in summaries:
        # The number of a GPU is no difference between two environments.
        known = summary.environment.as_json() | {"device": summary.environment.device_kind}
        key = tuple((name, str(value)) for name, value in known.items())
        counts[key] = counts.get(key, 0) + 1
    return [{"cells": str(count)} | dict(found) for found, count in counts.items()]


def datasets(summaries: Sequence[Summary]) -> list[dict[str, str]]:
    """Every distinct dataset content by version and fingerprint."""
    data = (summary.dataset for summary in summaries if summary.dataset)
    found = {(own.name, own.version, own.fingerprint) for own in data}
    return [dict(zip(("name", "version", "fingerprint"), key, strict=True)) for key in sorted(found)]


def code_states(summaries: Sequence[Summary]) -> list[str]:
    """Every distinct state of the training code, in words."""
    return sorted({f"dmlbench {code_state(summary.code, summary.environment)}" for summary in summaries})


def code_digests(summaries: Sequence[Summary]) -> frozenset[str]:
    """Digests of the training code."""
    return frozenset(summary.code.digest for summary in summaries if summary.code.digest)


def code_state(code: Code, environment: Environment) -> str:
    """Version, digest and commit of the training code: `0.1.0, training code 0123, commit 4567`."""
    commit = f", commit {code.commit[:10]}{' with changes' if code.dirty else ''}" if code.commit else ""
    return f"{environment.dmlbench or 'unknown'}, training code {code.digest or 'unknown'}{commit}"


def failed(results: pd.DataFrame) -> list[Missing]:
    """Cells that failed, with their errors, but for those that another spec has finished since."""
    row = [*GROUP, *METHOD, "seed"]
    there = set(done(results)[row].itertuples(index=False, name=None))
    rows = results[results["status"] != "done"].drop_duplicates("folder").to_dict("records")
    open_ = [own for own in rows if tuple(own[column] for column in row) not in there]
    return [_missing(own, without_paths(str(own["error"] or "no message"))) for own in open_]


def unfinished(roots: Roots, damaged: OnDamaged = warn) -> pd.DataFrame:
    """Cells that were planned and have no result: the columns of `load_results` that say what they are, and `state`.

    The state says why the SLURM job ended that had the cell. `damaged` takes those whose spec cannot be read.
    """
    states = {folder: folder_state(folder) for store in roots.stores for folder in store.folders()}
    read = ((folder, attempt(read_spec, folder)) for folder, state in states.items() if state != "damaged")
    specs = list(sound((spec if isinstance(spec, Damaged) else (folder, spec) for folder, spec in read), damaged))
    ended = {spec.hash for folder, spec in specs if states[folder] in ("done", "failed")}
    found = zip((states[folder] for folder, _ in specs), one_wording(facts(spec) for _, spec in specs), strict=True)
    rows = [own.__dict__ | {"network": MEAN, "state": state} for state, own in found if own.hash not in ended]
    ends = _ended_jobs(roots, {row["hash"] for row in rows}, damaged)
    rows = [row | {"state": f"{row['state']}: {ends[row['hash']]}"} if row["hash"] in ends else row for row in rows]
    return pd.DataFrame(rows, columns=[*INDEX, "network", "state"]).drop_duplicates("hash")


def _ended_jobs(roots: Roots, hashes: Collection[str], damaged: OnDamaged) -> dict[str, str]:
    """Why the SLURM jobs of cells are over, by the cells' hashes."""
    found = {cell: job for store in roots.stores for cell, job in jobs(store.root, hashes, damaged).items()}
    return {cell: job.cause for cell, job in found.items() if job.cause}


def in_words(begun: pd.DataFrame) -> list[Missing]:
    """Rows of `unfinished` in words."""
    return [_missing(row, row["state"]) for row in begun.to_dict("records")]


def _two_specs(part: pd.DataFrame, folders: tuple[str, str], specs: Specs) -> UserError:
    summaries = {folder: read_summary(Path(folder)) for folder in folders}
    started = {folder: summary.started if summary else "" for folder, summary in summaries.items()}
    older, newer = sorted(folders, key=lambda folder: started[folder])
    title, differ = Group(*part.iloc[0][GROUP]).title, differences(specs[older], specs[newer])
    methods = " and ".join(dict.fromkeys(specs[folder].method.name for folder in (older, newer)))
    return UserError(
        f"{older} (older) and {newer} (newer): made from different specs under the same names ({methods}, {title}): "
        f"{differ}",
        hint="delete the folders of one spec, or run into another --results",
    )


def _missing(row: Mapping[Any, Any], reason: str) -> Missing:
    group = Group(*(row[key] for key in GROUP))
    return Missing(f"{method_name(row)}, seed {row['seed']}, {group.title}", reason)


@dataclass(frozen=True)
class _Value:
    """A hyperparameter in the methods appendix."""

    parameter: str
    value: Scalar
    source: str
    published: str  # "yes", "no", or for what it was


def _at_networks_rate(folder: Path, spec: Cell) -> list[_Value]:
    """What a loss learned at the network's rate, because its file gave no other."""
    rate, summary = spec.method.network_rate(spec.protocol.training.learning_rate), read_summary(folder)
    names = summary.at_networks_rate if summary else []
    return [_Value(f"learning rate of {name}", rate, NETWORKS_RATE, published="no") for name in names]


def _values(part: Part, told: Part) -> list[_Value]:
    """Values with their sources; `told` says for what they were published."""
    known = _named(told)
    return [_Value(name, own.value, own.source, _published(known[name])) for name, own in _named(part).items()]


def _named(part: Part) -> dict[str, ResolvedValue]:
    return part.parameters | {f"learning rate of {name}": value for name, value in part.learning_rates.items()}


def _published(value: ResolvedValue) -> str:
    if value.transferred_from:
        return f"for {', '.join(value.transferred_from)}"
    return "yes" if value.published else "no"


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


def commands(results: pd.DataFrame, specs: Specs, kept: Collection[str]) -> list[str]:
    """The command lines that make these results again, one per protocol with its settings, dataset and seeds.

    Args:
        results: As `load_results` returns them.
        specs: Their specs.
        kept: The folders that hold embeddings.
    """
    methods: dict[tuple[_Matrix, str], list[int]] = {}
    trials = False
    for folder in done(results)["folder"].unique():
        cell = specs[folder]
        data = cell.dataset
        if data.held_out or data.fold:  # no run makes it
            trials = True
            continue
        words = (data.typed, *(["--skip-bad"] if data.skipped else []))
        matrix = _Matrix(
            cell.protocol.name, to_type(cell), words, own_files=_needs_own_files(cell), kept=folder in kept,
            tuned=cell.method.tuned is not None,
        )  # fmt: skip
        methods.setdefault((matrix, cell.method.name), []).append(cell.seed)
    lines: dict[_Matrix, list[str]] = {}
    for (matrix, method), seeds in sorted(methods.items()):
        lines.setdefault(replace(matrix, seeds=tuple(sorted(seeds))), []).append(method)
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
