"""A run per method above the runs of its seeds: found again by its `group` tag, one whoever makes it and how often.

A group is what differs in nothing but the seed: method with its settings, dataset, protocol with its settings. Its
run holds no measurements of its own, only what the seeds that finished say in sum.
"""

from collections.abc import Iterable, Sequence
from time import time
from typing import TYPE_CHECKING

from dmlbench.store import Record
from dmlbench.tracking.connection import answering, delete, search, store_lock
from dmlbench.tracking.content import TAG_LIMIT
from dmlbench.tracking.experiments import NOTE, experiment_name
from dmlbench.tracking.summary import finished, summary_metrics

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

PARENT = "mlflow.parentRunId"
ATTEMPTS = 3  # at a group that others change meanwhile
SHARED = ("method", "base", "modifier", "dataset", "protocol", "variant", "marks", "campaign", "base_group", "group")


def bring_in_order(client: "MlflowClient", experiment: str, group: str) -> None:
    """Leave one run above a group's cells, with their sum and status, and that of the methods built on it.

    Somebody elsewhere may do the same at the same time: each looks again after its last change, so that whoever is
    last has seen everything; of two runs for one method the first in order stays, for both.
    """
    cells = _settled(client, experiment, group)
    if any(run.data.tags.get("modifier") for run in cells):
        return
    for parent in search(client, experiment, f"tags.base_group = '{group}' and tags.kind = 'method'"):
        _settled(client, experiment, parent.data.tags["group"])


def all_in_order(client: "MlflowClient", records: "Iterable[Record]") -> None:
    """The same for every method of the experiments that results belong to.

    Raises:
        TrackingError: where the store refuses or does not answer.
    """
    cells = [record.summary["cell"] for record in records]
    for name in sorted({experiment_name(cell["protocol"], cell["dataset"]) for cell in cells}):
        with store_lock(client.tracking_uri), answering():
            found = client.get_experiment_by_name(name)
            if found is None:
                continue
            runs = search(client, found.experiment_id, "tags.group != ''")
            for group in sorted({run.data.tags["group"] for run in runs}):
                _settled(client, found.experiment_id, group)


def _settled(client: "MlflowClient", experiment: str, group: str) -> "list[Run]":
    cells: list[Run] = []
    for _ in range(ATTEMPTS):
        runs = search(client, experiment, f"tags.group = '{group}'")
        cells = [run for run in runs if run.data.tags.get("kind") == "cell"]
        parents = [run for run in runs if run.data.tags.get("kind") == "method"]
        if not cells or not _changed(client, experiment, sorted(parents, key=_id), cells):
            break
    return cells


def _changed(client: "MlflowClient", experiment: str, parents: "list[Run]", cells: "list[Run]") -> bool:
    """Take one step towards order; False where there was none to take."""
    if not parents:
        _create(client, experiment, cells)
        return True
    parent, *others = parents
    astray = [run for run in cells if run.data.tags.get(PARENT) != _id(parent)]
    for run in astray:
        client.set_tag(_id(run), PARENT, _id(parent))
    delete(client, others)
    base_group = parent.data.tags.get("base_group")
    bases = search(client, experiment, f"tags.group = '{base_group}' and tags.kind = 'cell'") if base_group else []
    values = summary_metrics(cells, bases)
    if set(parent.data.metrics) - set(values):  # a metric cannot be taken back: its seeds are gone, or its base
        delete(client, [parent])
        return True
    told = [_log(client, parent, values), _describe(client, parent, cells), _end(client, parent, cells)]
    return bool(astray or others or any(told))


def _create(client: "MlflowClient", experiment: str, cells: "Sequence[Run]") -> None:
    from mlflow.entities import Param

    first = min(cells, key=lambda run: int(run.info.start_time))
    # Not their `label`: charts group by it, and a method's run is no seed.
    tags = {key: first.data.tags[key] for key in SHARED if key in first.data.tags} | {"kind": "method"}
    name = first.data.tags["label"]
    created = client.create_run(experiment, start_time=first.info.start_time, tags=tags, run_name=name)
    client.log_batch(created.info.run_id, params=[Param(key, value) for key, value in first.data.params.items()])


def _log(client: "MlflowClient", parent: "Run", values: dict[str, float]) -> bool:
    """Log what has changed; MLflow shows the newest value of those at one step."""
    from mlflow.entities import Metric

    changed = {key: value for key, value in values.items() if parent.data.metrics.get(key) != value}
    if not changed:
        return False
    past = client.get_metric_history(_id(parent), "seeds")
    # Later than what is there also where the clock of another host is fast.
    now = max([int(1000 * time()), *(int(point.timestamp) + 1 for point in past)])
    every = changed | {"seeds": values["seeds"]}
    client.log_batch(_id(parent), metrics=[Metric(key, value, now, 0) for key, value in every.items()])
    return True


def _describe(client: "MlflowClient", parent: "Run", cells: "Sequence[Run]") -> bool:
    seeds = sorted(int(run.data.tags["seed"]) for run in finished(cells))
    names = ", ".join(map(str, seeds)) or "none yet"
    tags = {"seeds_done": names[:TAG_LIMIT], NOTE: _note(parent, names)}
    changed = {key: value for key, value in tags.items() if parent.data.tags.get(key) != value}
    for key, value in changed.items():
        client.set_tag(_id(parent), key, value)
    return bool(changed)


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
