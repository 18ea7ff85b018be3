"""What the device computes in float32 against the CPU in float64: losses, modifiers' mathematics and metrics."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from dmlbench.evaluation import clustering_metrics, geometry_metrics, retrieval_metrics
from dmlbench.evaluation.faiss_index import gpu_problem, import_faiss
from dmlbench.evaluation.inputs import unit_embeddings
from dmlbench.losses.mining import distance_weighted_probabilities, distance_weighted_triplets, semihard_triplets
from dmlbench.modifiers import (
    StepContext,
    angular_loss,
    distillation_loss,
    neighbourhood_loss,
    obdsd_targets,
    psd_targets,
    relational_loss,
)
from dmlbench.selftest.conditions import CPU, LARGE, SEED, Conditions, SkipCheckError
from dmlbench.selftest.records import Figure, Outcome
from dmlbench.specs.registry import Registry
from dmlbench.training.build import build_loss

# Errors over the largest entry. On a CPU losses have 2e-7 and their gradients 3e-6; products in TF32 would have 1e-3.
# Divergences are small differences of large sums, and densities high powers of distances: 3e-6 on a CPU.
LOSS, GRADIENT, DIVERGENCE = 1e-5, 1e-4, 1e-4
METRIC, UNIT, FAISS = 1e-9, 1e-12, 1e-6
BATCH, DIMENSIONS, CLASSES, SPREAD = 112, 128, 28, 2.0
CLUSTERS, APART = 100, 0.01  # classes and a spread so small that k-means finds the same clusters from any start
SCORED, OF_CLASS = 3000, 10
DATASETS = ("cub", "cars", "sop")  # with published settings of OBD-SD
# A value on a device in a precision, with the tensors that gradients are taken to.
Evaluated = tuple[Tensor, list[Tensor]]
At = Callable[[torch.device, torch.dtype], Evaluated]


def losses(conditions: Conditions) -> Outcome:
    """Value and gradient of every registered loss on the same embeddings and triplets, and what mining draws."""
    registry, device = Registry(), conditions.device
    embeddings, labels = _batch(SEED)
    triplets, _ = distance_weighted_triplets(embeddings.double(), labels, torch.Generator().manual_seed(SEED))
    figures: list[Figure] = []
    for name in registry.bases():
        torch.manual_seed(SEED)
        sizes = {"num_classes": CLASSES, "embedding_dim": DIMENSIONS}
        criterion = build_loss(registry.resolve(name, "glyphs", LARGE).loss, sizes)
        figures += _agreement(
            name, _loss(criterion.state_dict(), criterion, (embeddings, labels, triplets)), device, LOSS
        )
    return Outcome(figures=(*figures, *_mining(embeddings, labels, device)))


def _loss(state: dict[str, Tensor], criterion: nn.Module, batch: tuple[Tensor, Tensor, Tensor]) -> At:
    """A ranking loss, called as the trainer calls it, on triplets that are given where it would draw some."""
    embeddings, labels, triplets = batch

    def at(device: torch.device, precision: torch.dtype) -> Evaluated:
        criterion.to(device, precision).load_state_dict(state)
        leaf = embeddings.to(device, precision).requires_grad_()
        given = triplets.to(device) if "triplets" in inspect.signature(type(criterion).forward).parameters else None
        context = _context(labels.to(device), given)
        value = context.ranking_loss(criterion, leaf, torch.Generator(device))
        return value, [leaf, *(own for own in criterion.parameters() if own.requires_grad)]

    return at


def _context(labels: Tensor, triplets: Tensor | None) -> StepContext:
    return StepContext(
        images=labels.new_zeros(len(labels), 1, 1, 1, dtype=torch.float32),
        labels=labels,
        indices=torch.arange(len(labels), device=labels.device),
        epoch=0,
        epochs=2,
        models=(),
        mining=torch.Generator().get_state(),
        clock=lambda _: nullcontext(),
        precision=nullcontext,
        miner=None if triplets is None else lambda *_: triplets,
    )


def _mining(embeddings: Tensor, labels: Tensor, device: torch.device) -> Iterator[Figure]:
    """The probabilities of distance-weighted mining, and the number and classes of triplets drawn on the device."""

    def probabilities(where: torch.device, precision: torch.dtype) -> Evaluated:
        return distance_weighted_probabilities(embeddings.to(where, precision), labels.to(where)), []

    yield from _agreement("probabilities of distance-weighted mining", probabilities, device, DIVERGENCE)
    own, classes = embeddings.to(device), labels.to(device)
    weighted = distance_weighted_triplets(own, classes, torch.Generator(device).manual_seed(SEED))
    semihard = semihard_triplets(own, classes, 0.2, torch.Generator(device).manual_seed(SEED))
    for name, drawn in (("distance-weighted", weighted), ("semi-hard", semihard)):
        # Every embedding has a positive and a negative, so each is the anchor of one triplet.
        missing = len(labels) - len(drawn[0][drawn[1], 0].unique())
        yield Figure(name=f"embeddings without a {name} triplet", value=missing, at_most=0)
        yield Figure(name=f"{name} triplets of wrong classes", value=_wrong(*drawn, classes), at_most=0)


def _wrong(triplets: Tensor, valid: Tensor, classes: Tensor) -> int:
    """How many valid triplets have a positive of another class or a negative of the same."""
    anchor, positive, negative = triplets[valid].unbind(1)
    wrong = (classes[anchor] != classes[positive]) | (anchor == positive) | (classes[anchor] == classes[negative])
    return int(wrong.sum())


def modifiers(conditions: Conditions) -> Outcome:
    """Targets of PSD and OBD-SD with the published settings; value and gradient of what the student learns by."""
    student, _ = _batch(SEED)
    teacher, _ = _batch(SEED + 1)
    figures: list[Figure] = []
    subjects = {"psd_targets": _targets(teacher, tau=1.0)}
    for dataset in DATASETS:
        part = Registry().resolve("ms+obdsd", dataset, LARGE).distillation
        assert part is not None  # noqa: S101 - a method with a modifier has one
        values = {name: float(value) for name, value in part.values().items() if name != "lambda"}
        subjects[f"obdsd_targets, {dataset}"] = _targets(teacher, **values)
    targets = psd_targets(teacher.double(), 1.0)
    subjects["distillation_loss"] = _student(distillation_loss, student, targets, 1.0)
    subjects["relational_loss"] = _student(relational_loss, student, teacher)
    subjects["angular_loss"] = _student(angular_loss, student, teacher)
    subjects["neighbourhood_loss"] = _student(neighbourhood_loss, student, teacher, 0.1)
    for name, at in subjects.items():
        figures += _agreement(name, at, conditions.device, DIVERGENCE)
    return Outcome(figures=tuple(figures))


def _targets(teacher: Tensor, **values: float) -> At:
    make = obdsd_targets if "omega" in values else psd_targets
    return lambda device, precision: (make(teacher.to(device, precision), **values), [])


def _student(loss: Callable[..., Tensor], student: Tensor, other: Tensor, *settings: float) -> At:
    def at(device: torch.device, precision: torch.dtype) -> Evaluated:
        leaf = student.to(device, precision).requires_grad_()
        return loss(leaf, other.to(device, precision), *settings), [leaf]

    return at


def metrics(conditions: Conditions) -> Outcome:
    """Scores of embeddings on the device against those of the same numbers in float64 on the CPU."""
    embeddings, labels = _scored()
    own, classes = embeddings.to(conditions.device), labels.to(conditions.device)
    half = SCORED // 2
    gallery = (embeddings[half:], labels[half:])
    found = retrieval_metrics(own, classes, backend="torch") | geometry_metrics(own, classes)
    exact = retrieval_metrics(embeddings.double(), labels, backend="torch") | geometry_metrics(
        embeddings.double(), labels
    )
    asked = retrieval_metrics(own[:half], classes[:half], backend="torch", gallery=(own[half:], classes[half:]))
    reference = retrieval_metrics(embeddings[:half].double(), labels[:half], backend="torch", gallery=gallery)
    figures = [
        *_differences(found, exact, METRIC),
        *_differences(asked, reference, METRIC, "with a gallery: "),
        *_clustering(conditions.device),
        Figure(
            name="inputs of clustering",
            value=_error(
                unit_embeddings(own, classes, device="cpu")[0], unit_embeddings(embeddings.double(), labels)[0]
            ),
            at_most=UNIT,
        ),
    ]
    return Outcome(figures=tuple(figures))


def _clustering(device: torch.device) -> Iterator[Figure]:
    """NMI and AMI of the device's k-means and of scikit-learn's on the CPU, whose starts differ."""
    embeddings, labels = _of_classes(CLUSTERS, APART)
    exact = clustering_metrics(embeddings.double(), labels, runs=1)
    found = clustering_metrics(embeddings.to(device), labels.to(device), runs=1)
    for name in ("nmi", "ami"):
        yield Figure(name=name, value=abs(found[name] - exact[name]), at_most=METRIC)


def faiss(conditions: Conditions) -> Outcome:
    """Retrieval with both backends on the device."""
    try:
        import_faiss()
    except ImportError as error:
        raise SkipCheckError(f"faiss is not importable ({error}); evaluation uses torch") from error
    embeddings, labels = (part.to(conditions.device) for part in _scored())
    by_torch, by_faiss = (retrieval_metrics(embeddings, labels, backend=name) for name in ("torch", "faiss"))
    problem = gpu_problem(conditions.device.index or 0) if conditions.on_cuda else None
    note = f"faiss searches on the CPU: {problem}" if problem else ""
    return Outcome(figures=tuple(_differences(by_faiss, by_torch, FAISS)), note=note)


def _differences(found: dict[str, float], exact: dict[str, float], bound: float, where: str = "") -> Iterator[Figure]:
    for name, value in exact.items():
        yield Figure(name=f"{where}{name}", value=abs(found[name] - value), at_most=bound)


def _agreement(name: str, at: At, device: torch.device, bound: float) -> Iterator[Figure]:
    """How far the device's float32 is from the CPU's float64, over the largest entry of that."""
    exact, exact_leaves = at(CPU, torch.float64)
    exact_gradients = [own.cpu() for own in torch.autograd.grad(exact, exact_leaves)] if exact_leaves else []
    found, leaves = at(device, torch.float32)
    yield Figure(name=name, value=_error(found.detach(), exact.detach()), at_most=bound)
    if leaves:
        pairs = zip(torch.autograd.grad(found, leaves), exact_gradients, strict=True)
        worst = torch.tensor([_error(own, reference) for own, reference in pairs]).max()  # NaN is the largest
        yield Figure(name=f"{name}, gradient", value=float(worst), at_most=GRADIENT)


def _error(found: Tensor, exact: Tensor) -> float:
    difference = (found.to(CPU, torch.float64) - exact.to(CPU, torch.float64)).abs().max()
    return float(difference / exact.double().abs().max().clamp(min=torch.finfo(torch.float64).tiny))


def _batch(seed: int) -> tuple[Tensor, Tensor]:
    """Embeddings (N, D) float32 of unit length, in classes that overlap, with their labels (N,)."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(BATCH) % CLASSES
    centres = torch.randn(CLASSES, DIMENSIONS, generator=torch.Generator().manual_seed(SEED))
    noise = SPREAD * torch.randn(BATCH, DIMENSIONS, generator=generator)
    return normalize(centres[labels] + noise, dim=1), labels


def _scored() -> tuple[Tensor, Tensor]:
    """Embeddings of many classes that overlap, some of them twice, for ties."""
    embeddings, labels = _of_classes(SCORED // OF_CLASS, SPREAD)
    embeddings[::100] = embeddings[1::100]
    return embeddings, labels


def _of_classes(classes: int, spread: float) -> tuple[Tensor, Tensor]:
    """Embeddings (N, D) float32 of unit length, so far from their class's centre, with their labels (N,)."""
    generator = torch.Generator().manual_seed(SEED)
    labels = torch.arange(classes * OF_CLASS) % classes
    centres = torch.randn(classes, DIMENSIONS, generator=generator)
    noise = spread * torch.randn(len(labels), DIMENSIONS, generator=generator)
    return normalize(centres[labels] + noise, dim=1), labels
