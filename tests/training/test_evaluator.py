import pytest
import torch
from safetensors.torch import load

from dmlbench.data.images import Split
from dmlbench.errors import DivergedError
from dmlbench.evaluation import clustering_metrics, geometry_metrics, retrieval_metrics, revisiting_nmi
from dmlbench.models.model import build_model
from dmlbench.training.evaluator import Evaluator, timed
from tests.evaluation.naive_retrieval import naive_retrieval

CPU = torch.device("cpu")


@pytest.fixture
def protocol(make_protocol):
    evaluation = {"ks": (1, 3), "clustering_runs": 2, "batch_size": 7}
    spec = make_protocol()
    return spec.model_copy(update={"evaluation": spec.evaluation.model_copy(update=evaluation)})


@pytest.fixture
def model(protocol):
    torch.manual_seed(0)
    return build_model(protocol.model, protocol.input).train()


def test_embeddings_in_the_splits_order_by_a_network_in_eval_mode(protocol, model, split):
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    embeddings = Evaluator(split, protocol, 0, CPU).embed(model)
    assert model.training
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())
    assert not embeddings.requires_grad
    images = (split.images.float() / 255 - 0.5) / 0.25
    with torch.no_grad():
        assert torch.allclose(embeddings, model.eval()(images), atol=1e-5)


def test_all_metrics_of_the_protocol(protocol, model, split):
    evaluator = Evaluator(split, protocol, 3, CPU)
    embeddings = evaluator.embed(model)
    metrics = evaluator.measure([model], clustering=True)
    expected = retrieval_metrics(embeddings, split.labels, ks=(1, 3)) | geometry_metrics(embeddings, split.labels)
    expected |= clustering_metrics(embeddings, split.labels, seed=evaluator.clustering_seed, runs=2)
    assert metrics == {name: float(value) for name, value in expected.items()}
    assert {"recall_at_1", "recall_at_3", "map_at_r", "r_precision", "nmi", "ami"} <= set(metrics)
    plain = evaluator.measure([model], clustering=False)
    assert set(metrics) - set(plain) == {"nmi", "ami", "nmi_std"}
    assert all(metrics[name] == value for name, value in plain.items())


def test_distractors_enter_retrieval_alone(protocol, model, split):
    """Of several networks each has its own, and the ensemble those of all of them side by side."""
    half = split.labels < 2
    ours, others = (Split(split.images[mask], split.labels[mask] % 2, ("a", "b")) for mask in (half, ~half))
    torch.manual_seed(1)
    second = build_model(protocol.model, protocol.input).train()
    evaluator = Evaluator(ours, protocol, 0, CPU, distractors=others)
    measured = evaluator.measure([model, second], clustering=False)
    alone = Evaluator(ours, protocol, 0, CPU).measure([model, second], clustering=False)
    whole = [Evaluator(split, protocol, 0, CPU).embed(network) for network in (model, second)]
    whole.append(torch.nn.functional.normalize(torch.cat(whole, dim=1), dim=1))
    for name, embeddings in zip(("member1", "member2", "ensemble"), whole, strict=True):
        expected = retrieval_metrics(embeddings[half], ours.labels, ks=(1, 3), distractors=embeddings[~half])
        assert measured[f"{name}/map_at_r"] == pytest.approx(expected["map_at_r"], abs=1e-6)
        assert measured[f"{name}/recall_at_1"] == expected["recall_at_1"]
        assert measured[f"{name}/spectral_decay"] == alone[f"{name}/spectral_decay"]
    assert measured["map_at_r"] <= alone["map_at_r"]
    assert measured["queries"] == len(ours.labels)


def test_clustering_starts_depend_on_the_seed_alone(protocol, split):
    seeds = [Evaluator(split, protocol, seed, CPU).clustering_seed for seed in (0, 0, 1)]
    assert seeds[0] == seeds[1] != seeds[2]
    assert all(0 <= seed < 2**31 for seed in seeds)


def test_half_precision_gives_float32(make_protocol, split, protocol):
    half = make_protocol(autocast="bfloat16")
    torch.manual_seed(0)
    model = build_model(half.model, half.input)
    full, halved = (Evaluator(split, spec, 0, CPU).embed(model) for spec in (protocol, half))
    assert halved.dtype == torch.float32
    assert not torch.equal(full, halved)
    assert torch.allclose(full, halved, atol=0.05)


def test_timing(protocol, model, split):
    metrics, seconds = timed(Evaluator(split, protocol, 0, CPU), [model], clustering=False)
    assert 0 <= metrics["recall_at_1"] <= 1
    assert seconds > 0


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_metric_that_is_not_finite_is_a_divergence_with_its_name(protocol, model, split, monkeypatch, value):
    monkeypatch.setattr("dmlbench.training.evaluator.geometry_metrics", lambda *_: {"spectral_decay": value})
    with pytest.raises(DivergedError, match=f"spectral_decay is {value}"):
        Evaluator(split, protocol, 0, CPU).measure([model], clustering=False)


def test_embeddings_that_are_not_finite_are_a_divergence(protocol, model, split):
    with torch.no_grad():
        next(model.parameters()).fill_(float("inf"))
    with pytest.raises(DivergedError, match=f"of {len(split.labels)} embeddings are not finite"):
        Evaluator(split, protocol, 0, CPU).measure([model], clustering=False)


def test_the_nmi_of_roth_et_al_where_the_protocol_asks_for_it(protocol, model, split):
    asked = protocol.evaluation.model_copy(update={"nmi_revisiting": True})
    evaluator = Evaluator(split, protocol.model_copy(update={"evaluation": asked}), 3, CPU, training_classes=2)
    found = evaluator.measure([model], clustering=True)
    assert found["nmi_revisiting"] == revisiting_nmi(evaluator.embed(model), split.labels, 2)
    assert "nmi_revisiting" not in evaluator.measure([model], clustering=False)
    plain = Evaluator(split, protocol, 3, CPU, training_classes=2).measure([model], clustering=True)
    assert plain == {name: value for name, value in found.items() if name != "nmi_revisiting"}


def test_queries_search_among_the_gallery(protocol, model, split):
    """Clusters and geometry are of both together; the file of embeddings says which are queries."""
    asks = torch.arange(len(split.labels)) % 3 == 0
    test = Split(split.images, split.labels, split.class_names, queries=asks)
    evaluator = Evaluator(test, protocol, 0, CPU)
    embeddings = evaluator.embed(model)
    measured = evaluator.measure([model], clustering=True)
    found = naive_retrieval(
        embeddings[asks], split.labels[asks], (1, 3), gallery=(embeddings[~asks], split.labels[~asks])
    )
    assert {name: measured[name] for name in found} == pytest.approx(found, abs=1e-9)
    assert measured["queries"] == asks.sum()
    whole = Evaluator(split, protocol, 0, CPU).measure([model], clustering=True)
    for name in ("nmi", "ami", "spectral_decay", "intra_over_inter"):
        assert measured[name] == whole[name]
    assert torch.equal(load(evaluator.embeddings_file(model))["queries"], asks)
    assert "queries" not in load(Evaluator(split, protocol, 0, CPU).embeddings_file(model))
