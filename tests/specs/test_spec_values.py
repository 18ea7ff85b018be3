import dataclasses

import pytest
from pydantic import ValidationError

from dmlbench.specs.cell import Part
from dmlbench.specs.protocol_spec import (
    EvaluationSpec,
    InputSpec,
    ModelSpec,
    ProtocolSpec,
    TrainingSpec,
    ValidationSpec,
)


@pytest.mark.parametrize(
    ("section", "settings", "message"),
    [
        (InputSpec, {"mean": (0.0, 0.0)}, "one value per channel"),
        (InputSpec, {"std": (0.0,)}, "greater than 0"),
        (InputSpec, {"resize": 15}, "resize"),
        (InputSpec, {"crop_scale": (1.0, 0.5)}, r"crop_scale is \[low, high\]"),
        (InputSpec, {"translation": 1.0}, "less than 1"),
        (InputSpec, {"rotation": -1.0}, "greater than or equal to 0"),
        (InputSpec, {"channels": 2}, "1 or 3"),
        (TrainingSpec, {"epochs": 0}, "greater than 0"),
        (TrainingSpec, {"learning_rate": 0.0}, "greater than 0"),
        (TrainingSpec, {"learning_rate": float("inf")}, "finite"),
        (TrainingSpec, {"batch_size": 5}, r"\(5\) must be a multiple of samples_per_class \(2\)"),
        (TrainingSpec, {"gamma": 1.5}, "less than or equal to 1"),
        (TrainingSpec, {"autocast": "float8"}, "'none', 'bfloat16' or 'float16'"),
        (EvaluationSpec, {"ks": (2, 4)}, "ks must hold 1"),
        (ValidationSpec, {"classes": 1.0}, "less than 1"),
        (ModelSpec, {"pooling": "median"}, "'average', 'average.max', 'max' or 'token'"),
    ],
)
def test_values_out_of_range_are_refused(section, settings, message):
    valid = {
        InputSpec: {"channels": 1, "size": 16, "resize": 16, "mean": (0,), "std": (1,), "augmentation": "none"},
        TrainingSpec: {"epochs": 1, "learning_rate": 0.1},
        ModelSpec: {"backbone": "conv4", "embedding_dim": 1},
    }.get(section, {})
    section(**valid)
    with pytest.raises(ValidationError, match=message):
        section(**valid | settings)


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "a b"])
def test_a_protocols_name_is_a_folders(make_cell, name):
    with pytest.raises(ValidationError, match="pattern"):
        ProtocolSpec.model_validate(make_cell().protocol.model_dump() | {"name": name})


def test_specs_are_frozen_and_know_their_keys(make_cell):
    cell = make_cell()
    with pytest.raises(ValidationError, match="frozen"):
        cell.protocol.training.epochs = 6
    with pytest.raises(dataclasses.FrozenInstanceError):
        cell.seed = 4
    with pytest.raises(ValidationError, match="Extra inputs"):
        Part.model_validate(cell.method.loss.model_dump() | {"rate": 1})
