"""What MLflow shows of a method and of its cells: names, parameters, metrics and tags, and the runs that hold them."""

import json
from collections.abc import Iterable, Sequence
from math import isnan
from pathlib import Path
from time import time
from typing import TYPE_CHECKING

import pandas as pd

from dmlbench.analysis.groups import method_name, without_paths
from dmlbench.analysis.statistics import evidence, log_ratio_interval, t_interval, verdict
from dmlbench.errors import counted
from dmlbench.results.environment import machine_and_load
from dmlbench.results.frames import MEAN, origin
from dmlbench.results.history import read_history
from dmlbench.results.records import Data, facts
from dmlbench.results.store import Record
from dmlbench.specs.cell import Cell, digest
from dmlbench.specs.protocol_spec import PROSE
from dmlbench.tracking.connection import answering, delete, local_database, search, store_lock
from dmlbench.tracking.experiments import NOTE, PRIMARY, experiment_name

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput, Metric, Param, Run, RunTag

PARAM_LIMIT = 500  # characters MLflow keeps of a parameter
TAG_LIMIT = 5000
LABEL_LIMIT = 40  # characters of settings that a chart's legend has room for
FINAL = ("recall_at_1", "map_at_r", "r_precision", "nmi")
BEST_TEST = ("recall_at_1", "map_at_r")


def metrics(folder: Path, begun_ms: int, after: int = -1) -> list["Metric"]:
    """Every measured number of every epoch beyond `after`, with the epoch as step.

    Its time is the beginning plus the epochs' own times, so that the same epoch sent twice is the same metric, of
    which MLflow keeps one.
    """
    from mlflow.entities import Metric

    found, seconds = [], 0.0
    for row in read_history(folder):
        seconds += sum(row.get(key) or 0.0 for key in ("time/train_s", "time/evaluation_s"))
        epoch, time_ms = int(row["epoch"] or 0), begun_ms + int(1000 * seconds)
        values = {key: float(value) for key, value in row.items() if value is not None and key != "epoch"}
        found += [Metric(key, value, time_ms, epoch) for key, value in values.items() if epoch > after]
    return found


def final_metrics(record: Record, ended_ms: int) -> list["Metric"]:
    """A finished cell in few numbers, to sort a table of runs by; none of a failed one.

    `final/NAME` is a test metric after the last epoch, `test_best/NAME` at the epoch that was best by it. `cost/` has
    the median training step in milliseconds, training and all in minutes.
    """
    from mlflow.entities import Metric

    summary = record.summary
    if not summary.done or not summary.selections or not summary.timing:
        return []
    best = summary.selections["best_test"].metrics if "best_test" in summary.selections else {}
    found = {f"final/{name}": summary.last.get(name) for name in FINAL}
    found |= {f"test_best/{name}": best.get(name) for name in BEST_TEST}
    # Sampling the machine takes from what is timed.
    found["cost/step_ms"] = None if summary.environment.system_metrics else summary.timing.step_ms
    found |= {"cost/train_min": summary.timing.train_s / 60, "cost/total_min": summary.total_s / 60}
    return [Metric(key, readable(value), ended_ms, 0) for key, value in found.items() if value is not None]


def readable(value: float) -> float:
    """Six significant digits, which a column of the UI shows whole; the metrics by epoch have all of them."""
    return float(f"{value:.6g}")


def params(cell: Cell) -> list["Param"]:
    """Every value of the spec, flat."""
    from mlflow.entities import Param

    parts = {"loss": cell.method.loss, "distillation": cell.method.distillation}
    flat = {f"{kind}.{name}": value for kind, part in parts.items() if part for name, value in part.settings().items()}
    protocol = cell.protocol.model_dump(mode="json", exclude={"name", *PROSE})
    for section, values in protocol.items():
        flat |= {f"{section}.{name}": value for name, value in values.items() if value is not None}
    flat |= {"dataset.version": cell.dataset.version, "overrides": ", ".join(cell.overrides)}
    return [Param(key, str(value)[:PARAM_LIMIT]) for key, value in flat.items()]


def tags(cell: Cell) -> dict[str, str]:
    """What a cell is from its beginning."""
    index = cell.index()
    keys = ("method", "base", "modifier", "dataset", "protocol", "variant", "seed")
    return _tags({key: str(index[key]) for key in keys} | {
        "cell": cell.hash,
        # Runs of one campaign share every value of the protocol, so they may be compared.
        "campaign": f"{index['protocol_hash'][:8]}-{index['dataset']}",
        "status": "running",
        "marks": "; ".join(index["marks"]),
    }) | index_tags(cell)  # fmt: skip


def index_tags(cell: Cell) -> dict[str, str]:
    """Where a cell belongs among others: `group`, its spec but for the seed, and `base_group`, that of its base.

    `label` is the method with what `--set` changed, for people: `ms+psd{lambda=10}, training.epochs=3`; many settings
    are counted, with four digits that tell them from others. A tuned method names no base: that one's tuned values are
    others, which its spec does not hold.
    """
    method, spec = cell.method, cell.identity() | {"seed": None}
    base = method.model_copy(update={"name": method.base, "distillation": None})
    own = facts(cell)
    settings = str(own.overrides)
    if len(settings) > LABEL_LIMIT:
        settings = f"{counted(len(own.overrides.pairs), 'setting')} #{digest(settings)[:4]}"
    return _tags({
        "kind": "cell",
        "group": digest(spec),
        "base_group": digest(spec | {"method": base.identity()}) if method.distillation and not method.tuned else "",
        "label": ", ".join(filter(None, (method_name(own.__dict__ | {"network": MEAN}), without_paths(settings)))),
    })  # fmt: skip


def final_tags(record: Record) -> list["RunTag"]:
    """What is known of a cell at its end."""
    from mlflow.entities import RunTag

    summary = record.summary
    values = _tags({
        "status": summary.status,
        "started": summary.started,
        "gpu": summary.environment.gpu or "none",
        "machine": machine_and_load(summary.environment, summary.code.digest) if summary.environment.machine else "",
        "origin": origin(summary),
        "code": summary.code.digest,
        "error": summary.error.message if summary.error else "",
    })  # fmt: skip
    return [RunTag(key, value) for key, value in values.items()]


def dataset_input(dataset: Data) -> "DatasetInput":
    """The dataset as metadata: name, fingerprint and counts, never images."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    profile = {key: value for key, value in dataset.as_json().items() if key.endswith(("_images", "_classes"))}
    source = json.dumps({"name": dataset.name, "version": dataset.version})
    entity = Dataset(dataset.name, dataset.fingerprint[:8], "local", source, profile=json.dumps(profile))
    return DatasetInput(entity, [InputTag("mlflow.data.context", "training and evaluation")])


def _tags(values: dict[str, str]) -> dict[str, str]:
    return {key: value[:TAG_LIMIT] for key, value in values.items() if value}


STEP = "cost/step_ms"


def summary_metrics(cells: "Sequence[Run]", bases: "Sequence[Run]") -> dict[str, float]:
    """Means over the seeds that finished, with half the width of their 95% interval, and the cost beside the base's.

    Returns:
        `final/NAME`, `test_best/NAME`, `ci95/NAME` (of the final ones), `seeds` (how many the means are of),
        `cost/train_min`, `cost/total_min`; `cost/step_ms`, a geometric mean; `cost/overhead`, the geometric mean of
        the ratios of step times per seed, with `cost/overhead_low`, `cost/overhead_high` and `cost/overhead_seeds`;
        `gain/NAME`, the mean difference of `final/NAME` to the base's over the `gain/seeds` that both finished from the
        same origin, with `gain/NAME_low` and `gain/NAME_high`.
    """
    done = finished(cells)
    if not done:
        return {}
    found: dict[str, float] = {"seeds": float(len(done))}
    keys = sorted({key for run in done for key in run.data.metrics})
    for key in keys:
        values = [run.data.metrics[key] for run in done if key in run.data.metrics]
        if key == STEP:
            found[key] = log_ratio_interval(pd.Series(values), pd.Series(1.0, range(len(values)))).mean
        elif key.startswith(("final/", "test_best/", "cost/")):
            estimate = t_interval(values)
            found[key] = estimate.mean
            if key.startswith("final/"):
                found[f"ci95/{key.partition('/')[2]}"] = estimate.high - estimate.mean
    found |= _overhead(done, finished(bases)) | _gains(done, finished(bases))
    return {key: readable(value) for key, value in found.items() if not isnan(value)}


def finished(cells: "Sequence[Run]") -> "list[Run]":
    """The runs that a mean may be of: one a cell, ended well, with their final metrics."""
    done = [run for run in cells if run.info.status == "FINISHED" and PRIMARY in run.data.metrics]
    return list({run.data.tags["cell"]: run for run in done}.values())


def _pairs(cells: "Sequence[Run]", bases: "Sequence[Run]", key: str, alike: str) -> list[tuple[float, float]]:
    """A metric of cells and of their bases, of the seeds whose runs share a tag."""
    own, theirs = (
        {
            (run.data.tags["seed"], run.data.tags.get(alike, "")): run.data.metrics[key]
            for run in runs
            if key in run.data.metrics
        }
        for runs in (cells, bases)
    )
    return [(own[shared], theirs[shared]) for shared in own if shared in theirs]


def _differences(cells: "Sequence[Run]", bases: "Sequence[Run]", key: str) -> list[float]:
    return [own - base for own, base in _pairs(cells, bases, key, "origin")]


def _gains(cells: "Sequence[Run]", bases: "Sequence[Run]") -> dict[str, float]:
    found: dict[str, float] = {}
    for name in FINAL:
        if differences := _differences(cells, bases, f"final/{name}"):
            gain = t_interval(differences)
            found |= {f"gain/{name}": gain.mean, f"gain/{name}_low": gain.low, f"gain/{name}_high": gain.high}
    if found:
        found["gain/seeds"] = float(len(_differences(cells, bases, PRIMARY)))
    return found


def verdict_alone(cells: "Sequence[Run]", bases: "Sequence[Run]") -> str:
    """The verdict on recall@1, uncorrected: MLflow does not know which comparisons a report makes together."""
    differences = _differences(finished(cells), finished(bases), PRIMARY)
    if not differences:
        return ""
    tested = evidence(differences)
    return verdict(len(differences), sum(differences) / len(differences), tested.p_t, tested.p_equivalent)


def _overhead(cells: "Sequence[Run]", bases: "Sequence[Run]") -> dict[str, float]:
    """The ratio of step times per seed, of the seeds that ran on one machine."""
    pairs = _pairs(cells, bases, STEP, "machine")
    if not pairs:
        return {}
    steps, base_steps = (pd.Series(times) for times in zip(*pairs, strict=True))
    ratio = log_ratio_interval(steps, base_steps)
    found = {"overhead": ratio.mean, "overhead_low": ratio.low, "overhead_high": ratio.high}
    return {f"cost/{name}": value for name, value in found.items()} | {"cost/overhead_seeds": float(ratio.n)}


PARENT = "mlflow.parentRunId"
ATTEMPTS = 3  # at a group that others change meanwhile
SHARED = ("method", "base", "modifier", "dataset", "protocol", "variant", "marks", "campaign", "base_group", "group")


def bring_in_order(client: "MlflowClient", experiment: str, group: str) -> None:
    """Settle a group whose results have changed, and those of the methods built on it: their ratios follow it."""
    cells = settle(client, experiment, group)
    if any(run.data.tags.get("modifier") for run in cells):
        return
    for parent in search(client, experiment, f"tags.base_group = '{group}' and tags.kind = 'method'"):
        settle(client, experiment, parent.data.tags["group"])


def settle(client: "MlflowClient", experiment: str, group: str) -> "list[Run]":
    """Leave one run above a group's cells, with their sum and status; returns the cells' runs.

    Another process may do the same at the same time: each looks again after its last change, so that the last one
    has seen everything; of two runs for one method both keep the first.
    """
    # A process that holds the lock of a local database is alone, and need not look again.
    alone = local_database(client.tracking_uri) is not None
    cells: list[Run] = []
    for _ in range(ATTEMPTS):
        runs = search(client, experiment, f"tags.group = '{group}'")
        cells = [run for run in runs if run.data.tags.get("kind") == "cell"]
        parents = sorted((run for run in runs if run.data.tags.get("kind") == "method"), key=_id)
        if not cells:
            break
        if not parents:
            _create(client, experiment, cells)
            continue
        bases = _bases(client, experiment, parents[0])
        values = summary_metrics(cells, bases)
        if set(parents[0].data.metrics) - set(values):  # a metric cannot be taken back: its seeds are gone, or its base
            delete(client, parents[:1])
            continue
        if not _changed(client, parents, cells, values, verdict_alone(cells, bases)) or alone:
            break
    return cells


def all_in_order(client: "MlflowClient", records: "Iterable[Record]") -> None:
    """The same for every method of the experiments that results belong to.

    Raises:
        TrackingError: where the store refuses or does not answer.
    """
    cells = [record.summary.cell for record in records]
    for name in sorted({experiment_name(cell.protocol, cell.dataset) for cell in cells}):
        with store_lock(client.tracking_uri), answering():
            found = client.get_experiment_by_name(name)
            if found is None:
                continue
            runs = search(client, found.experiment_id, "tags.group != ''")
            for group in sorted({run.data.tags["group"] for run in runs}):
                settle(client, found.experiment_id, group)


def _bases(client: "MlflowClient", experiment: str, parent: "Run") -> "list[Run]":
    base_group = parent.data.tags.get("base_group")
    return search(client, experiment, f"tags.group = '{base_group}' and tags.kind = 'cell'") if base_group else []


def _changed(
    client: "MlflowClient", parents: "Sequence[Run]", cells: "Sequence[Run]", values: dict[str, float], verdict: str
) -> bool:
    """Bring all cells under the first of the methods' runs, and that one up to date; whether anything was to do."""
    parent, *others = parents
    astray = [run for run in cells if run.data.tags.get(PARENT) != _id(parent)]
    for run in astray:
        client.set_tag(_id(run), PARENT, _id(parent))
    delete(client, others)
    told, ended = _tell(client, parent, cells, values, verdict), _end(client, parent, cells)
    return bool(astray or others or told or ended)


def _create(client: "MlflowClient", experiment: str, cells: "Sequence[Run]") -> None:
    from mlflow.entities import Param

    first = min(cells, key=lambda run: int(run.info.start_time))
    # Not their `label`: charts group by it, and a method's run is no seed.
    tags = {key: first.data.tags[key] for key in SHARED if key in first.data.tags} | {"kind": "method"}
    name = first.data.tags["label"]
    created = client.create_run(experiment, start_time=first.info.start_time, tags=tags, run_name=name)
    client.log_batch(created.info.run_id, params=[Param(key, value) for key, value in first.data.params.items()])


def _tell(
    client: "MlflowClient", parent: "Run", cells: "Sequence[Run]", values: dict[str, float], verdict: str
) -> bool:
    """Log what has changed; whether anything has. Of the values at one step MLflow shows the newest."""
    from mlflow.entities import Metric, RunTag

    seeds = ", ".join(map(str, sorted(int(run.data.tags["seed"]) for run in finished(cells)))) or "none yet"
    all_tags = {"seeds_done": seeds[:TAG_LIMIT], "verdict": verdict, NOTE: _note(parent, seeds)}
    tags = [RunTag(key, value) for key, value in all_tags.items() if parent.data.tags.get(key, "") != value]
    changed = {key: value for key, value in values.items() if parent.data.metrics.get(key) != value}
    metrics: list[Metric] = []
    if changed:
        past = client.get_metric_history(_id(parent), "seeds")
        # Later than what is there also where the clock of another host is fast.
        now = max([int(1000 * time()), *(int(point.timestamp) + 1 for point in past)])
        metrics = [Metric(key, value, now, 0) for key, value in (changed | {"seeds": values["seeds"]}).items()]
    if tags or metrics:
        client.log_batch(_id(parent), metrics=metrics, tags=tags)
    return bool(tags or metrics)


def _note(parent: "Run", seeds: str) -> str:
    tags = parent.data.tags
    marks = f" Marked: {tags['marks']}." if "marks" in tags else ""
    return (
        f"**{parent.info.run_name}** on {tags['dataset']}, protocol {tags['protocol']}. Finished seeds: {seeds}; the "
        f"metrics are means over them, one run each below this one.{marks}"
    )


def _end(client: "MlflowClient", parent: "Run", cells: "Sequence[Run]") -> bool:
    """Give the method's run the status of its seeds: running while one is, finished where one has."""
    states = {run.info.status for run in cells}
    status = next((state for state in ("RUNNING", "FINISHED", "FAILED") if state in states), "KILLED")
    if status == "RUNNING":
        if parent.info.status == status:
            return False
        client.update_run(_id(parent), status)
        return True
    ended = max(int(run.info.end_time or 0) for run in cells)
    if (parent.info.status, parent.info.end_time) == (status, ended):
        return False
    client.set_terminated(_id(parent), status, end_time=ended)
    return True


def _id(run: "Run") -> str:
    return str(run.info.run_id)
