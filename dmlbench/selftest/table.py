"""The checks of a self-test, in the order in which they run: what the numbers depend on first, costs last."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """A check; planning imports no torch, so its function is named and not imported.

    Attributes:
        function: Of `module`; it takes `Conditions` and returns an `Outcome`.
        seconds: What it takes on two cores of a CPU; with less time left it is skipped.
        most: What it takes where there is time, by measuring longer; bounds stay.
    """

    name: str
    title: str
    module: str
    function: str
    seconds: float
    most: float = 0.0


AGREEMENT = "dmlbench.selftest.agreement"
TRAININGS = "dmlbench.selftest.trainings"
FEEDING = "dmlbench.selftest.feeding"
COSTS = "dmlbench.selftest.costs"

CHECKS = (
    Check("losses", "losses and mining in float32 against the CPU's float64", AGREEMENT, "losses", 4),
    Check(
        "modifiers", "targets and losses of modifiers in float32 against the CPU's float64", AGREEMENT, "modifiers", 2
    ),
    Check("metrics", "retrieval, clustering and geometry against the CPU's", AGREEMENT, "metrics", 3),
    Check("faiss", "retrieval by faiss against torch", AGREEMENT, "faiss", 3),
    Check("repeat", "two trainings from one seed, bit by bit", TRAININGS, "repeat", 15),
    Check("resume", "a killed and resumed cell against an uninterrupted one, bit by bit", TRAININGS, "resume", 20),
    Check("waits", "no step makes the host wait for the device", TRAININGS, "waits", 5, most=30),
    Check("batches", "batches of loader processes on the device against the CPU's own", FEEDING, "batches", 5),
    Check("bfloat16", "a step in bfloat16 autocast against float32", TRAININGS, "bfloat16", 5),
    Check("memory", "memory of a step, and whether it grows from epoch to epoch", COSTS, "memory", 15),
    Check("loader", "training from the loader against batches on the device", FEEDING, "loader", 10, most=40),
    Check("overhead", "the step of ms+psd against that of ms, interleaved", COSTS, "overhead", 25, most=120),
)
