"""What is read of the constructors' source, against the constructors."""

import importlib
import inspect
from typing import get_args

import pytest
from pydantic import ValidationError

from dmlbench.errors import UserError
from dmlbench.specs.method import MethodFile
from dmlbench.specs.registry import Registry
from dmlbench.specs.signatures import REGISTERED, signature
from dmlbench.training.build import build_loss, build_modifier

SIZES = {"num_classes": 3, "embedding_dim": 4}


def class_of(entry: str) -> type:
    module, _, name = entry.partition(":")
    return getattr(importlib.import_module(module), name)


LOSSES = {name: class_of(entry) for name, entry in REGISTERED["loss"].items()}
MODIFIERS = {name: class_of(entry) for name, entry in REGISTERED["distillation"].items()}
CLASSES = LOSSES | MODIFIERS
SCHEMAS = {name: signature(slot, name).parameters for slot, names in REGISTERED.items() for name in names}
PARTS = (
    "contrastive", "triplet", "margin", "ms", "proxyanchor", "normsoftmax", "cosface", "arcface", "proxyncapp",
    "softtriple", "supcon", "ntxent", "circle", "smoothap", "recallatk", "spherepair", "psd", "obdsd",
)  # fmt: skip
OUT_OF_RANGE = [
    ("contrastive", "positive_margin", -0.1),
    ("contrastive", "negative_margin", 0.0),
    ("contrastive", "mining", "semihard"),
    ("triplet", "margin", 0.0),
    ("triplet", "mining", "hardest"),
    ("margin", "margin", -0.2),
    ("margin", "beta", 0.0),
    ("margin", "mining", "semihard"),
    ("multi_similarity", "alpha", 0.0),
    ("multi_similarity", "beta", -1.0),
    ("multi_similarity", "epsilon", -0.1),
    ("proxy_anchor", "alpha", 0.0),
    ("proxy_anchor", "alpha", 80.0),  # with delta .1 its exponents would overflow
    ("proxy_anchor", "delta", -0.1),
    ("normalised_softmax", "temperature", 0.0),
    ("cosface", "margin", -0.1),
    ("cosface", "scale", 0.0),
    ("arcface", "margin", 28.6),  # degrees
    ("arcface", "margin", -0.1),
    ("arcface", "scale", -1.0),
    ("proxy_nca_pp", "scale", 0.0),
    ("soft_triple", "centres_per_class", 0),
    ("soft_triple", "scale", 0.0),
    ("soft_triple", "gamma", 0.0),
    ("soft_triple", "tau", -0.1),
    ("soft_triple", "margin", -0.1),
    ("supcon", "temperature", 0.0),
    ("supcon", "base_temperature", 0.0),
    ("nt_xent", "temperature", 0.0),
    ("circle", "m", -0.1),
    ("circle", "gamma", 0.0),
    ("smooth_ap", "temperature", 0.0),
    ("recall_at_k", "ks", "1,,2"),
    ("recall_at_k", "temperature", 0.0),
    ("recall_at_k", "k_temperature", 0.0),
    ("sphere_pair", "temperature", 0.02),
    ("psd", "tau", 0.0),
    ("obdsd", "tau", -1.0),
    ("obdsd", "omega", 1.0),
    ("obdsd", "omega", -0.01),
    ("obdsd", "tau_diffusion", 0.0),
    ("s2sd", "tau", 0.0),
    ("s2sd", "dimensions", "512,"),
    ("s2sd", "dimensions", "0"),
    ("s2sd", "feature_weight", -1.0),
    ("s2sd", "feature_delay", -1),
    ("dm2", "members", 1),
    ("dm2", "period", 0),
]


def sizes_of(component) -> dict[str, int]:
    return {name: size for name, size in SIZES.items() if name in inspect.signature(component).parameters}


def defaults(name: str) -> dict:
    """The default values of the shipped file of a registered class."""
    files = Registry().files().values()
    file = next(file for file in files if isinstance(file, MethodFile) and file.class_name == name)
    return {key: parameter.value for key, parameter in file.parameters.items()}


@pytest.mark.parametrize("name", CLASSES)
def test_schema_and_constructor_take_the_same_names(name):
    taken = set(inspect.signature(CLASSES[name]).parameters) - set(SIZES)
    fields = {field.alias or key for key, field in SCHEMAS[name].model_fields.items()}
    assert fields == {key.removesuffix("_") for key in taken}
    assert ("lambda" in fields) == (name in MODIFIERS)


@pytest.mark.parametrize("name", LOSSES)
def test_learned_parameters_are_the_modules(name):
    loss = LOSSES[name](**sizes_of(LOSSES[name]))
    assert tuple(key for key, _ in loss.named_parameters()) == signature("loss", name).learned


@pytest.mark.parametrize("name", LOSSES)
def test_default_values_are_the_constructors(name):
    signature = inspect.signature(LOSSES[name])
    assert defaults(name) == {
        key: parameter.default for key, parameter in signature.parameters.items() if key not in SIZES
    }


@pytest.mark.parametrize(("name", "parameter", "value"), OUT_OF_RANGE)
def test_schema_and_constructor_refuse_the_same_values(name, parameter, value):
    values = defaults(name)
    SCHEMAS[name].model_validate(values)
    with pytest.raises(ValidationError):
        SCHEMAS[name].model_validate(values | {parameter: value})
    if "lambda" in values:
        values["lambda_"] = values.pop("lambda")
    with pytest.raises(ValueError, match=parameter):
        CLASSES[name](**sizes_of(CLASSES[name]), **values | {parameter: value})


@pytest.mark.parametrize("name", [name for name in LOSSES if "mining" in SCHEMAS[name].model_fields])
def test_every_mining_that_a_schema_names_builds(name):
    for mining in get_args(SCHEMAS[name].model_fields["mining"].annotation):
        assert LOSSES[name](**sizes_of(LOSSES[name]), mining=mining).mining == mining


@pytest.mark.parametrize("name", PARTS)
def test_the_defaults_of_every_shipped_file_build(name, empty_folder):
    method = Registry().resolve(name if name not in ("psd", "obdsd") else f"ms+{name}", "nowhere", "none")
    loss = build_loss(method.loss, SIZES)
    assert isinstance(loss, LOSSES[method.loss.class_name])
    for key, value in method.loss.values().items():
        if key not in signature("loss", method.loss.class_name).learned:
            assert getattr(loss, key) == value
    if method.distillation:
        modifier = build_modifier(method.distillation, SIZES)
        assert isinstance(modifier, MODIFIERS[method.distillation.class_name])
        assert modifier.lambda_ == method.distillation.values()["lambda"]


def test_a_weight_may_be_zero_but_not_negative():
    SCHEMAS["psd"].model_validate({"lambda": 0, "tau": 1})
    with pytest.raises(ValidationError):
        SCHEMAS["psd"].model_validate({"lambda": -1, "tau": 1})


def test_a_value_that_no_constructor_takes_names_method_and_class(empty_folder):
    loss = Registry().resolve("ms", "glyphs", "conv4-64").loss
    stray = loss.model_copy(update={"parameters": loss.parameters | {"gamma": loss.parameters["alpha"]}})
    with pytest.raises(UserError, match=r"^ms: parameters: unknown parameter 'gamma'; .*; see multi_similarity$"):
        build_loss(stray, SIZES)
