import dataclasses

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from dmlbench.runner.tasks import RunOptions
from dmlbench.specs.cell import EVAL_TEACHER, Cell, DatasetSpec, MethodSpec, ResolvedValue
from dmlbench.specs.protocol import load_protocol
from dmlbench.specs.protocol_spec import WarmupSpec, protocol_identity
from dmlbench.specs.registry import MethodSettings, Registry

TEXT = """\
seed: 3
overrides: [training.epochs=5]
dataset: {name: glyphs, version: test}
method:
  name: margin+psd
  loss:
    name: margin
    title: Margin loss
    kind: loss
    class_name: margin
    parameters:
      margin: {value: 0.2, source: a paper}
      mining: {value: distance, source: a paper}
    learning_rates:
      beta: {value: 0.0005, source: a paper}
  distillation:
    name: psd
    title: PSD
    kind: distillation
    class_name: psd
    parameters:
      lambda: {value: 75.0, source: a parser, published: false}
  marks: ["untuned: nothing published"]
protocol:
  name: small
  title: Small
  model: {backbone: conv4, embedding_dim: 8, kwargs: {width: 16}}
  input: {channels: 1, size: 16, resize: 20, mean: [0.5], std: [0.25], augmentation: affine, rotation: 10.0}
  training: {epochs: 5, learning_rate: 0.001, milestones: [2, 4], gamma: 0.5}
"""

# Another valid value for every number and name of a protocol; a field that is missing here fails the test below.
CHANGED = {
    "name": "other",
    "model.backbone": "timm:test_resnet",
    "model.kwargs": {"width": 17},
    "model.weights": "IMAGENET1K_V1",
    "model.weights_sha256": "0" * 64,
    "model.pooling": "average+max",
    "model.embedding_dim": 9,
    "model.freeze_batchnorm": True,
    "input.channels": 3,
    "input.size": 17,
    "input.resize": 21,
    "input.mean": (0.4,),
    "input.std": (0.3,),
    "input.augmentation": "crop",
    "input.flip": True,
    "input.crop_scale": (0.09, 1.0),
    "input.crop_ratio": (0.5, 4 / 3),
    "input.rotation": 11.0,
    "input.translation": 0.1,
    "input.scale": (0.9, 1.0),
    "evaluation.nmi_revisiting": True,
    "training.epochs": 6,
    "training.batch_size": 56,
    "training.samples_per_class": 4,
    "training.learning_rate": 0.0010000001,
    "training.head_learning_rate": 0.001,
    "training.weight_decay": 0.0,
    "training.milestones": (2, 5),
    "training.gamma": 0.25,
    "training.autocast": "bfloat16",
    "training.channels_last": False,
    "training.float32_convolutions": "tf32",
    "training.compile": True,
    "training.cpu_threads": 2,
    "training.deterministic": False,
    "training.vary": "init",
    "training.steps_per_epoch": 100,
    "training.sampler": "m-per-class",
    "training.accumulate": 2,
    "training.micro_batch_size": 8,
    "training.optimizer": "adamw",
    "training.eps": 1e-3,
    "training.momentum": 0.9,
    "training.nesterov": True,
    "training.head_weight_decay": 1e-3,
    "training.loss_weight_decay": 1e-4,
    "training.schedule": "cosine",
    "training.step_size": 5,
    "training.warmup": WarmupSpec(epochs=1, frozen="backbone"),
    "training.clip_norm": 3.0,
    "training.clip_value": 10.0,
    "model.head": "layernorm+linear",
    "model.head_init": "kaiming",
    "model.frozen": ("blocks",),
    "input.interpolation": "bicubic",
    "input.transforms": ({"RandomHorizontalFlip": {}},),
    "evaluation.every": 2,
    "evaluation.ks": (1, 2),
    "evaluation.clustering": "every",
    "evaluation.clustering_runs": 1,
    "evaluation.batch_size": 64,
    "validation.classes": 0.2,
}


@pytest.fixture
def cell() -> Cell:
    return Cell.from_dict(yaml.safe_load(TEXT))


def with_protocol(cell: Cell, key: str, value) -> Cell:
    section, _, field = key.rpartition(".")
    if not section:
        return dataclasses.replace(cell, protocol=cell.protocol.model_copy(update={field: value}))
    changed = getattr(cell.protocol, section).model_copy(update={field: value})
    return dataclasses.replace(cell, protocol=cell.protocol.model_copy(update={section: changed}))


def with_loss(cell: Cell, **update) -> Cell:
    loss = cell.method.loss.model_copy(update=update)
    return dataclasses.replace(cell, method=cell.method.model_copy(update={"loss": loss}))


def with_distillation(cell: Cell, **update) -> Cell:
    distillation = cell.method.distillation.model_copy(update=update)
    return dataclasses.replace(cell, method=cell.method.model_copy(update={"distillation": distillation}))


def test_the_hash_of_a_spec_never_changes(cell):
    """Results on disk are found by it: a change here orphans everybody's results."""
    assert cell.hash == "9b55b1ce12d086f3"


def test_round_trip_through_yaml(cell):
    text = yaml.safe_dump(cell.to_dict(), sort_keys=False, allow_unicode=True)
    again = Cell.from_dict(yaml.safe_load(text))
    assert again == cell
    assert again.hash == cell.hash == yaml.safe_load(text)["hash"]


SCALARS = st.one_of(
    st.booleans(),
    st.integers(-(10**12), 10**12),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text("aé1.e:#'\"{}[]-~ \nyes", max_size=6),
)


@settings(max_examples=50)
@given(st.dictionaries(st.text("abcxyz_", min_size=1), SCALARS, max_size=4), st.floats(1e-30, 1e30), st.integers(0))
def test_any_values_survive_the_round_trip(values, rate, seed):
    cell = Cell.from_dict(yaml.safe_load(TEXT))
    parameters = {name: ResolvedValue(value=value, source="any") for name, value in values.items()}
    cell = dataclasses.replace(with_loss(cell, parameters=parameters), seed=seed)
    cell = with_protocol(with_protocol(cell, "training.learning_rate", rate), "model.kwargs", values)
    again = Cell.from_dict(yaml.safe_load(yaml.safe_dump(cell.to_dict(), allow_unicode=True)))
    assert again.hash == cell.hash
    assert again == cell


def test_every_field_of_a_protocol_is_changed_below(cell):
    fields = set()
    for name, value in cell.protocol:
        is_section = name in {"model", "input", "training", "evaluation", "validation"}
        fields |= {f"{name}.{field}" for field in type(value).model_fields} if is_section else {name}
    assert fields - {"title", "description", "family"} == set(CHANGED)


@pytest.mark.parametrize("key", CHANGED)
def test_every_field_of_a_protocol_changes_the_hash(cell, key):
    other = with_protocol(cell, key, CHANGED[key])
    assert other.protocol != cell.protocol
    assert other.hash != cell.hash
    assert other.index()["protocol_hash"] != cell.index()["protocol_hash"]


@pytest.mark.parametrize(
    "change",
    [
        lambda cell: dataclasses.replace(cell, seed=4),
        lambda cell: dataclasses.replace(cell, dataset=DatasetSpec(name="glyphs", version="2")),
        lambda cell: dataclasses.replace(cell, dataset=DatasetSpec(name="omniglot-small", version="test")),
        lambda cell: dataclasses.replace(cell, dataset=cell.dataset.model_copy(update={"held_out": 0.2})),
        lambda cell: dataclasses.replace(cell, method=cell.method.model_copy(update={"tuned": 8})),
        lambda cell: dataclasses.replace(cell, method=cell.method.model_copy(update={"distillation": None})),
        lambda cell: dataclasses.replace(cell, method=cell.method.model_copy(update={"name": "other+psd"})),
        lambda cell: with_distillation(cell, teacher_mode="train"),
        lambda cell: with_distillation(cell, teacher="memory"),
        lambda cell: with_loss(cell, class_name="triplet"),
        lambda cell: with_loss(cell, learning_rates={}),
        lambda cell: with_loss(cell, learning_rates={"beta": ResolvedValue(value=0.001, source="a paper")}),
        lambda cell: with_loss(cell, parameters={"margin": ResolvedValue(value=0.3, source="a paper")}),
        lambda cell: with_loss(cell, plugin="mine.py", plugin_sha256="1" * 64),
    ],
)
def test_whatever_changes_a_number_changes_the_hash(cell, change):
    assert change(cell).hash != cell.hash


@pytest.mark.parametrize(
    "change",
    [
        lambda cell: with_protocol(cell, "title", "Another title"),
        lambda cell: with_protocol(cell, "description", "Prose"),
        lambda cell: with_protocol(cell, "family", "resnet50-128"),
        lambda cell: dataclasses.replace(cell, overrides=()),
        lambda cell: dataclasses.replace(cell, method=cell.method.model_copy(update={"marks": ()})),
        lambda cell: with_loss(cell, title="Another title", variant="prose"),
        lambda cell: with_loss(
            cell,
            parameters={
                "mining": ResolvedValue(value="distance", source="elsewhere"),
                "margin": ResolvedValue(value=0.2, source="elsewhere", published=False),
            },
        ),
    ],
)
def test_prose_sources_and_marks_do_not(cell, change):
    other = change(cell)
    assert other != cell
    assert other.hash == cell.hash


def test_a_plugin_counts_by_content_not_by_path(cell):
    here = with_loss(cell, plugin="/here/mine.py", plugin_sha256="1" * 64)
    there = with_loss(cell, plugin="/there/yours.py", plugin_sha256="1" * 64)
    edited = with_loss(cell, plugin="/here/mine.py", plugin_sha256="2" * 64)
    assert here.hash == there.hash != edited.hash


def test_a_weights_file_counts_by_content_not_by_path(tmp_path, make_cell):
    def cell_with(name: str, content: bytes) -> Cell:
        path = tmp_path / name / "weights.pth"
        path.parent.mkdir()
        path.write_bytes(content)
        protocol = load_protocol("conv4-64", "glyphs", {"model": {"weights": str(path)}})
        return dataclasses.replace(make_cell(), protocol=protocol)

    one, same, other = cell_with("one", b"weights"), cell_with("two", b"weights"), cell_with("three", b"others")
    assert one.protocol.model.weights != same.protocol.model.weights
    assert one.hash == same.hash != other.hash


def test_two_and_two_point_zero_are_one_number(cell, empty_folder):
    integers = {"input": {"rotation": 10, "mean": [0]}, "training": {"learning_rate": 1, "gamma": 1}}
    floats = {"input": {"rotation": 10.0, "mean": [0.0]}, "training": {"learning_rate": 1.0, "gamma": 1.0}}
    assert protocol_identity(load_protocol("conv4-64", "glyphs", integers)) == protocol_identity(
        load_protocol("conv4-64", "glyphs", floats)
    )
    resolve = Registry().resolve
    one = resolve("ms+psd", "glyphs", "conv4-64", MethodSettings({"alpha": 2}, {"lambda": 75}))
    other = resolve("ms+psd", "glyphs", "conv4-64", MethodSettings({"alpha": 2.0}, {"lambda": 75.0}))
    assert dataclasses.replace(cell, method=one).hash == dataclasses.replace(cell, method=other).hash
    rates = [{"beta": ResolvedValue(value=value, source="a test")} for value in (1, 1.0)]
    assert with_loss(cell, learning_rates=rates[0]).hash == with_loss(cell, learning_rates=rates[1]).hash


def test_options_of_a_run_are_no_part_of_a_spec(cell):
    def keys(content) -> set[str]:
        if not isinstance(content, dict):
            return set()
        return set(content) | {key for value in content.values() for key in keys(value)}

    assert not {field.name for field in dataclasses.fields(RunOptions)} & keys(cell.to_dict())


def test_index_names_the_cell_and_its_protocol(cell):
    index = cell.index()
    assert index == {
        "hash": cell.hash,
        "protocol": "small",
        "variant": "distillation.teacher_mode=eval, training.epochs=5",
        "dataset": "glyphs",
        "method": "margin+psd",
        "base": "margin",
        "modifier": "psd",
        "teacher_mode": "eval",
        "seed": 3,
        "marks": ["untuned: nothing published", EVAL_TEACHER],
        "protocol_hash": index["protocol_hash"],
    }
    assert cell.label == "margin+psd on glyphs, seed 3"
    cell = with_distillation(cell, teacher_mode="train")
    assert cell.index()["variant"] == "training.epochs=5"
    assert cell.index()["marks"] == ["untuned: nothing published"]
    tuned = dataclasses.replace(cell, method=cell.method.model_copy(update={"tuned": 8}))
    assert tuned.index()["variant"] == "training.epochs=5, tuned"
    trial = dataclasses.replace(cell, dataset=cell.dataset.model_copy(update={"held_out": 0.2}))
    assert trial.index()["dataset"] == "glyphs (tested on 20% of its training classes)"
    base = dataclasses.replace(cell, method=MethodSpec(name="margin", loss=cell.method.loss), seed=0)
    assert base.index()["modifier"] == base.index()["teacher_mode"] == ""
    assert base.index()["protocol_hash"] == index["protocol_hash"]


def rates(cell, **given):
    stated = {name.replace("_", "."): ResolvedValue(value=value, source="a test") for name, value in given.items()}
    return with_loss(cell, learning_rates=stated)


def test_the_innermost_rate_holds_also_the_networks(cell):
    part = rates(cell, head=0.5, head_inner="network").method.loss
    assert part.rate("head.weight", network=0.001) == 0.5
    assert part.rate("head.inner.weight", network=0.001) == 0.001
    assert part.rate("headless", network=0.001) == 0.001


def test_the_networks_rate_enters_the_hash_only_as_an_exception(cell):
    plain = rates(cell, head=0.5)
    assert rates(cell, head=0.5, head_inner="network").hash != plain.hash
    assert rates(cell, head=0.5, other="network").hash == plain.hash  # the default, stated


def test_a_spec_without_a_teachers_mode_is_of_one_in_eval_mode(cell):
    """Such specs were written when there was no other, and what they ran with can be asked for today."""
    assert cell.method.distillation.teacher_mode == "eval"
    asked = dataclasses.replace(cell, overrides=("distillation.teacher_mode=eval", *cell.overrides))
    assert asked.hash == cell.hash
    assert asked.index() == cell.index()


def test_a_part_gives_plain_values(cell):
    assert cell.method.loss.values() == {"margin": 0.2, "mining": "distance"}
    assert cell.method.loss.rates() == {"beta": 0.0005}
    assert cell.method.base == "margin"
