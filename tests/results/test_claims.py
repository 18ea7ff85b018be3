"""Declared claims on disk."""

from dmlbench.results.claims import declare, declared_claims
from dmlbench.specs.study import Claim
from tests.begun import begin, ended

CLAIM = Claim(modifier="psd", bases=("ms",))


def cells(make_cell, seeds=2):
    return [make_cell(name, seed=seed) for name in ("ms", "ms+psd", "triplet") for seed in range(seeds)]


def test_a_claim_is_of_its_methods_cells_and_keeps_its_time(store, make_cell):
    (first,) = declare([CLAIM], cells(make_cell), store)
    assert first.begun == 0
    assert set(first.cells) == {cell.hash for cell in cells(make_cell) if cell.method.name != "triplet"}
    assert first.when.endswith("before its first cell")
    begin(store, make_cell("ms")).append({"epoch": 0})
    (again,) = declare([CLAIM], cells(make_cell), store)
    assert again == first
    assert declared_claims([store.root]) == [first]


def test_a_claim_after_a_cell_has_begun_is_after_the_fact(store, make_cell):
    begin(store, make_cell("ms")).append({"epoch": 0})
    (late,) = declare([CLAIM], cells(make_cell), store)
    assert late.begun == 1
    assert late.when.startswith("after the fact: declared ")
    assert late.when.endswith("when 1 of its 4 cells had begun")


def test_cells_that_were_there_before_the_claim_came_make_it_after_the_fact(store, make_cell):
    """As where a claim's file is put beside earlier results of the same cells."""
    (first,) = declare([CLAIM], cells(make_cell), store)
    for seed in range(2):
        begin(store, make_cell("ms", seed=seed)).finish(ended(make_cell("ms", seed=seed)))  # started in January
    (found,) = declared_claims([store.root])
    assert (first.begun, found.begun) == (0, 2)
    assert found.when.endswith("when 2 of its 4 cells had begun")


def test_more_seeds_are_another_claim_beside_the_first(store, make_cell):
    declare([CLAIM], cells(make_cell, 1), store)
    for cell in cells(make_cell, 1):
        begin(store, cell).append({"epoch": 0})
    declare([CLAIM], cells(make_cell, 2), store)
    assert sorted(own.begun for own in declared_claims([store.root])) == [0, 2]


def test_a_damaged_claim_is_named_and_left_out(store, make_cell):
    declare([CLAIM], cells(make_cell), store)
    (store.root / "claims" / "psd-other.yaml").write_text("version: 7\n")
    damaged = []
    assert len(declared_claims([store.root], damaged.append)) == 1
    assert "psd-other.yaml" in damaged[0].reason


def test_a_folder_without_claims(tmp_path):
    assert declared_claims([tmp_path]) == []
