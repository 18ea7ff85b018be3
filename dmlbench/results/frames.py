"""Results as pandas tables: one row a cell, selection and network, or one row a cell and epoch.

A runner writes down how many cells it has at a time, and knows of no other runner. Two that share a results folder on
one machine are seen here, by when their cells ran: their times are of a machine that did other work, too.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from dmlbench.errors import Damaged, OnDamaged, attempt, sound, warn
from dmlbench.results.environment import kind_of_machine, machine_and_load
from dmlbench.results.evaluated import STATUS, Evaluated, read_evaluated
from dmlbench.results.history import read_history
from dmlbench.results.records import COLUMNS, INDEX, Facts, Selection, Summary, facts, one_wording
from dmlbench.results.store import DEFAULT_ROOT, Record, Roots, read_spec
from dmlbench.specs.cell import Cell
from dmlbench.specs.overrides import with_origins

MEAN, FIRST, ENSEMBLE = "mean", "1", "ensemble"  # networks; a single one is its own mean, and the first the base's
NUMBERED = "member"  # before a network's number, in the names of metrics on disk
UNTRAINED = "untrained"


Paths = str | Path | Iterable[str | Path] | Roots


# Arrow's memory holds no name that is not UTF-8, and of its strings every one that is looked at is made anew.
PLAIN_STRINGS = ("mode.string_storage", "python")


@pd.option_context(*PLAIN_STRINGS)
def load_results(path: Paths = DEFAULT_ROOT, damaged: OnDamaged = warn) -> pd.DataFrame:
    """Load a results folder, or several as one: a cell that several hold counts once.

    Args:
        path: The folder given to `dmlbench run --results`, or a list of such folders.
        damaged: Takes the results that cannot be read or are of an unknown version, which are left out [default: a
            warning for each].

    Returns:
        One row per cell, selection (`untrained`, `last`, `validation`, `best_test`) and network: methods that train
        several are compared with others by the rows whose `network` is `mean` (or `ensemble`). The columns of
        `Facts` say what it is made of: protocol, overrides, dataset, method, base, base_settings, modifier,
        modifier_settings, tuned, seed, and hashes. `network` is `mean`; methods that train several networks have rows
        for `1`, `2`, ... and the `ensemble`, too, and `networks` counts them. Then status, marks, folder; a column per
        test metric as a fraction (`recall_at_1`, ...) and its `epoch`; `step_ms` (milliseconds per training step
        without the wait for data, median over epochs from the second; none of a cell that was run with
        `--system-metrics`), `train_seconds`; `machine` (with what its own runner had on it, and the training code's
        digest) and `exclusive`, False where cells of another runner ran beside: times compare where `machine` is the
        same, of exclusive cells; `origin` (kind of device, digest of the initial weights), between which no pair is
        formed; `kind` (of processor and libraries), between which a cell differs as another seed would.
        A failed cell is one row with empty metrics and its `error`. What `dmlbench evaluate --results` wrote is one row
        with the status `evaluated`, its name as `method`, and neither base, selection nor seed of its own (0).

    Raises:
        UserError: where the folder cannot be read.
    """
    found = _read(path, damaged)
    crowded = beside_others([record.summary for record, _ in found])
    rows = [row for (record, own), beside in zip(found, crowded, strict=True)
            for row in result_rows(record, own, exclusive=not beside)]  # fmt: skip
    rows += [_evaluated_row(file, row) for file, row in read_evaluated(Roots.of(path).paths, damaged)]
    return pd.DataFrame(rows) if rows else pd.DataFrame(columns=[*INDEX, *COLUMNS])


@pd.option_context(*PLAIN_STRINGS)
def load_history(path: Paths = DEFAULT_ROOT, damaged: OnDamaged = warn) -> pd.DataFrame:
    """Load every cell's `history.csv`: one row per cell and epoch, with the columns of `Facts` in front.

    Args:
        path: As of `load_results`.
        damaged: Takes the results and the histories that cannot be read, which are left out [default: a warning].
    """
    every = [((record, own), attempt(read_history, record.folder)) for record, own in _read(path, damaged)]
    found = list(sound((rows if isinstance(rows, Damaged) else (one, rows) for one, rows in every), damaged))
    if not any(rows for _, rows in found):
        return pd.DataFrame(columns=[*INDEX, "network", "epoch"])
    # A row per cell, repeated: columns added to each of hundreds of small tables take longer than reading them.
    cells = pd.DataFrame([own.__dict__ | {"network": MEAN} for (_, own), _ in found])
    repeated = cells.loc[cells.index.repeat([len(rows) for _, rows in found])].reset_index(drop=True)
    measured = pd.DataFrame([row for _, rows in found for row in rows])
    types = {column: "int64" if column == "epoch" else "float64" for column in measured}
    return pd.concat([repeated, measured.astype(types)], axis="columns")


def _read(path: Paths, damaged: OnDamaged) -> list[tuple[Record, Facts]]:
    """Every sound result with what it is made of."""
    roots = Roots.of(path)
    for store in roots.stores:
        store.check_readable()
    records = [(record, attempt(read_spec, record.folder)) for record in roots.records(damaged)]
    pairs = sound((spec if isinstance(spec, Damaged) else (record, spec) for record, spec in records), damaged)
    kept = [(_with_origins(record, spec), facts(spec)) for record, spec in pairs]
    return list(zip([record for record, _ in kept], one_wording(own for _, own in kept), strict=True))


def _with_origins(record: Record, spec: Cell) -> Record:
    cell = record.summary.cell
    told = cell.model_copy(update={"marks": with_origins(cell.marks, spec)})
    return replace(record, summary=record.summary.model_copy(update={"cell": told}))


def result_rows(record: Record, own: Facts, *, exclusive: bool = True) -> list[dict[str, object]]:
    """One result's rows of `load_results`, one per selection and network."""
    summary, environment = record.summary, record.summary.environment
    timing = summary.timing
    common = own.__dict__ | {
        "status": summary.status,
        "marks": "; ".join(summary.cell.marks),
        "folder": str(record.folder),
        # Sampling the machine takes from what is timed.
        "step_ms": timing.step_ms if timing and not environment.system_metrics else None,
        "train_seconds": timing.train_s if timing else None,
        "machine": machine_and_load(environment, summary.code.digest) if environment.machine else None,
        "exclusive": exclusive,
        "origin": origin(summary),
        "kind": "/".join(kind_of_machine(environment).values()),
        "error": summary.error.message if summary.error else None,
    }
    if not summary.done:
        return [common | {"selection": None, "network": MEAN, "networks": 1}]
    return [row for name, chosen in (summary.selections or {}).items() for row in _rows(common, name, chosen)]


def _evaluated_row(file: Path, row: Evaluated) -> dict[str, object]:
    """The row of what was not trained here."""
    other = {"selection": None, "network": MEAN, "networks": 1, "step_ms": None, "train_seconds": None}
    told = {"status": STATUS, "marks": row.mark, "folder": str(file), "exclusive": True, "origin": "", "kind": ""}
    return row.facts.__dict__ | other | told | {"machine": None, "error": None, "epoch": None} | row.metrics


def origin(summary: Summary) -> str:
    """What two results must share to form a pair: kind of device, initial weights, images."""
    data = summary.dataset.fingerprint[:16] if summary.dataset else ""
    return "/".join(filter(None, (summary.environment.device_kind, summary.initial_weights, data)))


def _rows(common: dict[str, object], selection: str, chosen: Selection) -> list[dict[str, object]]:
    """A row for each network of a selection: one, where one was trained."""
    metrics, epochs = _by_network(chosen.metrics), _by_network(chosen.epochs)
    networks = sum(network.isdigit() for network in metrics)
    if networks and selection == UNTRAINED:  # every method of a seed starts from the network of the first
        metrics, epochs = {MEAN: metrics[FIRST]}, {MEAN: epochs[FIRST]}
    rows = []
    for network, measured in metrics.items():
        marks = "; ".join(filter(None, (str(common["marks"]), mark(network, networks) if networks else "")))
        which = {"selection": selection, "network": network, "networks": max(networks, 1)}
        rows.append(common | which | {"marks": marks, "epoch": epochs[network].get("recall_at_1")} | measured)
    return rows


def _by_network(metrics: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Metrics by network and name, from `member1/recall_at_1`, `ensemble/recall_at_1` and the mean's `recall_at_1`."""
    found: dict[str, dict[str, float]] = {}
    for key, value in metrics.items():
        network, _, name = key.rpartition("/")
        found.setdefault(network.removeprefix(NUMBERED) or MEAN, {})[name] = value
    return found


def mark(network: str, networks: int) -> str:
    """What every table says of a network of several, with the number that were trained."""
    if network == ENSEMBLE:
        return f"ensemble of {networks} networks: {networks} forward passes, {networks} x the dimensions at test time"
    return f"mean over {networks} networks" if network == MEAN else f"one of {networks} networks"


def of_kept_embeddings(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of `load_results` that kept embeddings belong to: of several networks the first's."""
    several = rows["networks"].astype(int) > 1
    return rows[rows["network"] == np.where(several, FIRST, MEAN)]


MARGIN = 0.25  # of a cell, over its whole time: the ends of a matrix overlap by less
RESOLUTION = 1.0  # seconds, in which a beginning is written down


def beside_others(summaries: Sequence[Summary]) -> list[bool]:
    """Whether each cell ran beside more cells of its machine than its own runner had at a time, on average.

    Where any did, so may have the earlier attempts at a cell that was resumed: when these ran is not written down.
    Cells that took less than a second, or whose runner's load is not known, do not count.
    """
    # With its instructions: records of before `machine` told generations of processors apart are still read.
    hosts = [summary.environment for summary in summaries]
    machines = [(host.machine, str(host.cpu_capability)) if host.machine else None for host in hosts]
    spans = [_times(summary) for summary in summaries]
    found = [False] * len(summaries)
    for machine in set(filter(None, machines)):
        here = [index for index, own in enumerate(machines) if own == machine]
        timed = [index for index in here if spans[index] and not summaries[index].resumed]
        own = np.array([summaries[index].environment.processes for index in timed])
        each = np.array([spans[index] for index in timed], dtype=np.float64).reshape(-1, 2)
        crowded = {index for index, more in zip(timed, _at_once(each) > own + MARGIN, strict=True) if more}
        for index in here:
            found[index] = index in crowded or bool(crowded and summaries[index].resumed)
    return found


def _times(summary: Summary) -> tuple[float, float] | None:
    """From when to when a cell ran for certain, in seconds."""
    if not summary.started or not summary.environment.processes:
        return None
    begun = datetime.fromisoformat(summary.started).timestamp()
    first, last = begun + RESOLUTION, begun + summary.total_s
    return (first, last) if last > first else None


def _at_once(spans: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """How many spans there are at a time, on average over each span, itself counted.

    The spans' time that has gone by at a moment, summed over all, is a line with corners where they begin and end.
    """
    if not len(spans):
        return np.empty(0)
    begins, ends = np.sort(spans[:, 0]), np.sort(spans[:, 1])
    corners = np.sort(spans.ravel())
    running = np.searchsorted(begins, corners, "right") - np.searchsorted(ends, corners, "right")
    gone = np.concatenate([[0.0], np.cumsum(running[:-1] * np.diff(corners))])
    spent = np.interp(spans[:, 1], corners, gone) - np.interp(spans[:, 0], corners, gone)
    return np.asarray(spent / (spans[:, 1] - spans[:, 0]))
