from dataclasses import replace

import pytest
import yaml

from dmlbench.overhead.plan import CostRequest, plan_cost
from dmlbench.runner.matrix import Request, plan
from dmlbench.specs.overrides import with_origins
from dmlbench.specs.registry import TRANSFERRED, UNTUNED

OF_R = TRANSFERRED.format("resnet50-128")
WEIGHTS = "mobilenetv1_imagenet.safetensors"  # as the protocol names them


@pytest.fixture(autouse=True)
def _alone(empty_folder):
    """No `./methods` but what a test puts there."""


def overrides(*settings: str, methods=("ms", "ms+psd"), protocol="conv4-64") -> list[tuple[str, ...]]:
    """Those of a plan; they are none exactly where the cells are those of the plan without settings."""
    cells = plan(Request(methods, ("glyphs",), (0,), protocol, settings))
    plain = plan(Request(methods, ("glyphs",), (0,), protocol))
    assert [own.overrides == () for own in cells] == [a.hash == b.hash for a, b in zip(cells, plain, strict=True)]
    return [cell.overrides for cell in cells]


@pytest.mark.parametrize(
    "setting",
    [
        "loss.alpha=2",
        "loss.alpha=2.0",
        "loss.alpha=2e0",
        "training.learning_rate=1e-3",
        "training.learning_rate=0.001",
        "training.epochs=12",
        "evaluation.ks=[1,2,4, 8]",
        "model.weights=null",
        "input.flip=false",
        "validation.classes=-0.0",
    ],
)
def test_a_default_spelt_out_is_no_change(setting):
    assert overrides(setting) == [(), ()]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (("loss.alpha=3", "loss.alpha=3.0", "loss.alpha=3e0"), "loss.alpha=3"),
        (("training.learning_rate=1e-2", "training.learning_rate=0.01"), "training.learning_rate=0.01"),
        (("training.learning_rate=1e-5", "training.learning_rate=0.00001"), "training.learning_rate=1e-5"),
        (("evaluation.ks=[1,2]", "evaluation.ks=[1, 2]"), "evaluation.ks=[1, 2]"),
        (("training.epochs=3", "training.epochs=3.0"), "training.epochs=3"),
        (("training.weight_decay=0", "training.weight_decay=-0.0"), "training.weight_decay=0"),
        (("model.freeze_batchnorm=true", "model.freeze_batchnorm=True"), "model.freeze_batchnorm=true"),
        (("model.kwargs.width=32", "model.kwargs.width=0x20"), "model.kwargs.width=32"),
    ],
)
def test_one_value_has_one_spelling_that_may_be_typed_again(settings, words):
    for setting in (*settings, words):
        assert overrides(setting) == [(words,), (words,)]


def test_settings_reach_whom_they_concern_and_the_last_counts():
    settings = "training.epochs=5", "distillation.tau=2", "training.epochs=3", "loss.alpha=2"
    assert overrides(*settings) == [("training.epochs=3",), ("distillation.tau=2", "training.epochs=3")]


def test_a_text_that_would_be_a_number_is_quoted():
    (plain,) = overrides("distillation.dimensions=64,128", methods=("ms+s2sd",))
    (quoted,) = overrides("distillation.dimensions='64'", methods=("ms+s2sd",))
    assert plain == ("distillation.dimensions=64,128",)
    assert quoted == ('distillation.dimensions="64"',)
    assert overrides(*quoted, methods=("ms+s2sd",)) == [quoted]


def test_a_file_of_weights_counts_by_its_name_and_not_by_its_place(tmp_path, monkeypatch):
    for folder in ("here", "there"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / WEIGHTS).write_bytes(b"x")
        (tmp_path / folder / "other.safetensors").write_bytes(b"y")
    monkeypatch.chdir(tmp_path / "here")
    places = "", "../there/", f"{tmp_path}/there/"
    for place in places:
        assert overrides(f"model.weights={place}{WEIGHTS}", protocol="mobilenetv1-112") == [(), ()]
        others = overrides(f"model.weights={place}other.safetensors", protocol="mobilenetv1-112")
        assert others == [("model.weights=other.safetensors",)] * 2


def test_what_is_measured_has_the_same_words():
    settings = "training.batch_size=8", "training.learning_rate=1e-3", "loss.alpha=2.0"
    planned = plan_cost(CostRequest(("ms",), "conv4-64", None, settings), print)
    assert planned.variant == "training.batch_size=8"


def test_an_older_spec_keeps_its_words(make_cell):
    text = yaml.safe_dump(make_cell().to_dict() | {"overrides": ["loss.alpha=2.0"]})
    assert type(make_cell()).from_dict(yaml.safe_load(text)).index()["variant"] == "loss.alpha=2.0"


@pytest.mark.parametrize(
    ("method", "recorded", "told"),
    [
        ("ms", [], [OF_R]),
        ("ms+psd", [UNTUNED, "a note"], [UNTUNED, OF_R, "a note"]),
        ("ms+independent", ["new: in no paper"], ["new: in no paper"]),
    ],
)
def test_where_an_older_results_values_come_from_is_what_the_shipped_files_say(method, recorded, told):
    (cell,) = plan(Request((method,), ("glyphs",), (0,), "conv4-64"))
    assert with_origins(recorded, cell) == told
    assert with_origins(told, cell) == told


def test_nothing_is_said_of_values_that_are_not_the_shipped_files():
    (cell,) = plan(Request(("ms",), ("glyphs",), (0,), "conv4-64", ("loss.alpha=3",)))
    assert with_origins([], cell) == []
    (shipped,) = plan(Request(("ms",), ("glyphs",), (0,), "conv4-64"))
    tuned = replace(shipped, method=shipped.method.model_copy(update={"tuned": 8}))
    assert with_origins(["tuned: so"], tuned) == ["tuned: so"]
