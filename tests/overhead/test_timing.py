from collections import Counter

from dmlbench.overhead.timing import interleave


def test_everyone_is_called_once_a_round_and_warm_up_is_dropped():
    called = []

    def candidate(name):
        def call():
            called.append(name)
            return len(called)

        return call

    told = []
    kept = interleave({name: candidate(name) for name in "abc"}, rounds=20, warm_up=3, tell=lambda: told.append(1))
    assert len(called) == 3 * 23
    assert len(told) == 23
    assert all(Counter(called[turn : turn + 3]) == Counter("abc") for turn in range(0, len(called), 3))
    assert [len(values) for values in kept.values()] == [20] * 3
    assert min(min(values) for values in kept.values()) == 10  # the tenth call is the first that counts


def test_measurements_of_a_round_stand_at_the_same_place():
    turn = iter(range(1000))
    kept = interleave({name: lambda: next(turn) for name in "abcd"}, rounds=30, warm_up=0)
    rounds = list(zip(*kept.values(), strict=True))
    assert [sorted(values) for values in rounds] == [list(range(4 * n, 4 * n + 4)) for n in range(30)]


def test_the_order_changes_from_round_to_round_and_is_the_same_in_every_run():
    def orders():
        called = []
        candidates = {name: lambda name=name: called.append(name) for name in "abcd"}
        interleave(candidates, rounds=24, warm_up=0)
        return ["".join(called[turn : turn + 4]) for turn in range(0, len(called), 4)]

    first = orders()
    assert len(set(first)) > 8
    assert orders() == first
