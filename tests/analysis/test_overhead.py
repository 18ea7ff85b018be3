import math

import pandas as pd
import pytest

from dmlbench.analysis.costs import overhead, phase_times
from tests.typed import NONE, parts, settings


def cell(method, seed, step_ms, machine="m1", **changes):
    row = {"protocol": "p", "overrides": NONE, "dataset": "d"} | parts(method)
    row |= {"seed": seed, "status": "done", "marks": "", "step_ms": step_ms, "machine": machine, "exclusive": True}
    return row | {"folder": f"{method}/{seed}/{changes}"} | changes


def test_ratio_per_seed_to_the_own_base():
    rows = [cell("ms", 0, 10.0), cell("ms", 1, 20.0), cell("triplet", 0, 1.0)]
    rows += [cell("ms+psd", 0, 20.0), cell("ms+psd", 1, 160.0)]
    base, found = overhead(pd.DataFrame(rows)).to_dict("records")
    assert (base["method"], base["to_method"], base["n"]) == ("ms", "triplet", 1)
    assert (found["method"], found["to_method"], found["n"], found["other_machine"]) == ("ms+psd", "ms", 2, 0)
    assert found["mean"] == pytest.approx(4.0)  # geometric mean of 2 and 8
    assert found["step_ms"] == pytest.approx(math.sqrt(20 * 160))


def test_pairs_on_two_machines_are_left_out_and_counted():
    rows = [cell("ms", 0, 10.0), cell("ms+psd", 0, 13.0), cell("ms", 1, 10.0), cell("ms+psd", 1, 99.0, machine="m2")]
    (found,) = overhead(pd.DataFrame(rows)).to_dict("records")
    assert (found["n"], found["other_machine"]) == (1, 1)
    assert found["mean"] == pytest.approx(1.3)


def test_a_pair_beside_another_runners_cells_is_left_out_and_counted():
    rows = [cell("ms", 0, 10.0), cell("ms+psd", 0, 13.0), cell("ms", 1, 10.0), cell("ms+psd", 1, 99.0, exclusive=False)]
    (found,) = overhead(pd.DataFrame(rows)).to_dict("records")
    assert (found["n"], found["other_machine"]) == (1, 1)


def test_no_pair_left_keeps_the_row_and_says_so():
    rows = [cell("ms", 0, 10.0), cell("ms+psd", 0, 13.0, machine="m2")]
    (found,) = overhead(pd.DataFrame(rows)).to_dict("records")
    assert (found["n"], found["other_machine"]) == (0, 1)
    assert math.isnan(found["mean"])


def test_other_protocol_settings_and_failed_cells_form_no_pair():
    rows = [cell("ms", 0, 10.0, overrides=settings("training.epochs=3")), cell("ms", 1, 10.0, status="failed")]
    rows += [cell("ms+psd", 0, 13.0), cell("ms+psd", 1, 13.0)]
    assert overhead(pd.DataFrame(rows)).empty


def test_selections_of_a_cell_count_once():
    rows = [cell("ms", 0, 10.0)] * 3 + [cell("ms+psd", 0, 13.0)] * 3
    (found,) = overhead(pd.DataFrame(rows)).to_dict("records")
    assert found["n"] == 1


def epoch(method, seed, number, **seconds):
    place = {"protocol": "p", "overrides": NONE, "dataset": "d"} | parts(method)
    steps = 10  # of 1 s a phase: 100 ms
    step_ms = 1000 * sum(value for name, value in seconds.items() if name != "data") / steps if seconds else None
    return (
        place
        | {"seed": seed, "epoch": number, "time/step_ms": step_ms, "time/train_s": 99.0}
        | {f"time/{name}_s": value for name, value in seconds.items()}
    )


def test_phases_are_milliseconds_a_step_without_the_first_epoch():
    rows = [epoch("ms", 0, 0), epoch("ms", 0, 1, data=9.0, forward=9.0, backward=9.0)]
    rows += [epoch("ms", 0, number, data=1.0, forward=2.0, backward=value) for number, value in ((2, 3.0), (3, 5.0))]
    rows += [epoch("ms", 1, 2, data=1.0, forward=4.0, backward=8.0)]
    found = phase_times(pd.DataFrame(rows)).set_index("phase")
    assert list(found.index) == ["data", "forward", "backward"]
    # Seed 0: medians over epochs 2 and 3; then the mean with seed 1.
    assert found["ms"].to_dict() == pytest.approx(
        {"data": 100, "forward": (200 + 400) / 2, "backward": (400 + 800) / 2}
    )
    assert set(found["n"]) == {2}


def test_one_epoch_alone_has_no_phases():
    assert phase_times(pd.DataFrame([epoch("ms", 0, 0), epoch("ms", 0, 1, forward=1.0)])).empty
