"""What makes a training step faster: each candidate against the plain form, on one thread.

    pytest -m benchmark tests/benchmarks/test_step_speed.py -s

What is kept says so; what did not help, helped within the noise only, gave other numbers (`distance`: the largest
difference to the reference's, over its largest number) or has to be compiled for minutes is listed to save others the
trial. Compiling the large network takes three minutes.
"""

import copy

import pytest
import torch
from torch.func import functional_call, stack_module_state
from torch.fx.experimental.optimization import fuse

from dmlbench.modifiers.teachers import folded
from dmlbench.overhead.timing import synthetic_batches
from dmlbench.specs.protocol import load_protocol
from dmlbench.training.build import build_seeded_model
from tests.benchmarks.by_turns import time_by_turns

pytestmark = pytest.mark.benchmark
CPU = torch.device("cpu")
HEADING = "Parts of a training step, one thread"
CHANNELS_LAST, FOLDED = "channels last", "BatchNorm folded in sequences"
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

    Every form returns a tensor; whether its numbers are those of the reference is seen before the timing.
    """

    def run(part, network, forms, *, rounds, kept=None):
        reference = next(iter(forms))
        found = {name: form().clone() for name, form in forms.items()}
        expected = found[reference]
        distances = {name: float((own - expected).abs().max() / expected.abs().max()) for name, own in found.items()}
        timings = time_by_turns(forms, rounds, warm_up=2)
        for name in forms:
            verdict = "kept" if name == kept else "reference" if name == reference else "not kept"
            figures = {"ms": f"{1e3 * timings.median(name):.2f}"} | timings.ratio_cells(name, reference)
            apart = f"{distances[name]:.0e}" if distances[name] else "0"
            row(HEADING, part=part, network=network, form=name, **figures, distance=apart, verdict=verdict)

    return run


def without_gradient(network, images, *, context=torch.no_grad, autocast=False):
    def call():
        with context(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            return network(images)

    return call


def with_gradient(network, images, *, autocast=False):
    def call():
        network.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            embeddings = network(images)
        embeddings.float().prod(dim=1).sum().backward()
        return embeddings.detach()

    return call


@pytest.mark.parametrize(("name", "batch_size", "rounds"), NETWORKS)
def test_teachers_forward_pass(name, batch_size, rounds, compare):
    protocol = protocol_of(name, batch_size)
    plain = build_seeded_model(protocol, 0, CPU).eval().requires_grad_(False)
    images = synthetic_batches(protocol, CPU)[0].images
    forms = {
        "no_grad": without_gradient(plain, images),
        "inference_mode": without_gradient(plain, images, context=torch.inference_mode),
        FOLDED: without_gradient(folded(copy.deepcopy(plain)), images),
        "BatchNorm folded everywhere (torch.fx)": without_gradient(fuse(plain), images),
        "torch.compile": without_gradient(torch.compile(plain), images),
        "folded everywhere, torch.compile": without_gradient(torch.compile(fuse(plain)), images),
        "bfloat16 in a float32 training": without_gradient(plain, images, autocast=True),
    }
    compare("teacher's forward pass", f"{name}, batch {batch_size}", forms, rounds=rounds, kept=FOLDED)


def test_two_networks_in_one_batched_pass(compare):
    """What teacher and student could share if both were in evaluation mode: one pass with twice the weights."""
    protocol = protocol_of("conv4-64")
    both = [build_seeded_model(protocol, seed, CPU).eval().requires_grad_(False) for seed in (0, 1)]
    images = synthetic_batches(protocol, CPU)[0].images
    stacked = stack_module_state(both)

    def one_network(parameters, buffers):
        return functional_call(both[0], (parameters, buffers), images)

    batched = torch.vmap(one_network)
    forms = {
        "one after the other": without_gradient(lambda pixels: torch.stack([one(pixels) for one in both]), images),
        "one batched pass (torch.vmap)": without_gradient(lambda _: batched(*stacked), images),
    }
    compare("two networks in evaluation mode", "conv4-64, batch 112", forms, rounds=20)


@pytest.mark.parametrize("name", ["conv4-64", "resnet50-128"])
def test_optimiser(name, compare):
    protocol, steps = protocol_of(name), {}
    for form, options in (("for loop", {"foreach": False}), ("foreach", {"foreach": True}), ("fused", {"fused": True})):
        parameters = list(build_seeded_model(protocol, 0, CPU).parameters())
        optimizer = torch.optim.Adam(parameters, 1e-3, weight_decay=4e-4, **options)
        generator = torch.Generator().manual_seed(0)
        for parameter in parameters:
            # As it lies after a backward pass: fused Adam walks both in the order of their memory.
            parameter.grad = torch.empty_like(parameter).copy_(torch.randn(parameter.shape, generator=generator))

        largest = max(parameters, key=torch.Tensor.numel)

        def step(optimizer=optimizer, weight=largest):
            optimizer.step()
            return weight.detach()

        steps[form] = step
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
        "channels last, bfloat16 autocast (a setting of protocols)": form(autocast=True),
    }
    compare("forward and backward", f"{name}, batch {batch_size}", forms, rounds=rounds, kept=CHANNELS_LAST)


def test_batches_of_an_evaluation(compare):
    """The same 1,120 images embedded in small and in large batches."""
    protocol = protocol_of("conv4-64", 1120)
    model = build_seeded_model(protocol, 0, CPU).eval()
    images = synthetic_batches(protocol, CPU)[0].images

    def embedded(size):
        return without_gradient(lambda pixels: torch.cat([model(part) for part in pixels.split(size)]), images)

    forms = {f"batches of {size}": embedded(size) for size in (112, 64, 256, 560, 1120)}
    kept = f"batches of {protocol.evaluation.batch_size}"
    compare("embedding 1,120 images", "conv4-64", forms, rounds=8, kept=kept)
