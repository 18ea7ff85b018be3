import math

import pytest
from sqlalchemy import event

from dmlbench.errors import StorageError, UserError
from dmlbench.specs.method import Search
from dmlbench.tuning import Study, Trial, open_storage

SEARCHES = {
    "loss.margin": Search(low=0.05, high=0.8, log=True),
    "loss.mining": Search(choices=("distance", "semihard")),
    "distillation.period": Search(low=1, high=4),
}
FIRST = {"loss.margin": 0.2, "loss.mining": "distance", "distillation.period": 2}


def score(values) -> float | None:
    """Best at a margin of .4 and a period of 3; the smallest margins diverge."""
    if values["loss.margin"] < 0.08:
        return None
    return 0.7 - 0.1 * abs(math.log(values["loss.margin"] / 0.4)) - 0.02 * abs(values["distillation.period"] - 3)


def study(path, name="a") -> Study:
    return Study(open_storage(path), name, SEARCHES, FIRST)


def search(path, trials: int, *, opened_anew: bool, name="a") -> list[Trial]:
    own = study(path, name)
    for _ in range(trials - len(own.trials())):
        own = study(path, name) if opened_anew else own
        values = own.suggest()
        own.tell(values, score(values))
    return own.trials()


def test_an_interrupted_study_is_the_undisturbed_one(tmp_path):
    whole = search(tmp_path / "whole.db", 12, opened_anew=False)
    assert search(tmp_path / "parts.db", 12, opened_anew=True) == whole
    lost = study(tmp_path / "lost.db")
    for trial in whole:
        assert lost.suggest() == lost.suggest() == trial.values  # killed before it was told
        lost.tell(trial.values, trial.score)
    assert lost.trials() == whole


def test_more_trials_add_to_those_that_are_there(tmp_path):
    few = search(tmp_path / "a.db", 5, opened_anew=False)
    more = search(tmp_path / "a.db", 10, opened_anew=False)
    assert more[:5] == few
    assert study(tmp_path / "a.db").best(5) == max(few, key=lambda trial: trial.score or 0)


def test_the_first_trial_takes_the_files_values(tmp_path):
    trials = search(tmp_path / "a.db", 12, opened_anew=False)
    assert trials[0].values == FIRST
    assert study(tmp_path / "a.db").best(1) == trials[0]
    assert study(tmp_path / "a.db").best(12).score >= trials[0].score


def test_values_lie_in_their_ranges_and_can_be_read(tmp_path):
    for trial in search(tmp_path / "a.db", 25, opened_anew=False):
        margin, period = trial.values["loss.margin"], trial.values["distillation.period"]
        assert 0.05 <= margin <= 0.8
        assert margin == float(f"{margin:.4g}")
        assert isinstance(period, int)
        assert period in range(1, 5)
        assert trial.values["loss.mining"] in ("distance", "semihard")


def test_methods_that_share_a_base_try_the_same_base_at_random(tmp_path):
    base = Study(
        open_storage(tmp_path / "a.db"), "base", {"loss.margin": SEARCHES["loss.margin"]}, {"loss.margin": 0.2}
    )
    whole = study(tmp_path / "a.db")
    for _ in range(4):
        ours, theirs = whole.suggest(), base.suggest()
        assert ours["loss.margin"] == theirs["loss.margin"]
        whole.tell(ours, 0.5)
        base.tell(theirs, 0.4)


def test_a_diverged_trial_counts_and_never_wins(tmp_path):
    own = study(tmp_path / "a.db")
    for outcome in (None, 0.3, 0.5, 0.5):
        own.tell(own.suggest(), outcome)
    assert [trial.score for trial in own.trials()] == [None, 0.3, 0.5, 0.5]
    assert own.best(1) is None
    assert own.best(4).number == 2  # of equal ones the earliest


def test_the_sampler_learns_from_trainings_that_diverge(tmp_path):
    """A trial without a value would be none to it: it would look where all diverges as often as elsewhere, for ever."""
    search = {"distillation.lambda": Search(low=0.1, high=1000, log=True)}
    own = Study(open_storage(tmp_path / "a.db"), "a", search, {"distillation.lambda": 75.0})
    for _ in range(30):
        values = own.suggest()
        own.tell(values, None if values["distillation.lambda"] > 10 else 0.5)
    later = [trial.score for trial in own.trials()[10:]]
    assert sum(score is None for score in later) < 5  # a half by chance


def test_what_is_searched_by_whole_numbers(tmp_path):
    """Ends that are written as whole numbers are ends of a range of reals, where the value is one."""
    search = {"loss.scale": Search(low=1, high=32, log=True), "distillation.period": Search(low=1, high=4)}
    own = Study(open_storage(tmp_path / "a.db"), "a", search, {"loss.scale": 2.5, "distillation.period": 2})
    for _ in range(8):
        own.tell(own.suggest(), 0.5)
    assert own.trials()[0].values == {"loss.scale": 2.5, "distillation.period": 2}
    assert any(trial.values["loss.scale"] % 1 for trial in own.trials()[1:])
    assert all(isinstance(trial.values["distillation.period"], int) for trial in own.trials())
    whole = Study(open_storage(tmp_path / "a.db"), "b", search, {"loss.scale": 8.0, "distillation.period": 2})
    whole.tell(whole.suggest(), 0.5)
    assert isinstance(whole.trials()[0].values["loss.scale"], float)  # another type would be another cell


def test_what_trials_were_made_with(tmp_path):
    own = study(tmp_path / "a.db")
    for code in ("new", "old", "new"):
        own.tell(own.suggest(), 0.5, {"code": code, "device": "a CPU"})
    assert own.made_with(1)["code"] == ("new",)
    assert own.made_with(3)["code"] == ("new", "old")
    assert own.made_with(3)["device"] == ("a CPU",)
    assert len(own.made_with(3)["optuna"]) == 1


def test_a_file_that_is_no_storage(tmp_path):
    (tmp_path / "a.db").write_text("no database at all, but long enough to be looked at as one" * 20)
    with pytest.raises(UserError, match="not a storage that Optuna"):
        open_storage(tmp_path / "a.db")


def test_a_full_disk_is_said_in_one_line_and_keeps_the_trials_there_are(tmp_path):
    storage = open_storage(tmp_path / "a.db")
    own = Study(storage, "a", SEARCHES, FIRST)
    own.tell(own.suggest(), 0.5)

    def fill(connection, _record):
        connection.execute(f"PRAGMA max_page_count={connection.execute('PRAGMA page_count').fetchone()[0]}")

    storage.engine.dispose()
    event.listen(storage.engine, "connect", fill)
    bulky = {f"note {place}": "x" * 2000 for place in range(10)}  # more than what pages have left
    with pytest.raises(StorageError, match=r"a\.db: cannot be written \(database or disk is full"):
        own.tell(own.suggest(), 0.5, bulky)
    kept = Study(open_storage(tmp_path / "a.db"), "a", SEARCHES, FIRST).trials()
    assert kept == [Trial(0, FIRST, 0.5)]


def test_studies_of_one_storage_do_not_mix(tmp_path):
    search(tmp_path / "a.db", 3, opened_anew=False)
    assert study(tmp_path / "a.db", "another").trials() == []


def test_the_search_is_better_than_chance_in_the_end(tmp_path):
    found = search(tmp_path / "a.db", 30, opened_anew=False)
    scores = [trial.score or 0.0 for trial in found]
    assert max(scores[5:]) > 0.68
    assert sum(scores[-10:]) / 10 > sum(scores[1:6]) / 5


def test_of_trials_equal_but_for_rounding_the_earliest_counts(tmp_path):
    own = study(tmp_path / "a.db")
    for value in (0.3, 0.1 + 0.2):
        own.tell(FIRST, value)
    assert own.trials()[1].score > own.trials()[0].score
    assert own.best(2).number == 0
