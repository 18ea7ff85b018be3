"""retrieval_metrics against the official figures, two oracles, and the rules about ties."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
from torch.nn.functional import normalize

from dmlbench.evaluation import clustering_metrics, neighbours, retrieval, retrieval_metrics
from tests.evaluation.naive_retrieval import naive_retrieval

GOLDENS = Path(__file__).parents[1] / "goldens"
BACKENDS = ("torch", "faiss")
KS = (1, 2, 4, 8)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def blobs(count, dimension, classes, noise=1.0, seed=0):
    """Normalised Gaussian classes in mixed order, (count, dimension) and (count,)."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (count,), generator=generator)
    centres = torch.randn(classes, dimension, generator=generator)
    vectors = centres[labels] + noise * torch.randn(count, dimension, generator=generator)
    return normalize(vectors), labels


@pytest.mark.parametrize("backend", [*BACKENDS, "auto"])
@pytest.mark.parametrize("path", sorted(GOLDENS.glob("retrieval_*.npz")), ids=lambda path: path.stem)
def test_official_figures(path, backend):
    golden = np.load(path)
    embeddings, labels = torch.from_numpy(golden["embeddings"]), torch.from_numpy(golden["labels"])
    ours = retrieval_metrics(embeddings, labels, ks=(1, 2, 4, 8, 10, 100), backend=backend)
    checked = set(ours) & set(golden.files)
    assert len(checked) == 8
    for key in checked:
        assert ours[key] == pytest.approx(float(golden[key]), abs=1e-6), key


@st.composite
def tied_sets(draw):
    """Small sets rich in ties: coarse coordinates, repeated rows, uneven classes, zero rows."""
    count, dimension = draw(st.integers(2, 60)), draw(st.integers(1, 6))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind = draw(st.sampled_from(["coarse", "gaussian", "repeated", "signs"]))
    if kind == "coarse":
        vectors = generator.integers(-1, 2, (count, dimension)).astype(np.float32)
    elif kind == "signs":
        vectors = generator.choice([-0.3, 0.3], (count, 7 * dimension)).astype(np.float32)
    else:
        vectors = generator.normal(size=(count, 8 * dimension)).astype(np.float32)
    if kind == "repeated":
        vectors = vectors[generator.integers(0, max(1, count // 4), count)]
    labels = generator.integers(0, draw(st.integers(1, count)), count)
    labels[1] = labels[0]
    return vectors, labels


@given(tied_sets())
@settings(max_examples=150)
def test_agrees_with_the_naive_oracle_under_ties(tied):
    vectors, labels = tied
    expected = naive_retrieval(vectors, labels, KS)
    for backend in BACKENDS:
        ours = retrieval_metrics(torch.from_numpy(vectors), torch.from_numpy(labels), KS, backend)
        assert ours == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
def test_agrees_with_pytorch_metric_learning(backend):
    embeddings, labels = blobs(1500, 32, 80, noise=2.0)
    calculator = AccuracyCalculator(
        include=("precision_at_1", "r_precision", "mean_average_precision_at_r"),
        k="max_bin_count",
        device=torch.device("cpu"),
    )
    theirs = calculator.get_accuracy(embeddings, labels)
    ours = retrieval_metrics(embeddings, labels, backend=backend)
    assert ours["recall_at_1"] == pytest.approx(theirs["precision_at_1"], abs=1e-6)
    assert ours["r_precision"] == pytest.approx(theirs["r_precision"], abs=1e-6)
    assert ours["map_at_r"] == pytest.approx(theirs["mean_average_precision_at_r"], abs=1e-6)


def test_backends_agree_on_exact_duplicates_across_classes():
    """A tenth of the rows stand twice, under two labels: more ties than faiss's lists can hold."""
    embeddings, labels = blobs(1200, 48, 100)
    embeddings = torch.cat([embeddings, embeddings[:60], embeddings[:60], embeddings[7].repeat(100, 1)])
    labels = torch.cat([labels, labels[:60] + 1, labels[60:120], torch.arange(100)])
    expected = naive_retrieval(embeddings, labels, KS)
    for backend in BACKENDS:
        assert retrieval_metrics(embeddings, labels, KS, backend) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("tile", [(1, 1), (7, 13), (64, 50), (1000, 1000)])
def test_tile_size_changes_nothing(monkeypatch, tile):
    embeddings, labels = blobs(300, 16, 30)
    embeddings[::3] = embeddings[0]
    expected = retrieval_metrics(embeddings, labels)
    monkeypatch.setattr(neighbours, "CPU_TILE", tile)
    monkeypatch.setattr(retrieval.FaissRanker, "rows_at_once", tile[0])
    for backend in BACKENDS:
        assert retrieval_metrics(embeddings, labels, backend=backend) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("duplicated", [False, True])
def test_order_of_rows_and_names_of_classes_change_nothing(backend, duplicated):
    embeddings, labels = blobs(400, 16, 40)
    if duplicated:
        embeddings = embeddings[torch.arange(400) // 4]
    by_class = labels.argsort()
    expected = retrieval_metrics(embeddings, labels, backend=backend)
    shuffled = torch.randperm(400, generator=torch.Generator().manual_seed(1))
    for order in (by_class, by_class.flip(0), shuffled):
        reordered = retrieval_metrics(embeddings[order], 1000 - 7 * labels[order], backend=backend)
        assert reordered == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("scale", [1.0, 1e-4, 1e15, 0.0])
def test_collapsed_embeddings_score_0(backend, scale):
    direction = torch.randn(1, 24, generator=torch.Generator().manual_seed(0))
    lengths = torch.rand(200, 1, generator=torch.Generator().manual_seed(1)) + 0.5
    metrics = retrieval_metrics(scale * lengths * direction, torch.arange(200) // 10, backend=backend)
    assert [metrics[key] for key in ("recall_at_1", "recall_at_8", "map_at_r", "r_precision")] == [0.0] * 4


@pytest.mark.parametrize("backend", BACKENDS)
def test_perfect_embeddings_score_1(backend):
    labels = torch.arange(120) % 12
    metrics = retrieval_metrics(torch.eye(12)[labels], labels, backend=backend)
    assert [metrics[key] for key in ("recall_at_1", "map_at_r", "r_precision")] == [1.0] * 3


@pytest.mark.parametrize("backend", BACKENDS)
def test_queries_alone_in_their_class_are_left_out_but_can_be_found(backend):
    # The first pair's nearest reference is the singleton; the second pair finds itself.
    embeddings = torch.tensor([[1.0, 0.0], [0.8, 0.6], [1.0, 0.01], [0.0, 1.0], [-0.1, 1.0]])
    metrics = retrieval_metrics(embeddings, torch.tensor([0, 0, 9, 1, 1]), ks=(1, 2), backend=backend)
    assert metrics["queries"] == 4
    assert metrics["singleton_queries"] == 1
    assert metrics["recall_at_1"] == 0.5
    assert metrics["recall_at_2"] == 1.0
    assert metrics["map_at_r"] == metrics["r_precision"] == 0.5


def test_length_and_type_of_embeddings_change_nothing():
    embeddings, labels = blobs(200, 16, 20)
    expected = retrieval_metrics(embeddings, labels)
    assert retrieval_metrics(17 * embeddings.double(), labels.int()) == pytest.approx(expected, abs=1e-12)
    half = embeddings.half()
    assert retrieval_metrics(half, labels) == retrieval_metrics(half.float(), labels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert retrieval_metrics(embeddings.requires_grad_(), labels) == expected


def test_same_input_gives_the_same_bits():
    embeddings, labels = blobs(500, 32, 25)
    for backend in BACKENDS:
        assert len({tuple(retrieval_metrics(embeddings, labels, KS, backend).items()) for _ in range(3)}) == 1


@pytest.mark.parametrize(
    ("embeddings", "labels", "options", "message"),
    [
        (torch.ones(4, 2), torch.zeros(3).long(), {}, r"\(N, D\) and \(N,\)"),
        (torch.ones(4), torch.zeros(4).long(), {}, r"\(N, D\) and \(N,\)"),
        (torch.ones(0, 2), torch.zeros(0).long(), {}, "N and D > 0"),
        (torch.tensor([[1.0], [torch.nan]]), torch.zeros(2).long(), {}, "finite.* 1 of 2 rows"),
        (torch.tensor([[1.0], [torch.inf]]), torch.zeros(2).long(), {}, "finite"),
        (torch.ones(4, 2), torch.zeros(4), {}, "labels must be integers"),
        (torch.ones(4, 2), torch.zeros(4, dtype=torch.complex64), {}, "labels must be integers, got torch.complex64"),
        (
            torch.ones(4, 2),
            np.array(list("abab")),
            {},
            "labels must be a tensor or an array of numbers, got <U1; number",
        ),
        (torch.ones(4, 2), list("abab"), {}, "labels must be a tensor or an array of numbers, got list; number the"),
        (
            np.full((4, 2), "x"),
            torch.zeros(4).long(),
            {},
            "embeddings must be a tensor or an array of numbers, got <U1",
        ),
        (
            torch.ones(4, 2, dtype=torch.complex64),
            torch.zeros(4).long(),
            {},
            "floating-point numbers, got torch.complex64",
        ),
        (torch.ones(4, 2).long(), torch.zeros(4).long(), {}, "floating-point numbers, got torch.int64"),
        (torch.ones(4, 2) > 0, torch.zeros(4).long(), {}, "floating-point numbers, got torch.bool"),
        (torch.ones(4, 2), torch.zeros(4).long(), {"ks": (1.5,)}, "ks must be"),
        (torch.ones(4, 2), torch.zeros(4).long(), {"ks": "12"}, "ks must be"),
        (torch.ones(4, 2), torch.arange(4), {}, "nothing to retrieve"),
        (torch.ones(4, 2), torch.zeros(4).long(), {"ks": (0, 1)}, "ks must be"),
        (torch.ones(4, 2), torch.zeros(4).long(), {"ks": ()}, "ks must be"),
        (torch.ones(4, 2), torch.zeros(4).long(), {"backend": "fais"}, "'fais'; valid: auto, torch, faiss"),
    ],
)
def test_bad_input_is_one_clear_line(embeddings, labels, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        retrieval_metrics(embeddings, labels, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("scale", [1e-300, 5e-324, 1e-40, 1e-31, 1e200, 1e307])
def test_the_length_of_an_embedding_does_not_matter(scale):
    embeddings, labels = blobs(60, 8, 5)
    expected = retrieval_metrics(embeddings, labels)
    assert expected["recall_at_1"] > 0
    if scale == 5e-324:  # the smallest number: all that is left is which components are not 0
        signs = torch.eye(8, dtype=torch.float64)[labels % 8]
        assert retrieval_metrics(signs * scale, labels) == retrieval_metrics(signs, labels)
        assert retrieval_metrics(signs * scale, labels)["recall_at_1"] == 1
        return
    scales = torch.ones(60, 1, dtype=torch.float64)
    scales[::2] = scale
    assert retrieval_metrics(embeddings.double() * scales, labels) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32])
def test_labels_of_any_integer_type(dtype):
    embeddings, labels = blobs(60, 8, 2)
    assert retrieval_metrics(embeddings, labels.to(dtype)) == retrieval_metrics(embeddings, labels)
    assert clustering_metrics(embeddings, labels.to(dtype)) == clustering_metrics(embeddings, labels)


@given(tied_sets(), tied_sets())
@settings(max_examples=100)
def test_a_gallery_agrees_with_brute_force_under_ties(queries, references):
    (vectors, labels), (others, other_labels) = queries, references
    width = min(vectors.shape[1], others.shape[1])
    vectors, others = vectors[:, :width], others[:, :width]
    if not np.isin(labels, other_labels).any():
        with pytest.raises(ValueError, match="no query's class is in the gallery"):
            retrieval_metrics(vectors, labels, KS, gallery=(others, other_labels))
        return
    expected = naive_retrieval(vectors, labels, KS, gallery=(others, other_labels))
    for backend in BACKENDS:
        ours = retrieval_metrics(vectors, labels, KS, backend, gallery=(others, other_labels))
        assert ours == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
def test_official_figures_of_a_gallery(backend):
    """Recall that Proxy-Anchor's code for In-Shop (code/utils.py, evaluate_cos_Inshop) gives, where nothing ties."""
    golden = np.load(GOLDENS / "gallery_900x16.npz")
    ks = [int(k) for k in golden["ks"]]
    gallery = golden["gallery"], golden["gallery_labels"]
    ours = retrieval_metrics(golden["queries"], golden["query_labels"], ks, backend, gallery=gallery)
    assert [ours[f"recall_at_{k}"] for k in ks] == pytest.approx(golden["recall"].tolist(), abs=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_nothing_of_a_gallery_is_left_out(backend):
    """Queries that search a gallery of themselves find themselves."""
    embeddings, labels = blobs(300, 16, 200)
    metrics = retrieval_metrics(embeddings, labels, backend=backend, gallery=(embeddings, labels))
    assert metrics["recall_at_1"] == 1
    assert (metrics["queries"], metrics["singleton_queries"]) == (300, 0)


@pytest.mark.parametrize(
    ("gallery", "message"),
    [
        ((torch.ones(4, 3), torch.zeros(4).long()), "gallery: .* one dimension, got 3 and 2"),
        ((torch.ones(4, 2), torch.zeros(3).long()), r"gallery: .*\(N, D\) and \(N,\)"),
        ((torch.ones(4, 2), torch.ones(4).long()), "no query's class is in the gallery"),
    ],
)
def test_a_bad_gallery_is_one_clear_line(gallery, message):
    with pytest.raises(ValueError, match=message):
        retrieval_metrics(torch.ones(4, 2), torch.zeros(4).long(), gallery=gallery)


@settings(max_examples=60)
@given(tied_sets(), st.integers(1, 30), st.integers(0, 2**32 - 1))
def test_distractors_agree_with_the_naive_oracle_under_ties(tied, count, seed):
    """To the oracle each is a class of its own, whose query is left out."""
    embeddings, labels = tied
    chosen = np.random.default_rng(seed).integers(0, len(embeddings), count)
    others = torch.as_tensor(embeddings)[torch.from_numpy(chosen)].clone()  # equal to queries and to their positives
    fresh = int(torch.as_tensor(labels).max()) + 1 + torch.arange(count)
    together = torch.cat([torch.as_tensor(embeddings), others]), torch.cat([torch.as_tensor(labels), fresh])
    expected = naive_retrieval(*together, ks=KS)
    for backend in BACKENDS:
        ours = retrieval_metrics(embeddings, labels, ks=KS, backend=backend, distractors=others)
        for key in ("recall_at_1", "recall_at_4", "map_at_r", "r_precision"):
            assert ours[key] == pytest.approx(expected[key], abs=1e-9), key


@pytest.mark.parametrize("backend", BACKENDS)
def test_distractors_are_negatives_and_leave_r_and_the_query_out_of_it(backend):
    embeddings, labels = torch.eye(4)[[0, 0, 1, 1]] + 0.1, torch.tensor([5, 5, 9, 9])
    alone = retrieval_metrics(embeddings, labels, backend=backend)
    far = retrieval_metrics(embeddings, labels, backend=backend, distractors=-torch.ones(3, 4))
    assert alone == far  # the query finds neither itself nor a distractor that is far away
    assert (far["queries"], far["singleton_queries"], far["map_at_r"]) == (4, 0, 1.0)
    near = retrieval_metrics(embeddings, labels, backend=backend, distractors=embeddings[:1])
    assert near["recall_at_1"] == 0.5  # a tie with a distractor counts against the method
    assert near["queries"] == 4


def test_bad_distractors_are_one_clear_line():
    embeddings, labels = torch.rand(4, 3), torch.tensor([0, 0, 1, 1])
    with pytest.raises(ValueError, match="distractors: its embeddings and the queries must have one dimension"):
        retrieval_metrics(embeddings, labels, distractors=torch.rand(2, 5))
    with pytest.raises(ValueError, match="distractors go with no gallery"):
        retrieval_metrics(embeddings, labels, gallery=(embeddings, labels), distractors=embeddings)


@given(tied_sets())
@settings(max_examples=20)
def test_a_gallery_of_all_others_is_leave_one_out(tied):
    """Each query by itself against all others: the mean over those that find something is the metric without one."""
    vectors, labels = tied
    for backend in BACKENDS:
        whole = retrieval_metrics(vectors, labels, KS, backend)
        alone = []
        for query in range(len(labels)):
            others = np.delete(vectors, query, axis=0), np.delete(labels, query)
            if labels[query] in others[1]:
                alone.append(retrieval_metrics(vectors[[query]], labels[[query]], KS, backend, gallery=others))
        assert len(alone) == whole["queries"]
        for name in ("recall_at_1", "recall_at_8", "map_at_r", "r_precision"):
            assert whole[name] == pytest.approx(np.mean([own[name] for own in alone]), abs=1e-6), name


@pytest.mark.parametrize("backend", BACKENDS)
def test_r_counts_the_gallery_images_of_the_querys_class(backend):
    """Three of the class in the gallery: R is 3, whatever the queries have; a query without any is left out."""
    gallery = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [1.0, 0.2], [-1.0, 0.0]]), torch.tensor([0, 0, 0, 1, 1])
    queries = torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([0, 7])
    metrics = retrieval_metrics(*queries, ks=(1, 2), backend=backend, gallery=gallery)
    assert metrics["r_precision"] == pytest.approx(2 / 3)
    assert metrics["map_at_r"] == pytest.approx(2 / 3)
    assert (metrics["queries"], metrics["singleton_queries"]) == (1, 1)


def test_backends_agree_on_a_large_gallery():
    embeddings, labels = blobs(3000, 24, 150)
    gallery = embeddings[600:], labels[600:]
    first, second = (retrieval_metrics(embeddings[:600], labels[:600], KS, own, gallery=gallery) for own in BACKENDS)
    assert first == pytest.approx(second, abs=1e-6)
    assert 0.1 < first["recall_at_1"] < 0.99
