"""Results as pandas tables: one row a cell and selection, or one row a cell and epoch."""

from pathlib import Path
from typing import Any

import pandas as pd

from dmlbench.damaged import Damaged, OnDamaged, attempt, sound, warn
from dmlbench.history import read_history
from dmlbench.provenance import kind_of_machine, place
from dmlbench.readouts import FIRST, MEAN, by_readout, mark, named
from dmlbench.shared_machine import beside_others, of_its_own
from dmlbench.store import DEFAULT_ROOT, Record, Store
from dmlbench.summary import COLUMNS, INDEX


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
