"""An MLflow experiment: one protocol on one dataset, with a description, saved views and the reports that show it.

The UI keeps a saved view in an experiment's tag. As read from MLflow 3.17's front end: the tag's value is JSON that
names the view and holds its state as text, for the menu; a link to a view reads the state from a copy, deflated.
"""

import base64
import hashlib
import json
import os
import shlex
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from dmlbench.analysis.groups import without_paths
from dmlbench.data.catalogue import DATASETS
from dmlbench.specs.cell import Cell
from dmlbench.tracking.connection import (
    TrackingError,
    answering,
    answers,
    artifact_location,
    delete,
    deleted_on_error,
    is_database,
    not_stored,
    search,
    store_lock,
    tracking_uri,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment, Run

PREFIX = "mlflow.sharedViewState."
MOST = 5000  # characters of an experiment's tag in the oldest MLflow we run with
PRIMARY = "final/recall_at_1"  # what every finished cell has, and every method with one
RANKING = (PRIMARY, "ci95/recall_at_1", "gain/recall_at_1", "gain/recall_at_1_low", "gain/recall_at_1_high")
OTHERS = ("final/map_at_r", "final/nmi", "cost/overhead", "seeds", "cost/step_ms", "cost/total_min")
BY_EPOCH = ("test/recall_at_1", "test/map_at_r", "train/loss")
AT_THE_END = (PRIMARY, "final/map_at_r", "final/nmi", "cost/step_ms", "cost/total_min")
OPTIMIZERS = {"adam": "Adam", "adamw": "AdamW", "sgd": "SGD"}
WIDE = 130  # pixels that the longest names take
# Running and failed cells have fewer epochs than the others: a mean with them would change its seeds on the way.
FINISHED_CELLS = "tags.kind = 'cell' and attributes.status = 'FINISHED'"


def view_tags(created: int) -> dict[str, str]:
    """The tags of all views, of the time (ms) when the experiment was made: the same whichever process writes them."""
    views = {
        "methods": ("Methods, best R@1 first", _methods()),
        "epochs": ("Methods by epoch", _epochs()),
        "runs": ("Runs under their methods", _runs()),
    }
    return {f"{PREFIX}{key}": _tag(name, state, created) for key, (name, state) in views.items()}


def link(experiment: str, view: str) -> str:
    """The way to a view, from any page of the UI."""
    mode = "&compareRunsMode=CHART" if view == "epochs" else ""
    return f"#/experiments/{experiment}/runs?workflowType=machine_learning&viewStateShareKey={view}{mode}"


def _tag(name: str, state: dict[str, Any], created: int) -> str:
    text = json.dumps(state, separators=(",", ":"))
    packed = "deflate;" + base64.b64encode(zlib.compress(text.encode(), 9)).decode()
    return json.dumps({"name": name, "createdAt": created, "state": packed, **state}, separators=(",", ":"))


def _methods() -> dict[str, Any]:
    sorting = {"searchFilter": "tags.kind = 'method'", "orderByKey": _metric(PRIMARY), "orderByAsc": False}
    return sorting | _columns([*map(_metric, (*RANKING, *OTHERS)), "tags.`verdict`", "tags.`marks`"])


def _runs() -> dict[str, Any]:
    return {"searchFilter": ""} | _columns([*map(_metric, (*RANKING, *OTHERS)), "tags.`seed`"])


def _columns(keys: list[str]) -> dict[str, Any]:
    widths = dict.fromkeys(map(_metric, RANKING[:3]), WIDE)
    return {"selectedColumns": keys, "columnOrder": keys, "columnWidths": widths}


def _epochs() -> dict[str, Any]:
    by_epoch = [_chart("LINE", key, "epochs") | {"selectedMetricKeys": [key]} for key in BY_EPOCH]
    return {
        "searchFilter": FINISHED_CELLS,
        # Sorted by date, the UI would bring the methods' runs in among their cells.
        "orderByKey": _metric(PRIMARY),
        "orderByAsc": False,
        "groupBy": {"aggregateFunction": "average", "groupByKeys": [{"mode": "tag", "groupByData": "label"}]},
        "useGroupedValuesInCharts": True,
        "runsHiddenMode": "SHOW_ALL",
        "isAccordionReordered": True,  # else the sections come in order of their names
        "compareRunSections": [_section("epochs", "By epoch"), _section("end", "At the end")],
        "compareRunCharts": [*by_epoch, *(_chart("BAR", key, "end") for key in AT_THE_END)],
    }


def _chart(kind: str, metric: str, section: str) -> dict[str, Any]:
    own = {"xAxisKey": "step", "lineSmoothness": 0} if kind == "LINE" else {}
    layout = {"uuid": metric, "metricSectionId": section, "deleted": False, "isGenerated": False}
    return {"type": kind, "metricKey": metric, "runsCountToCompare": 20} | layout | own


def _section(key: str, name: str) -> dict[str, Any]:
    flags = dict.fromkeys(("isReordered", "deleted", "isGenerated"), False)
    return {"uuid": key, "name": name, "display": True} | flags


def _metric(key: str) -> str:
    return f"metrics.`{key}`"


NOTE = "mlflow.note.content"
# How many values the description does not name, for the cell it was written from set them. The UI hides "mlflow." tags.
CHANGED = "mlflow.dmlbench.settings_left_out"
METHOD_SECTIONS = ("loss.", "distillation.")
REPORT = " · [report "
NOTE_TEXT = """\
{dataset}, {protocol}: [methods, best R@1 first]({methods}) · [methods by epoch]({epochs}) · [runs under their \
methods]({runs})

Deep metric learning: networks trained on some classes and scored by retrieval among classes they have never seen. A \
method's run has the means over its seeds that finished; its seeds are below it. The curves by epoch are means, with \
the range, over the same seeds.

**Dataset {dataset}**: {about_dataset}

**Protocol {protocol}**: {about_protocol}

| setting | value |
|---|---|
{settings}

The menu *Views* has the same three. For charts of your own: *Chart view*, filter `tags.kind = 'cell'`, *Group by* the \
tag `label` (the method with its settings).

Metrics:

- `test/…`: on the test classes, by epoch; fractions
- `final/…`: the same after the last epoch; of a method, the mean over its seeds
- `ci95/…`: half the width of the 95% interval of a method's mean (Student's t over seeds)
- `gain/…`: of a method with a base, the mean difference to it over the seeds of both, with the bounds of its \
95% interval; the tag `verdict` is of this comparison alone, a report corrects for all that it makes
- `seeds`: how many seeds a method's means are of
- `cost/…`: `step_ms`, a training step (median over epochs); `train_min` and `total_min`, minutes per seed; \
`overhead`, step time over the base's with the same seed on the same machine
- `test_best/…`: at the epoch that was best on the test classes, as many published figures are

Tags to filter by: `kind` (cell, method, report), `method`, `base`, `modifier`, `variant`, `seed`, `status`, `marks`, \
`verdict`; for example `tags.base = 'ms' and tags.kind = 'method' and metrics.seeds >= 5`.
"""


def experiment_name(protocol: str, dataset: str) -> str:
    """The experiment of a protocol and a dataset."""
    return f"dmlbench/{protocol}/{dataset}"


def experiment_of(client: "MlflowClient", cell: Cell) -> str:
    """The id of a cell's experiment, which is made and described where it is not."""
    found = _found_or_made(client, experiment_name(cell.protocol.name, cell.dataset.label))
    experiment = str(found.experiment_id)
    tags = {"dataset": cell.dataset.label, "protocol": cell.protocol.name, **view_tags(found.creation_time or 0)}
    changed = _changed(cell)
    described = found.tags.get(CHANGED, "")
    # A process with fewer settings of its own knows more of the protocol; what a user wrote meanwhile is kept.
    if not described.isdigit() or len(changed) < int(described):
        tags |= {NOTE: _note(experiment, cell, changed), CHANGED: str(len(changed))}
    for key, value in tags.items():
        if found.tags.get(key) != value:
            client.set_experiment_tag(experiment, key, value)
    if NOTE in tags and found.tags.get(NOTE):
        _link_reports(client, experiment)
    return experiment


def pages(client: "MlflowClient") -> dict[str, str]:
    """Every experiment's name with the way to its methods in the UI, by name.

    Raises:
        TrackingError: where the store refuses or does not answer.
    """
    with answering():
        found = client.search_experiments(filter_string="name LIKE 'dmlbench/%'")
    return {str(one.name): link(one.experiment_id, "methods") for one in sorted(found, key=lambda one: str(one.name))}


def _found_or_made(client: "MlflowClient", name: str) -> "Experiment":
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            tags = {"mlflow.experimentKind": "custom_model_development"}
            made = client.create_experiment(name, artifact_location(client.tracking_uri, name), tags)
            return client.get_experiment(made)
        except MlflowException:  # another runner made it in between
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    _check_active(found)
    return found


class DeletedExperimentError(TrackingError):
    """Somebody has deleted an experiment, which keeps its name and takes no run; others are not affected."""

    def __init__(self, found: "Experiment") -> None:
        number, uri = found.experiment_id, tracking_uri()
        store = shlex.quote(uri) if is_database(uri) else "ITS_DATABASE"
        gc = f"`mlflow gc --tracking-uri {shlex.quote(uri)} --backend-store-uri {store} --experiment-ids {number}`"
        where = "" if is_database(uri) else " on the server"
        restore = f"`MLFLOW_TRACKING_URI={shlex.quote(uri)} mlflow experiments restore --experiment-id {number}`"
        super().__init__(
            f"the experiment {found.name} has been deleted",
            f"{restore} brings it back, {gc}{where} removes it for good, so that a new one can be made",
        )


@contextmanager
def active(client: "MlflowClient", experiment: str) -> Iterator[None]:
    """Raise DeletedExperimentError for an experiment, by its id, that takes no runs, also if it is deleted meanwhile.

    MLflow refuses what is done to a run in it without a word of the experiment.
    """
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        if error.error_code == "INVALID_PARAMETER_VALUE":
            _check_active(client.get_experiment(experiment))
        raise


def _check_active(experiment: "Experiment") -> None:
    from mlflow.entities import LifecycleStage

    if experiment.lifecycle_stage != LifecycleStage.ACTIVE:
        raise DeletedExperimentError(experiment)


def _changed(cell: Cell) -> set[str]:
    """Keys of the protocol that `--set` changed: they are the cell's, not the experiment's."""
    keys = {setting.partition("=")[0] for setting in cell.overrides}
    return {key for key in keys if not key.startswith(METHOD_SECTIONS)}


def _note(experiment: str, cell: Cell, changed: set[str]) -> str:
    dataset, protocol = cell.dataset.name, cell.protocol
    rows = [f"| {name} | {value} |" for key, name, value in _values(cell) if key not in changed]
    return NOTE_TEXT.format(
        dataset=dataset,
        protocol=protocol.name,
        about_protocol=without_paths(" ".join(filter(None, (f"{protocol.title}.", protocol.description)))),
        about_dataset=_dataset(dataset),
        settings="\n".join(rows),
        methods=link(experiment, "methods"),
        epochs=link(experiment, "epochs"),
        runs=link(experiment, "runs"),
    )


def _dataset(name: str) -> str:
    info = DATASETS.get(name)
    if info is None:
        return "images of the user's own; every run says how many, under *Datasets used*."
    train, test, train_images, test_images = info.counts
    counts = f"{train_images:,} training images of {train:,} classes, {test_images:,} test images of {test:,} others"
    roles = f", {info.query_images:,} of them queries that search the others" if info.query_images else ""
    return f"{info.description}. {counts}{roles}."


def _values(cell: Cell) -> list[tuple[str, str, object]]:
    """The protocol's key values: name of the setting, what people call it, value."""
    model, training, image = cell.protocol.model, cell.protocol.training, cell.protocol.input
    return [
        ("model.backbone", "network", model.backbone),
        ("model.embedding_dim", "embedding", f"{model.embedding_dim}-d"),
        ("input.size", "images", f"{image.size} px, augmentation: {image.augmentation}"),
        ("training.epochs", "epochs", training.epochs),
        ("training.batch_size", "batch", f"{training.batch_size}, {training.samples_per_class} a class"),
        ("training.learning_rate", f"learning rate ({OPTIMIZERS[training.optimizer]})", training.learning_rate),
        ("training.weight_decay", "weight decay", training.weight_decay),
        ("validation.classes", "training classes held out", f"{cell.protocol.validation.classes:.0%}"),
    ]


def send_report(
    client: "MlflowClient", folder: Path, refused: Callable[[str, TrackingError], None] | None = None
) -> list[str]:
    """Log a report's folder as the run `report NAME`; an earlier report of that name is replaced once it is there.

    Users look for the report in an experiment, so each experiment whose results it shows gets it; one whose results
    were never sent gets none.

    Args:
        client: The store.
        folder: The report's.
        refused: Takes the name of an experiment that does not take the report while the store answers, and why; the
            others get it all the same [default: the error is raised].

    Returns:
        The names of the experiments that have it now.

    Raises:
        TrackingError: where the store refuses or does not answer, or the folder holds no report.
    """
    sent = []
    for protocol, dataset in _shown(folder):
        name = experiment_name(protocol, dataset)
        try:
            with store_lock(client.tracking_uri), answering():
                found = client.get_experiment_by_name(name)
                if found is not None:
                    _check_active(found)
                    _send(client, str(found.experiment_id), folder, {"protocol": protocol, "dataset": dataset})
                    sent.append(name)
        except TrackingError as error:
            if refused is None or not answers(client):
                raise
            refused(name, error)
    return sent


def _shown(folder: Path) -> list[tuple[str, str]]:
    """Protocols and datasets of a report's cells."""
    try:
        cells = pd.read_csv(folder / "tables" / "cells.csv", dtype=str, keep_default_na=False)
        return sorted(set(cells[["protocol", "dataset"]].itertuples(index=False, name=None)))
    except (OSError, KeyError, ValueError) as error:
        raise TrackingError(f"{folder}: not a report ({str(error).splitlines()[0]})") from error


def _send(client: "MlflowClient", experiment: str, folder: Path, index: dict[str, str]) -> None:
    content = _digest(folder)
    earlier = _reports(client, experiment, folder.name)
    if earlier and earlier[0].info.status == "FINISHED" and earlier[0].data.tags.get("content") == content:
        delete(client, earlier[1:])
        return
    name = f"report {folder.name}"
    note = "The report with its tables and figures: open `index.html` under *Artifacts*."
    tags = {"kind": "report", "report": folder.name, "content": content, NOTE: note} | index
    run_id = str(client.create_run(experiment, tags=tags, run_name=name).info.run_id)
    with deleted_on_error(client, run_id):
        try:
            client.log_artifacts(run_id, str(folder))
        except Exception as error:
            if not answers(client):
                raise
            client.set_terminated(run_id, "FAILED")  # it comes back, but empty, with an experiment that is restored
            raise not_stored(experiment_name(index["protocol"], index["dataset"]), error) from error
    client.set_terminated(run_id)
    delete(client, _reports(client, experiment, folder.name)[1:])
    _link_reports(client, experiment)


def _link_reports(client: "MlflowClient", experiment: str) -> None:
    """Name the experiment's reports in the first line of its description, which is all that is shown of it at first."""
    runs = search(client, experiment, "tags.kind = 'report'")
    ids = {run.data.tags["report"]: run.info.run_id for run in runs}
    links = {name: f"#/experiments/{experiment}/runs/{ids[name]}/artifacts" for name in sorted(ids)}
    text = client.get_experiment(experiment).tags.get(NOTE, "")
    first, *rest = text.split("\n")
    told = first.partition(REPORT)[0] + "".join(f"{REPORT}{name}]({links[name]})" for name in links)
    if told != first:
        client.set_experiment_tag(experiment, NOTE, "\n".join([told, *rest]))


def _reports(client: "MlflowClient", experiment: str, name: str) -> "list[Run]":
    """The runs of a report of that name, the newest first: of two that are sent at once the later stays, for both."""
    runs = search(client, experiment, f"tags.kind = 'report' and tags.report = '{name}'")
    return sorted(runs, key=lambda run: (int(run.info.start_time), str(run.info.run_id)), reverse=True)


def _digest(folder: Path) -> str:
    """Sixteen hexadecimal digits over a folder's files and their names."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(os.fsencode(path.relative_to(folder)) + path.read_bytes())
    return digest.hexdigest()[:16]
