from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dmlbench.analysis.embeddings import Embeddings, nearest, reload_embeddings, spectrum
from dmlbench.analysis.groups import Group
from dmlbench.analysis.queries import Measured, QueryPair, gallery, measure_kept, query_record, retrieved
from dmlbench.errors import UserError
from dmlbench.results.frames import load_results
from tests.analysis.test_queries import BASE, pairs_of, write_pair
from tests.kept import angles, keep
from tests.reporting.fake_results import make_cell, write_cell
from tests.typed import NONE, parts

GROUP = Group("p", NONE, "d")
OTHERS = {f"to_{name}": value for name, value in parts("ms").items()}
PLACED = {"protocol": "p", "overrides": NONE, "dataset": "d"} | parts("ms+psd") | OTHERS | {"seed": 0}


def test_what_was_retrieved_by_hand(tmp_path):
    write_pair(tmp_path, 0)
    (pair,) = pairs_of(tmp_path)
    table = retrieved(pair, query_record([pair]), k=2)
    assert len(table) == 3 * 2 * 2
    lost = table[table["outcome"] == "lost"]
    assert lost["query"].unique().tolist() == [0]
    # Around 0 degrees: the base has 5 and 12; the method -20 and 40.
    assert lost[lost["by"] == "reference"]["neighbour"].tolist() == [1, 2]
    assert lost[lost["by"] == "reference"]["correct"].tolist() == [True, False]
    assert lost[lost["by"] == "method"]["neighbour"].tolist() == [4, 1]
    assert lost[lost["by"] == "method"]["neighbour_label"].tolist() == [2, 0]
    assert lost[lost["by"] == "method"]["similarity"].tolist() == pytest.approx(np.cos(np.deg2rad([20, 40])), abs=1e-6)
    assert set(table[table["outcome"] == "won"]["query"]) == {2, 3}
    assert table[["wins", "losses", "seeds"]].drop_duplicates().to_numpy().tolist() == [[1, 0, 1], [0, 1, 1]]


def test_the_first_neighbour_is_right_exactly_where_the_query_is_a_hit(tmp_path):
    write_pair(tmp_path, 0)
    (pair,) = pairs_of(tmp_path)
    table = retrieved(pair, query_record([pair]))
    first = table[table["rank"] == 1]
    assert (first["correct"] == ((first["outcome"] == "won") == (first["by"] == "method"))).all()


def test_two_that_hit_alike_have_no_examples(tmp_path):
    write_pair(tmp_path, 0, method=BASE)
    (pair,) = pairs_of(tmp_path)
    assert retrieved(pair, query_record([pair])).empty


def test_embeddings_that_have_gone(tmp_path):
    write_pair(tmp_path, 0)
    (pair,) = pairs_of(tmp_path)
    folder = Path(load_results(tmp_path)["folder"].iloc[0])
    (folder / "embeddings.safetensors").unlink()
    with pytest.raises(UserError, match="have gone"):
        retrieved(pair, query_record([pair]))


def record(wins):
    rows = [{"query": query, "label": label, "wins": won, "losses": 0} for query, (won, label) in enumerate(wins)]
    return pd.DataFrame(rows).assign(seeds=5, **{key: value for key, value in PLACED.items() if key != "seed"})


@pytest.fixture
def chosen(monkeypatch):
    """Queries chosen of six that are all won, two of each class, whose wins over seeds are given."""
    labels = np.array([0, 0, 1, 1, 2, 2])
    bad, good = Embeddings(angles(0, 60, 0, 60, 0, 60), labels), Embeddings(angles(0, 0, 60, 60, 120, 120), labels)
    method, base = (Measured(labels, nearest(one), spectrum(one), "f") for one in (good, bad))
    pair = QueryPair(GROUP, PLACED, (Path("method"), Path("base")), method, base)
    monkeypatch.setattr("dmlbench.analysis.queries.reload_embeddings", {Path("method"): good, Path("base"): bad}.get)

    def choose(wins, each, other_method=False):
        table = record(list(zip(wins, labels.tolist(), strict=True)))
        if other_method:
            table = pd.concat([table.assign(method="ms+obdsd", wins=9), table])
        shown = retrieved(pair, table, each=each)
        return shown["query"].unique().tolist()

    return choose


def test_the_most_consistent_come_first(chosen):
    assert chosen([1, 2, 5, 3, 4, 3], 6)[0] == 2
    assert set(chosen([1, 2, 5, 3, 4, 3], 3)) == {1, 2, 4}  # the best of each class
    assert chosen([1, 2, 5, 3, 4, 2], 4) == [2, 4, 1, 3]


def test_equals_are_of_different_classes_and_always_the_same(chosen):
    once = chosen([1] * 6, 3)
    assert sorted(query // 2 for query in once) == [0, 1, 2]
    assert chosen([1] * 6, 3) == once


def test_records_of_other_methods_are_ignored(chosen):
    assert chosen([1, 2, 5, 3, 4, 3], 3, other_method=True) == chosen([1, 2, 5, 3, 4, 3], 3)


@pytest.fixture
def cell(tmp_path):
    """Thirty images of five classes, and one alone in its class, in the folder of a cell."""
    rng, labels = np.random.default_rng(0), np.array([*(np.arange(30) % 5), 5])
    vectors = rng.normal(size=(6, 3))[labels] + rng.normal(size=(31, 3))
    folder = keep(write_cell(tmp_path, make_cell("ms", 0)), vectors, labels)
    return folder, measure_kept(load_results(tmp_path))[str(folder)]


def test_a_gallery_shows_hits_and_misses_as_they_come(cell):
    folder, measured = cell
    found = gallery(folder, measured, count=7, k=3)
    queries = found["query"].unique()
    assert len(queries) == 7
    assert len(found) == 7 * 3
    assert set(measured.labels[queries[:5]]) == set(range(5))  # one of each class first
    assert 30 not in set(queries)  # alone in its class, it is no query
    vectors = reload_embeddings(folder).vectors
    for query, own in found.groupby("query"):
        order = np.argsort(-(vectors @ vectors[query]), kind="stable")
        assert own["neighbour"].tolist() == [place for place in order.tolist() if place != query][:3]
        assert (own["correct"] == (measured.labels[own["neighbour"]] == measured.labels[query])).all()
        assert set(own["hit"]) == {bool(own["correct"].iloc[0])}
    assert set(found["hits"]) == {int(measured.nearest.hits.sum())}
    assert set(found["queries"]) == {30}
    assert 0 < found["hit"].sum() < len(found)


def test_a_gallery_asks_the_same_queries_of_every_method(cell):
    folder, measured = cell
    other = replace(measured, nearest=replace(measured.nearest, negative=measured.nearest.negative + 1))
    asked = [gallery(folder, own)["query"].tolist() for own in (measured, other)]
    assert asked[0] == asked[1]
    assert len(set(asked[0])) == 10
