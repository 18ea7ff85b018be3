"""A run per method above the runs of its seeds, found again by its `group` tag: one, whichever process creates it.

A group is what differs in nothing but the seed: method with its settings, dataset, protocol with its settings. Its
run holds no measurements of its own, only what the seeds that finished say in sum.
"""

from collections.abc import Iterable, Sequence
from time import time
from typing import TYPE_CHECKING

from dmlbench.results.store import Record
from dmlbench.tracking.connection import answering, delete, local_database, search, store_lock
from dmlbench.tracking.content import TAG_LIMIT, finished, summary_metrics
from dmlbench.tracking.experiments import NOTE, experiment_name

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

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
    """Leave one run above a group's cells, with their sum and status.

    Another process may do the same at the same time: each looks again after its last change, so that the last one
    has seen everything; of two runs for one method both keep the first.

    Returns:
        The cells' runs.
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
        values = _values(client, experiment, parents[0], cells)
        if set(parents[0].data.metrics) - set(values):  # a metric cannot be taken back: its seeds are gone, or its base
            delete(client, parents[:1])
            continue
        if not _changed(client, parents, cells, values) or alone:
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


def _values(client: "MlflowClient", experiment: str, parent: "Run", cells: "Sequence[Run]") -> dict[str, float]:
    base_group = parent.data.tags.get("base_group")
    bases = search(client, experiment, f"tags.group = '{base_group}' and tags.kind = 'cell'") if base_group else []
    return summary_metrics(cells, bases)


def _changed(
    client: "MlflowClient", parents: "Sequence[Run]", cells: "Sequence[Run]", values: dict[str, float]
) -> bool:
    """Bring all cells under the first of the methods' runs, and that one up to date; whether anything was to do."""
    parent, *others = parents
    astray = [run for run in cells if run.data.tags.get(PARENT) != _id(parent)]
    for run in astray:
        client.set_tag(_id(run), PARENT, _id(parent))
    delete(client, others)
    told, ended = _tell(client, parent, cells, values), _end(client, parent, cells)
    return bool(astray or others or told or ended)


def _create(client: "MlflowClient", experiment: str, cells: "Sequence[Run]") -> None:
    from mlflow.entities import Param

    first = min(cells, key=lambda run: int(run.info.start_time))
    # Not their `label`: charts group by it, and a method's run is no seed.
    tags = {key: first.data.tags[key] for key in SHARED if key in first.data.tags} | {"kind": "method"}
    name = first.data.tags["label"]
    created = client.create_run(experiment, start_time=first.info.start_time, tags=tags, run_name=name)
    client.log_batch(created.info.run_id, params=[Param(key, value) for key, value in first.data.params.items()])


def _tell(client: "MlflowClient", parent: "Run", cells: "Sequence[Run]", values: dict[str, float]) -> bool:
    """Log what has changed; whether anything has. Of the values at one step MLflow shows the newest."""
    from mlflow.entities import Metric, RunTag

    seeds = ", ".join(map(str, sorted(int(run.data.tags["seed"]) for run in finished(cells)))) or "none yet"
    all_tags = {"seeds_done": seeds[:TAG_LIMIT], NOTE: _note(parent, seeds)}
    tags = [RunTag(key, value) for key, value in all_tags.items() if parent.data.tags.get(key) != value]
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
        if parent.info.status != status:
            client.update_run(_id(parent), status)
        return bool(parent.info.status != status)
    ended = max(int(run.info.end_time or 0) for run in cells)
    if (parent.info.status, parent.info.end_time) == (status, ended):
        return False
    client.set_terminated(_id(parent), status, end_time=ended)
    return True


def _id(run: "Run") -> str:
    return str(run.info.run_id)
