"""What makes a training step faster: each candidate against the plain form, on one thread.

    pytest -m benchmark tests/benchmarks/test_step_speed.py -s

What is kept says so; what did not help, helped within the noise only, or gave other numbers is listed to save others
the trial. Compiling the large network takes two minutes.
"""

import copy

import pytest
import torch
from by_turns import time_by_turns
from torch.func import functional_call, stack_module_state

from dmlbench.protocol import load_protocol
from dmlbench.step_cost import synthetic_batches
from dmlbench.training.components import build_seeded_model
from dmlbench.training.teachers import folded

pytestmark = pytest.mark.benchmark
CPU = torch.device("cpu")
HEADING = "Parts of a training step, one thread"
CHANNELS_LAST, BFLOAT16 = "channels last", "channels last, bfloat16 autocast (a setting of protocols)"
ONE_BY_ONE = "one after the other"
NETWORKS = [("conv4-64", 112, 20), ("resnet50-128", 8, 6)]


@pytest.fixture(autouse=True)
def one_thread(threads):
    threads(1)


def protocol_of(name, batch_size=112, **training):
    settings = {"model": {"weights": None}, "training": {"batch_size": batch_size} | training}
    return load_protocol(name, "synthetic", settings)


@pytest.fixture
def compare(row):
    """Adds a row for every form of a part of a step: the first is the reference, `kept` the one that dmlbench takes.

    A form that `differs` gives other numbers than the reference, so that its time alone does not decide.
    """

    def run(part, network, forms, *, rounds, kept, differs=()):
        timings = time_by_turns(forms, rounds, warm_up=2)
        reference = next(iter(forms))
        for name in forms:
            verdict = "kept" if name == kept else "reference" if name == reference else "not kept"
            figures = {"ms": f"{1e3 * timings.median(name):.2f}", "ratio": f"{timings.ratio(name, reference):.2f}"}
            result = "other numbers" if name in differs else "the same"
            row(HEADING, part=part, network=network, form=name, **figures, result=result, verdict=verdict)

    return run


def without_gradient(network, images, *, context=torch.no_grad, autocast=False):
    def call():
        with context(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            return network(images)

    return call


def with_gradient(network, images, *, autocast=False):
    def call():
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            embeddings = network(images)
        embeddings.float().sum().backward()

    return call


@pytest.mark.parametrize(("name", "batch_size", "rounds"), NETWORKS)
def test_teachers_forward_pass(name, batch_size, rounds, compare):
    protocol = protocol_of(name, batch_size)
    plain = build_seeded_model(protocol, 0, CPU).eval().requires_grad_(False)
    quick = folded(copy.deepcopy(plain))
    images = synthetic_batches(protocol, CPU)[0].images
    forms = {
        "no_grad": without_gradient(plain, images),
        "inference_mode": without_gradient(plain, images, context=torch.inference_mode),
        "BatchNorm folded in sequences": without_gradient(quick, images),
        "torch.compile": without_gradient(torch.compile(plain), images),
        "bfloat16 in a float32 training": without_gradient(plain, images, autocast=True),
    }
    network = f"{name}, batch {batch_size}"
    differs = ("bfloat16 in a float32 training",)
    kept = "BatchNorm folded in sequences"
    compare("teacher's forward pass", network, forms, rounds=rounds, kept=kept, differs=differs)


def test_teacher_and_student_in_one_batched_pass(compare):
    """Forward passes of both, as one with twice the weights (torch.func) and as two."""
    protocol = protocol_of("conv4-64")
    both = [build_seeded_model(protocol, seed, CPU).eval().requires_grad_(False) for seed in (0, 1)]
    images = synthetic_batches(protocol, CPU)[0].images
    stacked = stack_module_state(both)

    def one_network(parameters, buffers):
        return functional_call(both[0], (parameters, buffers), images)

    batched = torch.vmap(one_network)
    for found, network in zip(batched(*stacked), both, strict=True):
        torch.testing.assert_close(found, network(images), rtol=1e-4, atol=1e-5)
    forms = {
        ONE_BY_ONE: without_gradient(lambda pixels: [network(pixels) for network in both], images),
        "one batched pass": without_gradient(lambda _: batched(*stacked), images),
    }
    compare("forward passes of student and teacher", "conv4-64, batch 112", forms, rounds=20, kept=ONE_BY_ONE)


@pytest.mark.parametrize("name", ["conv4-64", "resnet50-128"])
def test_optimiser(name, compare):
    protocol, steps = protocol_of(name), {}
    for form, options in (("for loop", {"foreach": False}), ("foreach", {"foreach": True}), ("fused", {"fused": True})):
        model = build_seeded_model(protocol, 0, CPU)
        for parameter in model.parameters():
            parameter.grad = torch.randn_like(parameter)
        steps[form] = torch.optim.Adam(model.parameters(), 1e-3, weight_decay=4e-4, **options).step
    compare("Adam", name, steps, rounds=60, kept="fused")


@pytest.mark.parametrize(("name", "batch_size", "rounds"), NETWORKS)
def test_forward_and_backward(name, batch_size, rounds, compare):
    def form(*, compiled=False, autocast=False, channels_last=True):
        protocol = protocol_of(name, batch_size, channels_last=channels_last)
        model = build_seeded_model(protocol, 0, CPU).train()
        images = synthetic_batches(protocol, CPU)[0].images
        return with_gradient(torch.compile(model) if compiled else model, images, autocast=autocast)

    forms = {
        "one channel after the other": form(channels_last=False),
        CHANNELS_LAST: form(),
        "channels last, torch.compile": form(compiled=True),
        BFLOAT16: form(autocast=True),
    }
    network = f"{name}, batch {batch_size}"
    compare("forward and backward", network, forms, rounds=rounds, kept=CHANNELS_LAST, differs=(BFLOAT16,))


def test_batches_of_an_evaluation(compare):
    """The same 1,120 images embedded in small and in large batches."""
    protocol = protocol_of("conv4-64", 1120)
    model = build_seeded_model(protocol, 0, CPU).eval()
    images = synthetic_batches(protocol, CPU)[0].images
    forms = {
        f"batches of {size}": without_gradient(lambda pixels, size=size: list(map(model, pixels.split(size))), images)
        for size in (112, 64, 256, 560, 1120)
    }
    kept = f"batches of {protocol.evaluation.batch_size}"
    compare("embedding 1,120 images", "conv4-64", forms, rounds=8, kept=kept)
