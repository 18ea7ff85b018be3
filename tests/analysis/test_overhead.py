import math

import pandas as pd
import pytest

from dmlbench.analysis.overhead import overhead


def cell(method, seed, step_ms, machine="m1", **changes):
    base, _, modifier = method.partition("+")
    row = {"protocol": "p", "variant": "", "dataset": "d", "method": method, "base": base, "modifier": modifier}
    row |= {"seed": seed, "status": "done", "marks": "", "step_ms": step_ms, "machine": machine}
    return row | {"folder": f"{method}/{seed}/{changes}"} | changes


def test_ratio_per_seed_to_the_own_base():
    rows = [cell("ms", 0, 10.0), cell("ms", 1, 20.0), cell("triplet", 0, 1.0)]
    rows += [cell("ms+psd", 0, 20.0), cell("ms+psd", 1, 160.0)]
    (found,) = overhead(pd.DataFrame(rows)).to_dict("records")
    assert (found["method"], found["base"], found["n"], found["other_machine"]) == ("ms+psd", "ms", 2, 0)
    assert found["mean"] == pytest.approx(4.0)  # geometric mean of 2 and 8
    assert found["step_ms"] == pytest.approx(math.sqrt(20 * 160))


def test_pairs_on_two_machines_are_left_out_and_counted():
    rows = [cell("ms", 0, 10.0), cell("ms+psd", 0, 13.0), cell("ms", 1, 10.0), cell("ms+psd", 1, 99.0, machine="m2")]
    (found,) = overhead(pd.DataFrame(rows)).to_dict("records")
    assert (found["n"], found["other_machine"]) == (1, 1)
    assert found["mean"] == pytest.approx(1.3)


def test_no_pair_left_keeps_the_row_and_says_so():
    rows = [cell("ms", 0, 10.0), cell("ms+psd", 0, 13.0, machine="m2")]
    (found,) = overhead(pd.DataFrame(rows)).to_dict("records")
    assert (found["n"], found["other_machine"]) == (0, 1)
    assert math.isnan(found["mean"])


def test_other_protocol_settings_and_failed_cells_form_no_pair():
    rows = [cell("ms", 0, 10.0, variant="training.epochs=3"), cell("ms", 1, 10.0, status="failed")]
    rows += [cell("ms+psd", 0, 13.0), cell("ms+psd", 1, 13.0)]
    assert overhead(pd.DataFrame(rows)).empty


def test_selections_of_a_cell_count_once():
    rows = [cell("ms", 0, 10.0)] * 3 + [cell("ms+psd", 0, 13.0)] * 3
    (found,) = overhead(pd.DataFrame(rows)).to_dict("records")
    assert found["n"] == 1
