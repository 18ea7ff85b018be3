"""How cost grows: evaluation with the number of embeddings, a training step with the batch.

    pytest -m benchmark tests/benchmarks/test_growth.py -s

With --write-table it also draws `growth.png`.
"""

import statistics
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from dmlbench.evaluation import retrieval_metrics
from dmlbench.overhead.timing import SYNTHETIC_SET, measure_steps, synthetic_batches
from dmlbench.reporting.style import COLUMN, PALETTE, RC, plotting
from dmlbench.results.measurements import SYNTHETIC
from dmlbench.specs.protocol import load_protocol
from dmlbench.specs.registry import Registry
from dmlbench.training.build import build_seeded_model, build_trainer
from tests.benchmarks.by_turns import time_by_turns
from tests.benchmarks.test_retrieval_speed import extra_memory, make_set

pytestmark = pytest.mark.benchmark
COUNTS = (1_000, 3_000, 10_000, 30_000, 60_502)
BATCHES = (56, 112, 224, 448)
METHODS = ("ms", "ms+obdsd", "ms+obdsd-mem")
FIGURE = Path(__file__).parent / "growth.png"


@pytest.fixture(scope="module")
def drawn(request):
    """Axes for both tests; saved at the end of a run that writes the tables."""
    with plotting(RC):
        figure = Figure(figsize=(2 * COLUMN, 2.6))
        axes = figure.subplots(1, 3)
        yield axes
        for one, places in zip(axes, (COUNTS, COUNTS, BATCHES), strict=True):
            one.set(xscale="log", yscale="log")
            one.set_xticks(places, [f"{place / 1000:.0f}k" if place >= 1000 else f"{place}" for place in places])
            one.xaxis.set_minor_locator(NullLocator())
            one.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            one.yaxis.set_major_formatter("{x:g}")
            one.yaxis.set_minor_locator(NullLocator())
            one.grid()
        if request.config.getoption("--write-table"):
            figure.savefig(FIGURE, dpi=160, metadata={"Software": None})


def test_evaluation_with_the_number_of_embeddings(threads, row, drawn):
    threads(2)
    seconds, memory = [], []
    for count in COUNTS:
        embeddings, labels = make_set(count, 128, max(2, count * 11_316 // 60_502), noise=1.4)

        def call(embeddings=embeddings, labels=labels):
            retrieval_metrics(embeddings, labels, (1, 10, 100, 1000))

        call()  # whatever is imported or built once
        memory.append(max(1.0, extra_memory(call)))  # of less than a page's noise an axis in powers can show nothing
        seconds.append(time_by_turns({"auto": call}, rounds=3, warm_up=0).median("auto"))
        figures = {"seconds": f"{seconds[-1]:.2f}", "extra memory (MiB)": f"{memory[-1]:.0f}"}
        row(
            "Growth: evaluation, 128 dimensions, five or six images a class, two threads",
            embeddings=f"{count:,}",
            **figures,
        )
    for axes, values, label in zip(drawn, (seconds, memory), ("seconds", "extra memory (MiB)"), strict=False):
        axes.plot(COUNTS, values, "o-", color=PALETTE[0], markersize=4)
        axes.set_xlabel("embeddings")
        axes.set_ylabel(f"evaluation: {label}")


def test_a_step_with_the_batch(threads, row, drawn):
    threads(1)
    device = torch.device("cpu")
    steps = {name: [] for name in METHODS}
    for batch_size in BATCHES:
        protocol = load_protocol("conv4-64", SYNTHETIC, {"training": {"batch_size": batch_size}})
        trainers = {}
        for name in METHODS:
            method = Registry().resolve(name, SYNTHETIC, protocol.name)
            model = build_seeded_model(protocol, 0, device)
            trainers[name] = build_trainer(method, protocol, model, SYNTHETIC_SET, device)
        costs = measure_steps(trainers, synthetic_batches(protocol, device), rounds=10, warm_up=2)
        for name, cost in costs.items():
            steps[name].append(statistics.median(cost.step_ms))
        figures = {f"{name} (ms)": f"{values[-1]:.1f}" for name, values in steps.items()}
        row("Growth: a step of conv4-64, one thread", batch=str(batch_size), **figures)
    for name, colour, marker in zip(METHODS, PALETTE, "osD", strict=False):
        drawn[2].plot(BATCHES, steps[name], marker + "-", color=colour, label=name, markersize=4)
    drawn[2].set_xlabel("batch")
    drawn[2].set_ylabel("training step (ms)")
    drawn[2].legend()
