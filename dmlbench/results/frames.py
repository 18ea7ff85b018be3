"""Results as pandas tables: one row a cell and selection, or one row a cell and epoch.

Cells that another runner's cells ran beside: their times are of a machine that did other work, too.

A runner writes down how many cells it has at a time, and knows of no other runner. Two that share a results folder on
one machine are seen afterwards, by when their cells ran.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from dmlbench.errors import Damaged, OnDamaged, attempt, sound, warn
from dmlbench.results.environment import kind_of_machine, place
from dmlbench.results.history import read_history
from dmlbench.results.readouts import FIRST, MEAN, by_readout, mark, named
from dmlbench.results.records import COLUMNS, INDEX
from dmlbench.results.store import DEFAULT_ROOT, Record, Store


def load_results(path: str | Path = DEFAULT_ROOT, damaged: OnDamaged = warn) -> pd.DataFrame:
    """Load a results folder.

    Args:
        path: The folder given to `dmlbench run --results`.
        damaged: Takes the results that cannot be read or are of an unknown version, which are left out [default: a
            warning for each].

    Returns:
        One row per cell and selection (`untrained`, `last`, `validation`, `best_test`): the columns protocol, variant
        (what `--set` changed, or ""), dataset, method, base, modifier, seed, hash, status, selection, marks, folder;
        readout ("" but for methods that train several networks: they have a row for each of them and for their
        `ensemble` beside their mean); a column per test metric as a fraction (`recall_at_1`, ...) and its `epoch`;
        `step_ms` (milliseconds per training step without the wait for data, median over epochs from the second; none of
        a cell that was run with `--system-metrics`), `train_seconds`; `machine` (with what shared it; a name of its own
        where cells of another runner ran beside), between which times do not compare; `origin` (kind of device, digest
        of the initial weights), between which no pair is formed; `kind` (of processor and libraries), between which a
        cell differs as another seed would.
        A failed cell is one row with empty metrics and its `error`.

    Raises:
        UserError: where the folder cannot be read.
    """
    store = Store(Path(path))
    store.check_readable()
    records = list(store.records(damaged))
    crowded = beside_others([record.summary for record in records])
    rows = [row for record, own in zip(records, crowded, strict=True) for row in _timed_rows(record, crowded=own)]
    return pd.DataFrame(rows) if rows else pd.DataFrame(columns=[*INDEX, *COLUMNS])


def load_history(path: str | Path = DEFAULT_ROOT, damaged: OnDamaged = warn) -> pd.DataFrame:
    """Load every cell's `history.csv`: one row per cell and epoch, with the cell's index columns in front.

    Args:
        path: As of `load_results`.
        damaged: Takes the results and the histories that cannot be read, which are left out [default: a warning].
    """
    store = Store(Path(path))
    store.check_readable()
    read = ((record, attempt(read_history, record.folder)) for record in store.records(damaged))
    found = list(sound((rows if isinstance(rows, Damaged) else (record, rows) for record, rows in read), damaged))
    if not any(rows for _, rows in found):
        return pd.DataFrame(columns=[*INDEX, "hash", "epoch"])
    # A row per cell, repeated: columns added to each of hundreds of small tables take longer than reading them.
    cells = pd.DataFrame([_index(record) for record, _ in found])
    repeated = cells.loc[cells.index.repeat([len(rows) for _, rows in found])].reset_index(drop=True)
    measured = pd.DataFrame([row for _, rows in found for row in rows])
    types = {column: "int64" if column == "epoch" else "float64" for column in measured}
    return pd.concat([repeated, measured.astype(types)], axis="columns")


def _index(record: Record) -> dict[str, Any]:
    cell = record.summary["cell"]
    return {key: cell[key] for key in (*INDEX, "hash")}


def _origin(summary: dict[str, Any]) -> str:
    kind = str(summary["environment"].get("device", "")).partition(":")[0]
    data = summary.get("dataset", {}).get("fingerprint", "")[:16]
    return "/".join(filter(None, (kind, summary.get("initial_weights"), data)))


def _timed_rows(record: Record, *, crowded: bool) -> list[dict[str, Any]]:
    rows = record_rows(record)
    return [row | {"machine": of_its_own(row["machine"], row["hash"])} for row in rows] if crowded else rows


def record_rows(record: Record) -> list[dict[str, Any]]:
    """One result's rows of `load_results`, one per selection."""
    summary = record.summary
    timing, environment = summary.get("timing") or {}, summary["environment"]
    common = _index(record) | {
        "status": summary["status"],
        "marks": "; ".join(summary["cell"]["marks"]),
        "folder": str(record.folder),
        # Whoever samples the machine takes from what is timed.
        "step_ms": None if environment.get("system_metrics") else timing.get("step_ms"),
        "train_seconds": timing.get("train_s"),
        "machine": place(environment) if environment.get("machine") else None,
        "origin": _origin(summary),
        "kind": "/".join(kind_of_machine(environment).values()),
        "error": (summary.get("error") or {}).get("message"),
    }
    chosen = summary.get("selections") or {}
    if summary["status"] != "done":
        return [common | {"selection": None, "readout": MEAN, "networks": 1}]
    return [row for name, content in chosen.items() for row in _readout_rows(common, name, content)]


def _readout_rows(common: dict[str, Any], selection: str, content: dict[str, Any]) -> list[dict[str, Any]]:
    """A row for each readout of a selection: one, where one network was trained."""
    metrics, epochs = by_readout(content["metrics"]), by_readout(content["epochs"])
    networks = sum(readout.startswith("member") for readout in metrics)
    if networks and selection == "untrained":  # every method of a seed starts from the network of the first
        metrics, epochs = {MEAN: metrics[FIRST]}, {MEAN: epochs[FIRST]}
    rows = []
    for readout, own in metrics.items():
        marks = "; ".join(filter(None, (common["marks"], mark(readout, networks) if networks else "")))
        names = {key: named(common[key], readout) for key in ("method", "modifier")}
        place = {
            "selection": selection,
            "readout": readout,
            "networks": max(networks, 1),
            "epoch": epochs[readout].get("recall_at_1"),
        }
        rows.append(common | names | {"marks": marks} | place | own)
    return rows


MARGIN = 0.25  # of a cell, over its whole time: the ends of a matrix overlap by less
RESOLUTION = 1.0  # seconds, in which a beginning is written down
BESIDE = "/beside other runs, cell "


def beside_others(summaries: Sequence[Mapping[str, Any]]) -> list[bool]:
    """Whether each cell ran beside more cells of its machine than its own runner had at a time, on average.

    Where any did, so may have the earlier attempts at a cell that went on after an interruption, for when these ran is
    not written down.

    Args:
        summaries: Of the cells of a results folder. Left out of account are those that took less than a second, or
            whose runner's load is not known.
    """
    machines = [_machine(summary) for summary in summaries]
    spans = [_times(summary) for summary in summaries]
    found = [False] * len(summaries)
    for machine in set(filter(None, machines)):
        here = [index for index, own in enumerate(machines) if own == machine]
        timed = [index for index in here if spans[index] and not summaries[index].get("resumed")]
        own = np.array([summaries[index]["environment"]["processes"] for index in timed])
        each = np.array([spans[index] for index in timed], dtype=np.float64).reshape(-1, 2)
        crowded = {index for index, more in zip(timed, _at_once(each) > own + MARGIN, strict=True) if more}
        for index in here:
            found[index] = index in crowded or bool(crowded and summaries[index].get("resumed"))
    return found


def of_its_own(machine: str, cell: str) -> str:
    """The name of a machine that the cell of this hash shared with another runner's: no other cell has the same."""
    return f"{machine}{BESIDE}{cell[:8]}"


def was_shared(machine: object) -> bool:
    """Whether a `machine` of `load_results` is such a one."""
    return BESIDE in str(machine)


def _machine(summary: Mapping[str, Any]) -> tuple[str, str] | None:
    """With its instructions: records of before `machine` told generations of processors apart are still read."""
    environment = summary["environment"]
    name = environment.get("machine")
    return (str(name), str(environment.get("cpu_capability"))) if name else None


def _times(summary: Mapping[str, Any]) -> tuple[float, float] | None:
    """From when to when a cell ran for certain, in seconds."""
    known = {"total_s", "started"} <= summary.keys() and "processes" in summary["environment"]
    if not known:
        return None
    begun = datetime.fromisoformat(summary["started"]).timestamp()
    first, last = begun + RESOLUTION, begun + float(summary["total_s"])
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
