"""Measurements with known ratios."""

import numpy as np

from dmlbench.results.measurements import Measured, Measurement
from dmlbench.results.records import Code, Environment

RATIOS = {"ms": 1.0, "ms+psd": 1.3, "ms+obdsd": 1.32, "ms+psd-mem": 1.01}
ENVIRONMENT = Environment(machine="abc", device="cpu", cpu="Fast & Co", system="Linux", torch="2.0")


def make_measurement(
    ratios=RATIOS, *, rounds=20, processes=1, noise=0.01, apart=0.0, arithmetic=None, seed=0, **changes
):
    """Every round is slowed as a whole by up to a factor of 3, and every step by a little noise.

    Every process has a noise of its own, too, which its rounds share (`apart`).
    """
    rng = np.random.default_rng(seed)
    slowed = 10 * rng.uniform(1, 3, processes * rounds)
    methods = {}
    for name, ratio in ratios.items():
        steps = ratio * slowed * np.exp(rng.normal(0, noise, processes * rounds))
        steps *= np.exp(rng.normal(0, apart, processes)).repeat(rounds)
        phases = {"forward": tuple(0.4 * steps / ratio), "backward": tuple(0.5 * steps)}
        base, _, modifier = name.partition("+")
        marks = ("new: in no paper",) if modifier.endswith("mem") else ()
        phases |= {"teacher": tuple(0.05 * steps)} if modifier else {}
        gflop = 6.0 * (arithmetic or {}).get(name, ratio)
        methods[name] = Measured(base, modifier, marks, tuple(map(float, steps)), phases, 100.0 * ratio, gflop)
    fields = {
        "started": "2026-01-02T03:04:05+00:00",
        "command": "dmlbench overhead --methods ms+psd",
        "protocol": "conv4-64",
        "variant": "",
        "protocol_hash": "0123",
        "dataset": "synthetic",
        "epochs": 20,
        "batch_size": 112,
        "cpu_threads": 1,
        "environment": ENVIRONMENT,
        "code": Code(digest="4567"),
        "processes": processes,
        "rounds": rounds,
        "methods": methods,
    }
    return Measurement(**(fields | changes))
