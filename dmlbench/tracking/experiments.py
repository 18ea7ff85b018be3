"""An experiment in MLflow: all that is comparable in principle, one protocol on one dataset, with a description."""

from typing import TYPE_CHECKING

from dmlbench.analysis.groups import without_paths
from dmlbench.data.catalogue import DATASETS
from dmlbench.spec import Cell
from dmlbench.tracking.connection import answering
from dmlbench.tracking.places import artifact_location
from dmlbench.tracking.views import link, view_tags

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment

NOTE = "mlflow.note.content"
# How many values the description does not name, for the cell it was written from set them. The UI hides "mlflow." tags.
CHANGED = "mlflow.dmlbench.settings_left_out"
METHOD_SECTIONS = ("loss.", "distillation.")
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
- `best_test/…`: at the epoch that was best on the test classes, as published figures are
- `ci95/…`: half the width of the 95% interval of a method's mean (Student's t over seeds)
- `seeds`: how many seeds a method's means are of
- `cost/…`: `step_ms`, a training step (median over epochs); `train_min` and `total_min`, minutes per seed; \
`overhead`, step time over the base's with the same seed on the same machine

Tags to filter by: `kind` (cell, method, report), `method`, `base`, `modifier`, `variant`, `seed`, `status`, `marks`; \
for example `tags.base = 'ms' and tags.kind = 'method' and metrics.seeds >= 5`.
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
    # Whoever comes with fewer settings of his own knows more of the protocol; what a user wrote meanwhile stays.
    if not described.isdigit() or len(changed) < int(described):
        tags |= {NOTE: _note(experiment, cell, changed), CHANGED: str(len(changed))}
    for key, value in tags.items():
        if found.tags.get(key) != value:
            client.set_experiment_tag(experiment, key, value)
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
            return client.get_experiment(
                client.create_experiment(name, artifact_location(client.tracking_uri, name), tags)
            )
        except MlflowException:  # another runner made it in between
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    return found


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
    return f"{info.description}. {counts}."


def _values(cell: Cell) -> list[tuple[str, str, object]]:
    """The protocol's key values: name of the setting, what people call it, value."""
    model, training, image = cell.protocol.model, cell.protocol.training, cell.protocol.input
    return [
        ("model.backbone", "network", model.backbone),
        ("model.embedding_dim", "embedding", f"{model.embedding_dim}-d"),
        ("input.size", "images", f"{image.size} px, augmentation: {image.augmentation}"),
        ("training.epochs", "epochs", training.epochs),
        ("training.batch_size", "batch", f"{training.batch_size}, {training.samples_per_class} a class"),
        ("training.learning_rate", "learning rate (Adam)", training.learning_rate),
        ("training.weight_decay", "weight decay", training.weight_decay),
        ("validation.classes", "training classes held out", f"{cell.protocol.validation.classes:.0%}"),
    ]
