"""A search chooses less by noise than the best of trials on one split did with the same epochs: a simulation.

Scores are a response surface and noise of the size that was measured: two trainings of one configuration with other
seeds differ by 1.3 points of MAP@R (standard deviation of the difference), and gaps between configurations are 0 to 6
points. R@1 is near its ceiling: it shows a third of a gap in MAP@R, and counts 540 queries.
"""

from math import log10, sqrt
from statistics import fmean, pstdev

import numpy as np
import pytest

from dmlbench.specs.method import Search
from dmlbench.tuning import candidates, halving, make_schedule

SEARCHES = {"loss.alpha": Search(low=0.1, high=10.0, log=True), "loss.beta": Search(low=0.0, high=1.0)}
FILES = {"loss.alpha": 2.0, "loss.beta": 0.6}
EPOCHS, TRAININGS, STUDIES = 20, 16, 150
OF_A_RUN = 0.013 / sqrt(2)
PEAKS = [(0.3, 0.6), (0.0, 0.4), (-0.7, 0.1)]  # the files' values are best, 0.6 points below, and 5 points below


def true(values, peak) -> float:
    """MAP@R of a configuration, over all seeds and folds."""
    across, along = log10(values["loss.alpha"]) - peak[0], values["loss.beta"] - peak[1]
    return 0.30 - 0.03 * min(1.0, across**2) - 0.03 * min(1.0, 3 * along**2)


def of_search(seed: int, peak) -> float:
    """What a search chooses; after fewer epochs scores are lower, closer together, and in a somewhat other order."""
    draw = np.random.default_rng(seed)
    fold_levels = draw.normal(0, 0.02, 4)
    search = halving(make_schedule(TRAININGS * EPOCHS, EPOCHS), FILES, candidates(SEARCHES, FILES, 16, seed))
    request = next(search)
    while True:
        part = request.stage.epochs / EPOCHS
        scores = []
        for values in request.configurations:
            level = true(values, peak) * (0.6 + 0.4 * part) + draw.normal(0, 0.006 * (1 - part))
            noise = draw.normal(0, OF_A_RUN, len(request.stage.pairs))
            folds = np.array([fold for fold, _ in request.stage.pairs])
            scores.append(tuple(level + fold_levels[folds] + noise))
        try:
            request = search.send(scores)
        except StopIteration as end:
            final, choice = end.value.requests[-1], end.value.choice
            return true(final.configurations[choice.chosen], peak)


def of_best_trial(seed: int, peak) -> float:
    """What the best by R@1 of so many full trainings chooses, on one split with one seed."""
    draw = np.random.default_rng(seed)
    tried = [FILES, *candidates(SEARCHES, FILES, TRAININGS - 1, seed)]
    scores = [0.965 + (true(values, peak) - 0.30) / 3 + draw.normal(0, 0.006) for values in tried]
    return true(tried[int(np.argmax(np.round(np.array(scores) * 540)))], peak)


@pytest.mark.parametrize("peak", PEAKS)
def test_repeated_studies_agree_better_and_choose_better_values(peak):
    ours, theirs = ([own(seed, peak) for seed in range(STUDIES)] for own in (of_search, of_best_trial))
    assert pstdev(ours) < 0.7 * pstdev(theirs)
    assert fmean(ours) > fmean(theirs) + 0.001


@pytest.mark.parametrize("peak", PEAKS)
def test_what_is_chosen_is_seldom_worse_than_the_files_values(peak):
    worse = [of_search(seed, peak) < true(FILES, peak) - 0.003 for seed in range(STUDIES)]
    assert fmean(worse) < 0.05
