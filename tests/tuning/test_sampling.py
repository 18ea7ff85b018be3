"""Which values are tried."""

import numpy as np

from dmlbench.specs.method import Search
from dmlbench.tuning import candidates

SEARCHES = {
    "loss.margin": Search(low=0.05, high=0.8, log=True),
    "loss.mining": Search(choices=("distance", "semihard")),
    "distillation.period": Search(low=1, high=4),
}
FILES = {"loss.margin": 0.2, "loss.mining": "distance", "distillation.period": 2}


def test_values_lie_in_their_ranges_and_can_be_read():
    for values in candidates(SEARCHES, FILES, 40):
        margin, period = values["loss.margin"], values["distillation.period"]
        assert 0.05 <= margin <= 0.8
        assert margin == float(f"{margin:.4g}")
        assert isinstance(period, int)
        assert period in range(1, 5)
        assert values["loss.mining"] in ("distance", "semihard")


def test_more_values_go_on_where_fewer_ended():
    many = candidates(SEARCHES, FILES, 30)
    assert candidates(SEARCHES, FILES, 8) == many[:8]
    assert candidates(SEARCHES, FILES, 30, study_seed=1) != many


def test_ranges_are_filled_evenly_from_the_first_values_on():
    search = {"loss.margin": SEARCHES["loss.margin"], "loss.beta": Search(low=0.0, high=1.0)}
    for study_seed in range(5):
        found = candidates(search, {"loss.margin": 0.2, "loss.beta": 0.5}, 16, study_seed)
        logs = np.log([values["loss.margin"] for values in found])
        for numbers, low, high in ((logs, np.log(0.05), np.log(0.8)), ([v["loss.beta"] for v in found], 0.0, 1.0)):
            quarters = np.histogram(numbers, bins=4, range=(low, high))[0]
            assert min(quarters) >= 2


def test_few_choices_hold_few_values_and_the_files_are_none_of_them():
    search = {"loss.mining": Search(choices=("a", "b", "c"))}
    found = candidates(search, {"loss.mining": "b"}, 10)
    assert sorted(values["loss.mining"] for values in found) == ["a", "c"]


def test_what_is_searched_by_whole_numbers():
    """Ends that are written as whole numbers are ends of a range of reals, where the value is one."""
    search = {"loss.scale": Search(low=1, high=32, log=True)}
    assert all(isinstance(own["loss.scale"], int) for own in candidates(search, {"loss.scale": 8}, 12))
    found = [own["loss.scale"] for own in candidates(search, {"loss.scale": 8.0}, 12)]
    assert all(isinstance(value, float) for value in found)
    assert any(value % 1 for value in found)
    whole = [own["p"] for own in candidates({"p": Search(low=1, high=4)}, {"p": 9}, 4)]
    assert sorted(whole) == [1, 2, 3, 4]
