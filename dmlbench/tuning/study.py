"""One method's search, by Optuna. A storage holds finished trials alone, so that a kill leaves nothing half there.

The sampler is made anew for every trial from the trial's number and the finished trials before it. What a trial tries
is then a function of these, and a study that was killed and gone on with is the study that was not.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from dmlbench.errors import StorageError, UserError
from dmlbench.specs.cell import Scalar
from dmlbench.specs.method import Search

SEED = 1000  # of the first trial's sampler; also of what a trial trains with: reported runs count their seeds from 0
AT_RANDOM = 5  # trials, the first among them, before the tree-structured Parzen estimator (Bergstra et al. 2011)
WORST = 0.0  # R@1 as which the sampler sees a training that diverged: it would not learn from one without a value
DIGITS = 4  # of a suggested value: it can be read, and a library that rounds otherwise changes nothing
EQUAL = 1e-12  # scores this close, means of shares of queries, differ by rounding alone
NOTHING: Mapping[str, str] = {}

optuna.logging.set_verbosity(optuna.logging.WARNING)


@dataclass(frozen=True)
class Trial:
    """A finished trial: its number, its values, and its score; None where the training diverged."""

    number: int
    values: dict[str, Scalar]
    score: float | None


def open_storage(path: Path) -> optuna.storages.BaseStorage:
    """An Optuna storage in an SQLite file, which Optuna's own tools can read.

    Raises:
        UserError: where the file is none, or of an Optuna that this one does not know.
    """
    try:
        return optuna.storages.RDBStorage(f"sqlite:///{path}")
    except Exception as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{path}: not a storage that Optuna {optuna.__version__} can open ({reason})",
            hint="move it away: trials that are done are not trained again",
        ) from error


class Study:
    """The trials of one method on one dataset.

    Args:
        storage: Where finished trials are kept.
        name: What is searched, and on what: another name is another study.
        searches: Where values are looked for.
        first: The values of the first trial: those of the method's files, which tuning can then not fall behind.
    """

    def __init__(
        self,
        storage: optuna.storages.BaseStorage,
        name: str,
        searches: Mapping[str, Search],
        first: Mapping[str, Scalar],
    ) -> None:
        whole = {key for key, search in searches.items() if search.is_whole(first[key])}
        self.searches = searches
        self.first = {key: value if key in whole else _real(value) for key, value in first.items()}
        self._distributions = {key: _distribution(search, key in whole) for key, search in searches.items()}
        self._storage = storage
        with _written(storage):
            self._study = optuna.create_study(
                storage=storage, study_name=name, direction="maximize", load_if_exists=True
            )

    def trials(self) -> list[Trial]:
        """Finished trials in their order."""
        return [
            Trial(trial.number, dict(trial.params), trial.value if trial.state == TrialState.COMPLETE else None)
            for trial in self._study.get_trials(deepcopy=False)
        ]

    def suggest(self) -> dict[str, Scalar]:
        """The values of the next trial. Until its score is reported, they stay the same."""
        finished = self._study.get_trials(deepcopy=False)
        if not finished:
            return self.first
        sampler = optuna.samplers.TPESampler(seed=SEED + len(finished), n_startup_trials=AT_RANDOM)
        study = optuna.create_study(direction="maximize", sampler=sampler)
        study.add_trials([_scored(trial) for trial in finished])
        suggested = study.ask(self._distributions).params
        return {key: _rounded(value, self.searches[key]) for key, value in suggested.items()}

    def tell(self, values: Mapping[str, Scalar], score: float | None, made_with: Mapping[str, str] = NOTHING) -> None:
        """Keep a finished trial, and what it was made with."""
        state = TrialState.FAIL if score is None else TrialState.COMPLETE
        attributes = {"optuna": optuna.__version__} | dict(made_with)
        trial = create_trial(
            state=state, value=score, params=dict(values), distributions=self._distributions, user_attrs=attributes
        )
        with _written(self._storage):
            self._study.add_trial(trial)

    def made_with(self, trials: int) -> dict[str, tuple[str, ...]]:
        """What any of the first `trials` was made with, by what it is: one value each, where nothing changed."""
        attributes = [trial.user_attrs for trial in self._study.get_trials(deepcopy=False)[:trials]]
        keys = {key for own in attributes for key in own}
        return {key: tuple(sorted({str(own[key]) for own in attributes if key in own})) for key in keys}

    def best(self, trials: int) -> Trial | None:
        """The best of the first `trials`, of those equal but for rounding the earliest; None where all diverged."""
        scored = [(trial, trial.score) for trial in self.trials()[:trials] if trial.score is not None]
        least = max((score for _, score in scored), default=0.0) - EQUAL
        return next((trial for trial, score in scored if score >= least), None)

    def runner_up(self, trials: int) -> Trial | None:
        """The best of the first `trials` but for the best; None where no other has a score."""
        best = self.best(trials)
        others = [trial for trial in self.trials()[:trials] if best and trial.number != best.number]
        scored = [(trial.score, -trial.number, trial) for trial in others if trial.score is not None]
        return max(scored, key=lambda item: item[:2])[2] if scored else None


@contextmanager
def _written(storage: optuna.storages.BaseStorage) -> Iterator[None]:
    """Turn what the disk refuses into a StorageError that names the file."""
    try:
        yield
    except optuna.exceptions.StorageInternalError as error:
        database = (
            storage.engine.url.database if isinstance(storage, optuna.storages.RDBStorage) else "storage of trials"
        )
        reason = getattr(error.__cause__, "orig", None) or error
        raise StorageError(f"{database}: cannot be written ({reason})") from error


def _distribution(search: Search, whole: bool) -> BaseDistribution:
    if search.low is None or search.high is None:
        return CategoricalDistribution(search.choices)
    if whole:
        return IntDistribution(int(search.low), int(search.high), log=search.log)
    return FloatDistribution(float(search.low), float(search.high), log=search.log)


def _scored(trial: FrozenTrial) -> FrozenTrial:
    value = WORST if trial.value is None else trial.value
    return create_trial(value=value, params=trial.params, distributions=trial.distributions)


def _real(value: Scalar) -> Scalar:
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _rounded(value: Scalar, search: Search) -> Scalar:
    if not isinstance(value, float) or search.low is None or search.high is None:
        return value
    return float(min(max(float(f"{value:.{DIGITS}g}"), search.low), search.high))
