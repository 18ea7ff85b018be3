"""Values per seed as `estimates.seed_values` returns them, without a results folder."""

import pandas as pd

from tests.typed import NONE, parts

PLACE = {"protocol": "p", "overrides": NONE, "selection": "last", "metric": "recall_at_1"}


def values(runs, dataset="d", marks="", origin="cpu/x", kind="one", *, units=float("nan")):
    """Rows of `seed_values`: `{method: [value of seed 0, ...]}`."""
    rows = []
    for method, own in runs.items():
        names = parts(method)
        names |= {"marks": marks if names["modifier"] else ""}
        rows += [
            PLACE
            | names
            | {"dataset": dataset, "seed": seed, "origin": origin, "kind": kind, "units": units, "value": value}
            for seed, value in enumerate(own)
            if value is not None
        ]
    return pd.DataFrame(rows)
