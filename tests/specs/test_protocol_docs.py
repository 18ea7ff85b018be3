"""docs/reference/protocols.md: what it says of the schema is so."""

import re
from pathlib import Path

import pytest
import yaml

from dmlbench.data.augment import check_transforms
from dmlbench.errors import UserError
from dmlbench.specs.protocol import load_protocol, own_protocols, sourced_settings
from dmlbench.specs.protocol_spec import (
    EvaluationSpec,
    InputSpec,
    ModelSpec,
    ProtocolSpec,
    TrainingSpec,
    ValidationSpec,
)

TEXT = (Path(__file__).parents[2] / "docs" / "reference" / "protocols.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"```yaml\n(.*?)```", TEXT, flags=re.DOTALL)
OBVIOUS = {"weights_sha256", "channels", "flip", "mean", "std", "rotation", "translation", "scale", "crop_scale"}
OBVIOUS |= {"crop_ratio", "embedding_dim", "channels_last", "cpu_threads", "deterministic", "vary", "batch_size"}


def test_the_smallest_file_is_a_protocol(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(SNIPPETS[0])
    protocol = load_protocol(str(path), "cub")
    assert (protocol.name, protocol.training.optimizer, protocol.model.head) == ("mine", "adam", "linear")
    assert set(yaml.safe_load(SNIPPETS[0])) == {
        name for name, field in ProtocolSpec.model_fields.items() if field.is_required()
    }


def test_the_pipeline_runs():
    common = {"size": 224, "resize": 256, "mean": (0.0,) * 3, "std": (1.0,) * 3}
    check_transforms(InputSpec(**common, **yaml.safe_load(SNIPPETS[1])["input"]))


def test_sources_are_read(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(SNIPPETS[0] + SNIPPETS[2])
    found = {key: source for key, _, source in sourced_settings(str(path), "sop", {"model": {"pooling": "max"}})}
    assert found["training.epochs"] == found["evaluation.ks"] == "README, the command for SOP"
    assert (found["training.learning_rate"], found["model.pooling"]) == ("README", "--set")
    other = {key: source for key, _, source in sourced_settings(str(path), "cub", {})}
    assert (other["training.epochs"], other["model.backbone"]) == ("train.py: default", "")
    assert "evaluation.ks" not in other  # a default


@pytest.mark.parametrize("key", ["training.epoch", "trainings", "datasets.cub", "datasets", "name"])
def test_sources_of_nothing(tmp_path, key):
    path = tmp_path / "mine.yaml"
    path.write_text(f"{SNIPPETS[0]}sources: {{{key}: somewhere}}\n")
    with pytest.raises(UserError, match=f"sources: '{key}' is no setting"):
        load_protocol(str(path), "cub")


@pytest.mark.parametrize("name", own_protocols())
@pytest.mark.parametrize("dataset", ["cub", "cars", "sop", "inshop", "glyphs"])
def test_every_setting_of_a_shipped_protocol_has_a_source(name, dataset):
    found = sourced_settings(name, dataset, {})
    assert len(found) > 15
    assert [key for key, _, source in found if not source] == []


@pytest.mark.parametrize("section", [ModelSpec, InputSpec, TrainingSpec, EvaluationSpec, ValidationSpec])
def test_every_setting_is_named(section):
    words = set(re.findall(r"[a-z_0-9]+", TEXT))
    assert set(section.model_fields) - OBVIOUS <= words


@pytest.mark.parametrize("name", ["sampler", "optimizer", "schedule", "autocast"])
def test_every_choice_is_named(name):
    choices = TrainingSpec.model_fields[name].annotation.__args__
    assert all(f"`{choice}`" in TEXT for choice in choices)
