import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

import dmlbench
from dmlbench.analysis import embeddings as module
from dmlbench.analysis.embeddings import Embeddings, load_embeddings, nearest, neighbours, spectrum
from dmlbench.data.images import Dataset, Split
from dmlbench.errors import UserError
from dmlbench.evaluation import geometry_metrics, retrieval_metrics
from dmlbench.results.store import read_summary
from dmlbench.runner import cell as cell_module
from dmlbench.runner.cell import run_cell
from dmlbench.runner.tasks import RunOptions
from tests.evaluation.naive_retrieval import naive_retrieval
from tests.kept import angles, finish_again, keep
from tests.reporting.fake_results import make_cell as make_fake
from tests.reporting.fake_results import write_cell


def unit(vectors, labels) -> Embeddings:
    vectors = np.asarray(vectors, dtype=float)
    lengths = np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-30)
    return Embeddings(vectors / lengths, np.asarray(labels, dtype=np.int64))


@st.composite
def with_ties(draw):
    """Embeddings on a coarse grid: duplicates, equal similarities and rows of zeros are common."""
    count, width = draw(st.integers(3, 24)), draw(st.integers(1, 3))
    values = st.lists(st.integers(-1, 1), min_size=width, max_size=width)
    rows = draw(st.lists(values, min_size=count, max_size=count))
    labels = draw(st.lists(st.integers(0, 4), min_size=count, max_size=count).filter(lambda x: len(set(x)) < len(x)))
    return np.array(rows, dtype=float), np.array(labels)


def test_hits_by_hand():
    # Nearest positive and negative of each, in degrees: 10 and 12; 10 and 2; 78 and 2; 78 and 1; alone, 1.
    found = nearest(Embeddings(angles(0, 10, 12, 90, 91), np.array([0, 0, 1, 1, 2])))
    assert found.queries.tolist() == [True, True, True, True, False]
    assert found.hits.tolist() == [True, False, False, False, False]
    assert found.positive[:4] == pytest.approx(np.cos(np.deg2rad([10, 10, 78, 78])))
    assert found.negative == pytest.approx(np.cos(np.deg2rad([12, 2, 2, 1, 1])))
    assert found.negative_label.tolist() == [1, 1, 0, 2, 1]
    assert nearest(Embeddings(angles(0, 90), np.array([3, 3]))).negative_label.tolist() == [-1, -1]


@pytest.mark.parametrize(
    ("degrees", "labels", "hits"),
    [
        ((0, 30, -30), (0, 0, 1), (False, True, False)),  # a negative as near as the positive
        ((0, 0, 0, 50), (0, 0, 1, 1), (False, False, False, False)),  # a duplicate on either side
        ((0, 0, 50), (0, 0, 1), (True, True, False)),  # a duplicate of the own class alone
        ((7, 7, 7, 7), (0, 0, 1, 1), (False,) * 4),  # collapsed
        ((0, 90), (3, 3), (True, True)),  # no other class
    ],
)
def test_a_tie_counts_against_the_method(degrees, labels, hits):
    assert nearest(Embeddings(angles(*degrees), np.array(labels))).hits.tolist() == list(hits)


@settings(deadline=None)
@given(with_ties())
def test_the_share_of_hits_is_the_recall_of_the_evaluation(case):
    found = nearest(unit(*case))
    share = found.hits[found.queries].mean()
    assert share == pytest.approx(naive_retrieval(*case, (1,))["recall_at_1"], abs=1e-12)
    for backend in ("torch", "faiss"):
        assert share == pytest.approx(retrieval_metrics(*case, backend=backend)["recall_at_1"], abs=1e-12)


def test_float32_embeddings_of_many_tiles_agree_with_the_evaluation(monkeypatch):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 40, 500)
    vectors = (rng.normal(size=(40, 16))[labels] + rng.normal(size=(500, 16))).astype(np.float32)
    whole = nearest(unit(vectors, labels))
    monkeypatch.setattr(module, "TILE", 37)
    tiled = nearest(unit(vectors, labels))
    assert np.array_equal(tiled.hits, whole.hits)
    assert tiled.positive == pytest.approx(whole.positive, abs=1e-12)
    assert tiled.negative == pytest.approx(whole.negative, abs=1e-12)
    assert np.array_equal(tiled.negative_label, whole.negative_label)
    similarities = np.where(
        labels[:, None] == labels, -np.inf, unit(vectors, labels).vectors @ unit(vectors, labels).vectors.T
    )
    assert np.array_equal(whole.negative_label, labels[similarities.argmax(axis=1)])
    assert whole.hits[whole.queries].mean() == retrieval_metrics(vectors, labels)["recall_at_1"]


def test_neighbours_by_hand():
    found, similarities = neighbours(Embeddings(angles(0, 10, 12, 90), np.array([0, 0, 1, 1])), np.array([1, 3]), k=2)
    assert found.tolist() == [[2, 0], [2, 1]]
    assert similarities == pytest.approx(np.cos(np.deg2rad([[2, 10], [78, 80]])))


def test_among_equals_negatives_come_first_then_the_earlier():
    embeddings = Embeddings(angles(0, 5, 5, 5, 5), np.array([0, 0, 1, 0, 1]))
    found, _ = neighbours(embeddings, np.array([0]), k=9)
    assert found.tolist() == [[2, 4, 1, 3]]


@settings(deadline=None)
@given(with_ties())
def test_the_nearest_is_of_the_query_class_exactly_where_it_is_a_hit(case):
    embeddings = unit(*case)
    found, _ = neighbours(embeddings, np.arange(len(embeddings.labels)), k=1)
    assert np.array_equal(embeddings.labels[found[:, 0]] == embeddings.labels, nearest(embeddings).hits)


def test_spectrum_by_hand():
    # Three rows along one axis and one along the other: singular values sqrt(3) and 1.
    shares = spectrum(unit([[1, 0], [1, 0], [1, 0], [0, 1]], [0, 0, 1, 1]))
    assert shares == pytest.approx(np.array([3**0.5, 1]) / (1 + 3**0.5))


@pytest.mark.parametrize("rank", [0, 1, 3, 8])
def test_the_spectrum_is_the_one_of_spectral_decay(rank):
    rng = np.random.default_rng(rank)
    embeddings = unit(rng.normal(size=(30, rank)) @ rng.normal(size=(rank, 8)), np.arange(30) % 5)
    shares = spectrum(embeddings)
    stated = geometry_metrics(embeddings.vectors, embeddings.labels)["spectral_decay"]
    # A direction that is not there is one of 1e-16 or one of 1e-8, by way of the matrix: both count as 2^-23.
    assert -np.log(8 * shares).mean() == pytest.approx(stated, abs=1e-6)


def kept_cell(root):
    folder = write_cell(root, make_fake("ms", 0))
    return keep(folder, 3 * angles(0, 10, 12), [0, 0, 1])


def test_reading_back(tmp_path):
    folder = kept_cell(tmp_path)
    embeddings = load_embeddings(folder, read_summary(folder))
    assert embeddings.vectors == pytest.approx(angles(0, 10, 12), abs=1e-6)
    assert np.linalg.norm(embeddings.vectors, axis=1) == pytest.approx(1, abs=1e-15)
    assert embeddings.labels.tolist() == [0, 0, 1]


def test_none_were_kept_or_they_are_no_longer_there(tmp_path):
    folder = write_cell(tmp_path, make_fake("ms", 1))
    assert load_embeddings(folder, read_summary(folder)) is None
    folder = kept_cell(tmp_path)
    (folder / "embeddings.safetensors").unlink()
    assert load_embeddings(folder, read_summary(folder)) is None


def test_a_damaged_file_is_an_error(tmp_path):
    folder = kept_cell(tmp_path)
    path = folder / "embeddings.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"embeddings\.safetensors: is not as it was written"):
        load_embeddings(folder, read_summary(folder))


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        (None, "[Hh]eader"),
        ({"labels": np.zeros(3, dtype=np.int64)}, "'embeddings'"),
        ({"embeddings": np.ones((3, 2)), "labels": np.zeros(2, dtype=np.int64)}, "shapes"),
        ({"embeddings": np.ones((3, 2)), "labels": np.zeros(3)}, "types"),
        ({"embeddings": np.full((3, 2), np.nan), "labels": np.zeros(3, dtype=np.int64)}, "not finite"),
    ],
)
def test_a_file_that_holds_something_else_is_an_error(tmp_path, tensors, reason):
    folder = kept_cell(tmp_path)
    if tensors is None:
        (folder / "embeddings.safetensors").write_bytes(b"no such thing")
    else:
        save_file(tensors, folder / "embeddings.safetensors")
    finish_again(folder)
    with pytest.raises(UserError, match=f"holds no embeddings with their labels .*{reason}"):
        load_embeddings(folder, read_summary(folder))


def test_embeddings_of_before_images_were_named_are_read(tmp_path):
    folder = keep(write_cell(tmp_path, make_fake("ms", 0)), angles(0, 10, 90), [0, 0, 1])
    found = dmlbench.read_embeddings(folder)
    assert found.labels.tolist() == [0, 0, 1]
    assert found.vectors == pytest.approx(angles(0, 10, 90), abs=1e-6)
    assert (found.paths, found.class_names) == ((), ())


@pytest.mark.parametrize(
    "images", ["[", "[1, 2, 3]", '[{"path": "a"}]', '{"path": "a"}', '[{"path": "a", "class": "b"}]', "[" * 9999]
)
def test_names_of_images_that_are_none(tmp_path, images):
    tensors = {"embeddings": angles(0, 10, 90).astype(np.float32), "labels": np.array([0, 0, 1])}
    save_file(tensors, tmp_path / "e.safetensors", metadata={"images": images})
    with pytest.raises(UserError, match=r"e\.safetensors: holds no embeddings with their labels") as caught:
        dmlbench.read_embeddings(tmp_path / "e.safetensors")
    assert "\n" not in str(caught.value)


def test_a_file_of_embeddings_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match=r"embeddings\.safetensors: cannot be read"):
        dmlbench.read_embeddings(tmp_path)


def test_a_trained_cell_keeps_what_its_recall_was_measured_on(tmp_path, monkeypatch, make_cell):
    labels = torch.arange(6).repeat_interleave(5)
    images = torch.randint(0, 255, (30, 1, 16, 16), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    split = Split(images, labels, tuple("abcdef"), tuple(f"{k // 5}/{k}.png" for k in range(30)))
    monkeypatch.setattr(cell_module, "load_of_cell", lambda *_: Dataset("small", split, split, "f00d"))
    monkeypatch.setattr(cell_module.provenance, "git_state", dict)
    run_cell(make_cell(batch_size=8), tmp_path, RunOptions(device="cpu", keep=("embeddings",)), lambda _: None)
    summary = read_summary(tmp_path)
    found = nearest(load_embeddings(tmp_path, summary))
    assert found.hits.mean() == pytest.approx(summary.last["recall_at_1"], abs=1e-6)
    assert 0 < found.hits.sum() < 30
    named = dmlbench.read_embeddings(tmp_path)
    assert (named.paths[7], named.class_names[7], len(named.paths)) == ("1/7.png", "b", 30)
    assert json.loads((tmp_path / "summary.json").read_text())["files"]["embeddings.safetensors"]


def test_who_looks_at_results_needs_no_torch():
    modules = "dmlbench.analysis.queries, dmlbench.reporting.figures, dmlbench.reporting.queries"
    code = f"import sys, {modules}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_the_length_of_a_kept_embedding_does_not_matter(tmp_path):
    vectors, labels = angles(0, 10, 90, 100), [0, 0, 1, 1]
    lengths = np.array([[1.0], [1e-37], [1e30], [1e-40]])
    folder = keep(kept_cell(tmp_path), vectors * lengths, labels)
    embeddings = load_embeddings(folder, read_summary(folder))
    np.testing.assert_allclose(embeddings.vectors, vectors, atol=1e-4)  # float32 has few digits left at 1e-40
    assert nearest(embeddings).hits.all()


@given(with_ties(), st.integers(0, 2**32 - 1))
@settings(max_examples=80)
def test_queries_of_a_gallery_hit_as_the_evaluation_counts_them(case, seed):
    vectors, labels = case
    asks = np.random.default_rng(seed).random(len(labels)) < 0.5
    asks[0], asks[1] = True, False
    found = nearest(replace(unit(vectors, labels), queries=asks))
    counted = np.isin(labels, labels[~asks]) & asks
    assert found.queries.tolist() == counted.tolist()
    if not counted.any():
        return
    expected = naive_retrieval(vectors[asks], labels[asks], (1,), gallery=(vectors[~asks], labels[~asks]))
    assert found.hits[found.queries].mean() == pytest.approx(expected["recall_at_1"])
    positions, _ = neighbours(replace(unit(vectors, labels), queries=asks), np.flatnonzero(asks), k=3)
    assert not asks[positions].any()
    assert positions.shape[1] == min(3, (~asks).sum())
    first = labels[positions[:, 0]] == labels[asks]
    assert first[counted[asks]].tolist() == found.hits[counted].tolist()


def test_tiles_of_a_gallery_change_nothing(monkeypatch):
    rng = np.random.default_rng(0)
    asks = rng.random(300) < 0.3
    embeddings = replace(unit(rng.normal(size=(300, 8)), rng.integers(0, 20, 300)), queries=asks)
    expected = nearest(embeddings)
    monkeypatch.setattr(module, "TILE", 7)
    found = nearest(embeddings)
    assert found.positive == pytest.approx(expected.positive)
    assert found.negative == pytest.approx(expected.negative)
    assert np.array_equal(found.negative_label, expected.negative_label)
    nearest_of_all = neighbours(embeddings, np.flatnonzero(asks), k=1)[0][:, 0]
    missed = (found.queries & ~found.hits)[asks]
    assert missed.sum() > 20
    assert np.array_equal(found.negative_label[asks][missed], embeddings.labels[nearest_of_all][missed])
    assert set(found.negative_label[~asks]) == {-1}


@pytest.mark.parametrize(
    "queries", [np.array([True, True]), np.array([1, 0, 1]), np.array([True] * 3), np.array([False] * 3)]
)
def test_queries_that_are_none(tmp_path, queries):
    path = tmp_path / "embeddings.safetensors"
    tensors = {"embeddings": np.eye(3, dtype=np.float32), "labels": np.array([0, 0, 1])}
    save_file(tensors | {"queries": queries}, path)
    with pytest.raises(UserError, match="queries of the shape"):
        dmlbench.read_embeddings(path)
    save_file(tensors | {"queries": np.array([True, False, True])}, path)
    assert dmlbench.read_embeddings(path).queries.tolist() == [True, False, True]
