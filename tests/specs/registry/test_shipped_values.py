"""For which uses the shipped values were published, and figures as their sources have them."""

import pytest

from dmlbench.specs.registry import TRANSFERRED, Registry
from tests.specs.registry.fake_methods import resolve


def figures(method, protocol):
    own = Registry().files()[method].published
    return {(figure.dataset, figure.value, figure.selection) for figure in own if figure.protocol == protocol}


def test_the_sphere_pair_figures_are_those_of_hyp_vits_picture():
    """htdt/hyp_metric, results.png: 384-d, which hyp-vit-s16 does not score."""
    datasets = ("cub", "cars", "sop", "inshop")
    for protocol, row in {
        "hyp-vit-s16-384": (76.2, 81.7, 82.5, 89.6),
        "hyp-vit-s16-dino-384": (78.7, 86.6, 82.2, 90.1),
    }.items():
        expected = {(dataset, value, "last") for dataset, value in zip(datasets, row, strict=True)}
        assert figures("spherepair", protocol) == expected
        assert not any("HIER" in figure.source for figure in Registry().files()["spherepair"].published)


def test_in_shop_figures():
    assert ("inshop", 91.9, "best-test") in figures("proxyanchor", "proxyanchor-bninception-512")
    assert ("inshop", 89.35, "unknown") in figures("normsoftmax", "zhaiwu-resnet50-2048")


@pytest.mark.parametrize("dataset", ["cub", "cars", "sop"])
def test_roths_arcface_is_another_variant(dataset):
    """Its proxies start uniform within 1 / sqrt(D), and it cuts cosines off: nothing here is that."""
    method = resolve("arcface", dataset=dataset, protocol="resnet50-128")
    assert method.marks == (TRANSFERRED.format("revisiting-arcface"),)


@pytest.mark.parametrize(("dataset", "rate"), [("cub", 0.00446), ("cars", 0.011), ("sop", 0.000546)])
def test_the_reality_checks_temperature_goes_with_its_rate(dataset, rate):
    assert resolve("normsoftmax", dataset=dataset, protocol="mlrc-bninception").loss.rates() == {"proxies": rate}


@pytest.mark.parametrize(
    ("method", "protocol"),
    [
        ("spherepair", "hyp-vit-s16"),
        ("normsoftmax", "zhaiwu-resnet50-2048"),
        ("proxyncapp", "proxyncapp-resnet50-2048"),
    ],
)
def test_official_codes_have_in_shop_too(method, protocol):
    part = resolve(method, dataset="inshop", protocol=protocol).loss
    assert all(value.published for value in part.parameters.values())


def test_roths_normalised_softmax_was_not_published_for_in_shop():
    part = resolve("normsoftmax", dataset="inshop", protocol="resnet50-128").loss
    assert not any(value.published for value in (*part.parameters.values(), *part.learning_rates.values()))


def test_circles_values_for_fine_grained_images_are_no_definition():
    own = resolve("circle").loss.parameters
    assert own["m"].transferred_from == own["gamma"].transferred_from == ("sun2020-fine-grained",)
    assert own["over"].anywhere
