"""Cells beside those of another runner are told by when they ran."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmlbench.results.frames import MARGIN, RESOLUTION, beside_others
from dmlbench.results.records import Environment, Failure, Index, Summary

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


CELL = Index(hash="0" * 16, protocol="p", variant="", dataset="d", method="ms", base="ms", modifier="", seed=0,
             marks=[], protocol_hash="0" * 16)  # fmt: skip
ERROR = Failure(kind="diverged", message="loss is nan")


def cell(begin, length, processes=2, machine="a", *, resumed=(), **environment):
    started = (BEGIN + timedelta(seconds=begin)).isoformat()
    environment = Environment.model_validate({"machine": machine, "processes": processes} | environment)
    return Summary(cell=CELL, status="failed", error=ERROR, started=started, total_s=length, environment=environment,
                   resumed=list(resumed))  # fmt: skip


def test_a_runner_alone_is_never_beside_others():
    alone = [cell(0, 100), cell(0, 90), cell(90, 110), cell(100, 100)]
    assert beside_others(alone) == [False] * 4
    assert beside_others([cell(0, 100, processes=1), cell(100, 50, processes=1)]) == [False, False]
    assert beside_others([]) == []


def test_two_runners_at_once_are():
    assert beside_others([cell(0, 100), cell(0, 100), cell(10, 100), cell(10, 100)]) == [True] * 4


def test_only_cells_that_overlap_others_for_long():
    whole = [cell(0, 100, 1), cell(80, 200, 1), cell(500, 10, 1)]
    assert beside_others(whole) == [False, False, False]  # a fifth of the one, a tenth of the other
    assert beside_others([cell(0, 100, 1), cell(60, 200, 1)]) == [True, False]


def test_machines_apart_and_unknown_times_are_left_out():
    assert beside_others([cell(0, 100, 1), cell(0, 100, 1, machine="b")]) == [False, False]
    other = cell(0, 100, 1, cpu_capability="AVX512")
    assert beside_others([cell(0, 100, 1), other]) == [False, False]
    short = cell(0, 0.0, 1)
    assert beside_others([cell(0, 100, 1), short, cell(0, 0.5, 1)]) == [False, False, False]
    unknown = cell(0, 100, None)
    assert beside_others([unknown, unknown, cell(0, 100, 1)]) == [False, False, False]


def test_a_resumed_cell_may_have_been_among_those_of_its_machine():
    crowded = [cell(0, 100, 1), cell(0, 100, 1)]
    resumed = cell(500, 100, 1, resumed=[3])
    assert beside_others([*crowded, resumed]) == [True, True, True]
    assert beside_others([*crowded, cell(500, 100, 1)]) == [True, True, False]
    assert beside_others([*crowded, cell(500, 100, 1, machine="b", resumed=[3])]) == [True, True, False]
    assert beside_others([cell(0, 100, 1), cell(0, 100, 1, resumed=[3])]) == [False, False]


@given(st.lists(st.tuples(st.integers(0, 50), st.floats(1.5, 50), st.integers(1, 4)), min_size=1, max_size=12))
def test_equals_the_overlaps_summed_pair_by_pair(cells):
    spans = [(begin + RESOLUTION, begin + length) for begin, length, _ in cells]
    loads = [
        sum(max(0.0, min(last, end) - max(first, begin)) for begin, end in spans) / (last - first)
        for first, last in spans
    ]
    found = beside_others([cell(*own) for own in cells])
    for load, (_, _, processes), crowded in zip(loads, cells, found, strict=True):
        if load != pytest.approx(processes + MARGIN):
            assert crowded == (load > processes + MARGIN)
