"""The schedule of a search and its decision: functions of numbers alone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmlbench.errors import UserError
from dmlbench.tuning import decide, halving, make_schedule

FILES = {"loss.alpha": 2.0}


def table(budget: int, epochs: int) -> list[tuple[str, int, int, int]]:
    stages = make_schedule(budget, epochs).stages
    return [(stage.name, stage.configurations, stage.epochs, len(stage.pairs)) for stage in stages]


@pytest.mark.parametrize(
    ("budget", "epochs", "expected"),
    [
        (320, 20, [("explore", 16, 5, 1), ("promote", 4, 10, 2), ("final", 2, 20, 4)]),
        (640, 20, [("explore", 32, 5, 1), ("promote", 8, 10, 2), ("final", 4, 20, 4)]),
        (192, 12, [("explore", 16, 3, 1), ("promote", 4, 6, 2), ("final", 2, 12, 4)]),
        (16, 2, [("explore", 4, 2, 1), ("final", 2, 2, 2)]),
        (8, 1, [("explore", 4, 1, 1), ("final", 2, 1, 2)]),
    ],
)
def test_tables(budget, epochs, expected):
    assert table(budget, epochs) == expected


@given(st.integers(1, 200), st.integers(8, 200))
def test_no_schedule_costs_more_than_its_budget_or_much_less(epochs, trainings):
    schedule = make_schedule(epochs * trainings, epochs)
    assert 0 <= schedule.budget - schedule.cost < 5 * epochs
    assert schedule.stages[-1].epochs == epochs
    seeds = [seed for stage in schedule.stages for _, seed in stage.pairs]
    assert len(set(seeds)) == len(seeds)  # the finalists are scored anew
    assert all(fold == seed % 4 for stage in schedule.stages for fold, seed in stage.pairs)


def test_a_budget_that_is_too_small():
    with pytest.raises(
        UserError, match=r"--epochs 159: too few .* a protocol of 20 epochs; give 160 or more; 320 is 16"
    ):
        make_schedule(159, 20)


def run(schedule, scores, candidates, files=FILES):
    """A search in which each configuration scores `scores[value]` on every pair."""
    search, requests = halving(schedule, files, candidates), []
    request = next(search)
    while True:
        requests.append(request)
        found = [scores(values["loss.alpha"], request.stage) for values in request.configurations]
        try:
            request = search.send(found)
        except StopIteration as end:
            return requests, end.value


def alphas(count: int) -> list[dict[str, float]]:
    return [{"loss.alpha": 10.0 + number} for number in range(count)]


def flat(value, stage):
    return (value / 100,) * len(stage.pairs)


def test_the_better_part_goes_on_and_the_files_values_are_a_finalist():
    requests, outcome = run(make_schedule(640, 20), flat, alphas(100))
    tried = [[int(own["loss.alpha"]) for own in request.configurations] for request in requests]
    assert tried == [[*range(10, 42)], [*range(41, 33, -1)], [2, 41, 40, 39]]
    assert outcome.choice.chosen == 1
    assert outcome.choice.over_files.difference == pytest.approx(0.39)
    assert sum(request.cost for request in requests) == 640


def test_fewer_candidates_than_room_skip_what_would_choose_nothing():
    requests, outcome = run(make_schedule(320, 20), flat, alphas(1))
    assert [request.stage.name for request in requests] == ["final"]
    assert len(outcome.scores) == 2
    requests, _ = run(make_schedule(640, 20), flat, alphas(5))
    assert [(request.stage.name, len(request.configurations)) for request in requests] == [("promote", 5), ("final", 4)]


def test_what_diverges_does_not_go_on():
    def scores(value, stage):
        return () if value > 12 else flat(value, stage)

    requests, outcome = run(make_schedule(320, 20), scores, alphas(16))
    assert [own["loss.alpha"] for own in requests[-1].configurations] == [2.0, 12.0]
    assert outcome.choice.chosen == 1
    _, outcome = run(make_schedule(320, 20), lambda *_: (), alphas(16))
    assert outcome.choice is None


@pytest.mark.parametrize(
    ("scores", "chosen", "runner_up"),
    [
        ([(0.5, 0.5, 0.5), (0.53, 0.51, 0.52)], 1, 0),
        ([(0.5, 0.5, 0.5), (0.56, 0.45, 0.50)], 0, 1),  # better by less than one standard error
        ([(0.5, 0.5, 0.5), (0.5, 0.5, 0.5)], 0, 1),  # an error of 0 is no gain
        ([(0.5, 0.6, 0.7), (0.51, 0.61, 0.71), (0.49, 0.7, 0.8)], 2, 1),
        ([(), (0.3, 0.4), (0.2, 0.2)], 1, 2),
        ([(0.5, 0.5), ()], 0, None),
    ],
)
def test_the_one_standard_error_rule(scores, chosen, runner_up):
    choice = decide(scores)
    assert (choice.chosen, choice.runner_up) == (chosen, runner_up)
    assert (choice.over_files is None) == (chosen == 0 or not scores[0])
    assert (choice.over_runner_up is None) == (runner_up is None)


def test_margins_are_of_paired_differences():
    choice = decide([(0.1, 0.5, 0.9), (0.12, 0.53, 0.94)])
    assert choice.over_files.difference == pytest.approx(0.03)
    assert choice.over_files.standard_error == pytest.approx(0.01 / 3**0.5, abs=1e-6)
    assert choice.over_files.pairs == 3
    assert decide([(), ()]) is None
