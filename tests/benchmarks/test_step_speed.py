"""What makes a training step faster: each candidate against the plain form, on one thread.

    pytest -m benchmark tests/benchmarks/test_step_speed.py -s

What is kept says so; what did not help, or helped within the noise only, is listed to save others the trial.
"""

import copy

import pytest
import torch
from by_turns import time_by_turns

from dmlbench.protocol import load_protocol
from dmlbench.step_cost import synthetic_batches
from dmlbench.training.components import build_seeded_model
from dmlbench.training.teachers import folded

pytestmark = pytest.mark.benchmark
CPU = torch.device("cpu")
HEADING = "Parts of a training step, one thread"


@pytest.fixture(autouse=True)
def one_thread(threads):
    threads(1)


def protocol_of(name, batch_size=112):
    settings = {"model": {"weights": None}, "training": {"batch_size": batch_size}}
    return load_protocol(name, "synthetic", settings)


@pytest.fixture
def compare(row):
    """Adds a row for every form of a part of a step; the first is the reference, the last is kept."""

    def run(part, network, forms, rounds):
        timings = time_by_turns(forms, rounds, warm_up=3)
        reference, *_, kept = forms
        verdicts = dict.fromkeys(forms, "not kept") | {reference: "reference", kept: "kept"}
        for name in forms:
            figures = {"ms": f"{1e3 * timings.median(name):.2f}", "ratio": f"{timings.ratio(name, reference):.2f}"}
            row(HEADING, part=part, network=network, form=name, **figures, verdict=verdicts[name])

    return run


@pytest.mark.parametrize(("name", "batch_size", "rounds"), [("conv4-64", 112, 40), ("resnet50-128", 8, 8)])
def test_teachers_forward_pass(name, batch_size, rounds, compare):
    protocol = protocol_of(name, batch_size)
    plain = build_seeded_model(protocol, 0, CPU).eval().requires_grad_(False)
    quick = folded(copy.deepcopy(plain))
    images = synthetic_batches(protocol, CPU)[0].images

    def run(network, context):
        def call():
            with context():
                return network(images)

        return call

    forms = {
        "no_grad": run(plain, torch.no_grad),
        "inference_mode": run(plain, torch.inference_mode),
        "BatchNorm folded in sequences": run(quick, torch.no_grad),
    }
    compare("teacher's forward pass", f"{name}, batch {batch_size}", forms, rounds)


@pytest.mark.parametrize("name", ["conv4-64", "resnet50-128"])
def test_optimiser(name, compare):
    protocol, steps = protocol_of(name), {}
    for form, options in (("for loop", {"foreach": False}), ("foreach", {"foreach": True}), ("fused", {"fused": True})):
        model = build_seeded_model(protocol, 0, CPU)
        for parameter in model.parameters():
            parameter.grad = torch.randn_like(parameter)
        steps[form] = torch.optim.Adam(model.parameters(), 1e-3, weight_decay=4e-4, **options).step
    compare("Adam", name, steps, 60)


def test_memory_layout(compare):
    protocol, steps = protocol_of("conv4-64"), {}
    images = synthetic_batches(protocol, CPU)[0].images
    for form, layout in (("contiguous", torch.contiguous_format), ("channels last", torch.channels_last)):
        model = build_seeded_model(protocol, 0, CPU).to(memory_format=layout)
        batch = images.contiguous(memory_format=layout)
        steps[form] = lambda model=model, batch=batch: model(batch).sum().backward()
    compare("forward and backward", "conv4-64, batch 112", steps, 30)
