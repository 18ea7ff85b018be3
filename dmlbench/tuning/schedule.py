"""Successive halving on epochs, and the decision at its end: functions of scores alone.

Many configurations are trained for few epochs on one fold; the better part of them for more epochs on two other folds;
and the best of these, with the values of the method's files, for all epochs on the folds of another partition with new
seeds: on the folds that found it, a finalist would have an advantage over the files' values. A configuration that goes
on begins anew with more epochs. (Jamieson and Talwalkar, AISTATS 2016, is the scheme.)
"""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import fmean, stdev

from dmlbench.errors import UserError, counted
from dmlbench.specs.protocol_spec import Scalar
from dmlbench.specs.tuned import Margin

FOLDS = 4  # as many as Musgrave, Belongie and Lim (ECCV 2020) tune with
FINALISTS = (2, 4)  # fewest and most, the files' values among them
FEWEST_PAIRS = 2  # without two there is no standard error
EQUAL = 1e-12  # scores this close, means of fractions, differ by rounding alone

Values = Mapping[str, Scalar]
Pair = tuple[int, int]  # the number of a fold, and that of a seed of the study


@dataclass(frozen=True)
class Stage:
    """So many configurations, each trained for so many epochs on each pair of a fold and a seed."""

    name: str
    configurations: int
    epochs: int
    pairs: tuple[Pair, ...]
    partition: int = 0

    @property
    def cost(self) -> int:
        """Epochs of training."""
        return self.configurations * self.epochs * len(self.pairs)


@dataclass(frozen=True)
class Schedule:
    """The stages of a search; the files' values take part in the last alone, and are a finalist in any case."""

    budget: int
    stages: tuple[Stage, ...]

    @property
    def cost(self) -> int:
        """Epochs of training, at most the budget."""
        return sum(stage.cost for stage in self.stages)


def make_schedule(budget: int, epochs: int, folds: int = FOLDS) -> Schedule:
    """Divide a budget: half for the finalists, a quarter for each of the two stages before.

    Args:
        budget: Epochs of training in all.
        epochs: What the protocol trains for.
        folds: Folds of the training classes.

    Raises:
        UserError: Too few epochs for two finalists on two pairs and a choice among two configurations before.
    """
    least = 2 * FINALISTS[0] * FEWEST_PAIRS * epochs
    if budget < least:
        raise UserError(
            f"--epochs {budget}: too few for a search under a protocol of {counted(epochs, 'epoch')}",
            hint=f"give {least} or more; {16 * epochs} is 16 full trainings for each method and dataset",
        )
    full = budget // 2 // epochs
    finalists = min(max(full // folds, FINALISTS[0]), FINALISTS[1])
    final = Stage("final", finalists, epochs, _pairs(3, full // finalists, folds), partition=1)
    rest = budget - final.cost
    # A teacher is the network of the epoch before: in a single epoch none acts.
    short, longer = (min(epochs, max(2, epochs // part)) for part in (4, 2))
    promote = Stage("promote", rest // 2 // (2 * longer), longer, _pairs(1, 2, folds))
    if promote.configurations < finalists:  # it would choose nothing
        explore = Stage("explore", rest // short, short, _pairs(0, 1, folds))
        return Schedule(budget, (explore, final))
    explore = Stage("explore", (rest - promote.cost) // short, short, _pairs(0, 1, folds))
    return Schedule(budget, (explore, promote, final))


def _pairs(first: int, count: int, folds: int) -> tuple[Pair, ...]:
    """As many seeds from the first on, each with the next fold."""
    return tuple((seed % folds, seed) for seed in range(first, first + count))


@dataclass(frozen=True)
class Request:
    """Configurations that a search wants scored on every pair of a stage."""

    stage: Stage
    configurations: tuple[Values, ...]

    @property
    def cost(self) -> int:
        """Epochs of training."""
        return len(self.configurations) * self.stage.epochs * len(self.stage.pairs)


@dataclass(frozen=True)
class Choice:
    """What the last stage chose: positions among its configurations, of which the first has the files' values.

    Attributes:
        chosen: Its position.
        runner_up: That of the best other one; None where no other has scores.
        over_files: The chosen one minus the files' values; None where these were chosen or have no scores.
        over_runner_up: The chosen one minus the runner-up.
    """

    chosen: int
    runner_up: int | None
    over_files: Margin | None
    over_runner_up: Margin | None


@dataclass(frozen=True)
class Outcome:
    """How a search ended: what was asked for, the finalists with their scores, and the choice; None if all diverged."""

    requests: tuple[Request, ...]
    scores: tuple[tuple[float, ...], ...]
    choice: Choice | None


Scores = Sequence[tuple[float, ...]]  # MAP@R of a configuration on each pair; empty where a training diverged


def halving(schedule: Schedule, files: Values, candidates: Sequence[Values]) -> Generator[Request, Scores, Outcome]:
    """Search among candidates: yields what is to be scored, takes the scores, and returns how it ended.

    Args:
        schedule: As `make_schedule` gives it.
        files: The values of the method's files: a finalist that needs no exploration.
        candidates: Other values in the order in which they are tried; the first ones that the schedule has room for.
    """
    *before, final = schedule.stages
    requests, left = [], tuple(candidates[: before[0].configurations])
    for stage, following in zip(before, schedule.stages[1:], strict=True):
        keep = following.configurations - (following is final)
        if len(left) > keep:
            requests.append(Request(stage, left))
            scores = yield requests[-1]
            left = tuple(left[index] for index in best(scores, keep))
    requests.append(Request(final, (files, *left)))
    scores = yield requests[-1]
    return Outcome(tuple(requests), tuple(scores), decide(scores))


def best(scores: Scores, count: int) -> list[int]:
    """Positions of the highest means, of equal ones the earliest; what diverged is never among them."""
    means = {index: fmean(own) for index, own in enumerate(scores) if own}
    return sorted(means, key=lambda index: (-round(means[index] / EQUAL), index))[:count]


def decide(scores: Scores) -> Choice | None:
    """Choose among finalists by the one-standard-error rule (Breiman et al. 1984), None where all diverged.

    The files' values stay unless the best other finalist's paired mean difference to them is above 0 and above one
    standard error of that difference.

    Args:
        scores: Of each finalist, the files' values first, on the same pairs.
    """
    order = best(scores, len(scores))
    if not order:
        return None
    others = [index for index in order if index != 0]
    challenger = others[0] if others else 0
    chosen = challenger
    if challenger and scores[0]:
        found = margin(scores[challenger], scores[0])
        chosen = challenger if found.difference > max(found.standard_error, EQUAL) else 0
    runner_up = next((index for index in order if index != chosen), None)
    return Choice(
        chosen,
        runner_up,
        margin(scores[chosen], scores[0]) if chosen and scores[0] else None,
        None if runner_up is None else margin(scores[chosen], scores[runner_up]),
    )


def margin(ours: Sequence[float], theirs: Sequence[float]) -> Margin:
    """The paired mean difference of scores on the same pairs, with its standard error."""
    differences = [own - other for own, other in zip(ours, theirs, strict=True)]
    return Margin(
        difference=round(fmean(differences), 6),
        standard_error=round(stdev(differences) / sqrt(len(differences)), 6),
        pairs=len(differences),
    )
