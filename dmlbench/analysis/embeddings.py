"""Kept test embeddings read back: the nearest neighbours of each query, and the spectrum of their directions.

All in NumPy: looking at results needs no torch.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic_core import from_json
from safetensors import SafetensorError
from safetensors.numpy import load

from dmlbench.errors import UserError
from dmlbench.results.records import Summary
from dmlbench.results.store import read_summary

FILE = "embeddings.safetensors"

# Similarities this close are equal, as in `dmlbench.evaluation.neighbours`: a tie counts against the method.
TIE = 1e-12

# Lengths that float64 can square, as in `dmlbench.evaluation.inputs`.
SMALLEST, LARGEST = 1e-30, 1e150

# Rows and columns of similarities at a time, 32 MB of float64: whole rows of all queries would take gigabytes.
TILE = 2048

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Booleans = NDArray[np.bool_]


@dataclass(frozen=True)
class Embeddings:
    """The test split of one cell after its last epoch, in the split's own order.

    Attributes:
        vectors: (N, D) float64 of unit length; a row of zeros has no direction and stays zero.
        labels: (N,) int64.
        paths: N paths of the images, relative to the dataset; empty where the file does not say.
        class_names: The class of each image; empty where the file does not say.
        queries: (N,) which images are queries, that search among the others; None where each searches all others.
    """

    vectors: Floats
    labels: Integers
    paths: tuple[str, ...] = ()
    class_names: tuple[str, ...] = ()
    queries: Booleans | None = None


@dataclass(frozen=True)
class Nearest:
    """Cosine similarities of every query to the nearest of its own class and to the nearest of the others.

    Attributes:
        positive: (N,) float64; -inf for a query that has nothing to find, and for an image of a gallery.
        negative: (N,) float64; -inf where there is no other class, and for an image of a gallery.
        negative_label: (N,) int64, the class of the nearest of the others; -1 where there is none.
    """

    positive: Floats
    negative: Floats
    negative_label: Integers

    @property
    def queries(self) -> Booleans:
        """(N,): the queries that R@1 counts: those that have something to find."""
        return np.isfinite(self.positive)

    @property
    def hits(self) -> Booleans:
        """(N,): whose nearest neighbour is of its class; not where a negative is at least as similar."""
        return self.queries & (self.negative < self.positive - TIE)


def load_embeddings(folder: Path, summary: Summary) -> Embeddings | None:
    """Read a cell's embeddings; None where none were kept, or are no longer there.

    Args:
        folder: The cell's.
        summary: Its summary, whose digest the file must have.

    Raises:
        UserError: where the file cannot be read, is not the one the summary was written for, or holds something else.
    """
    path = folder / FILE
    stated = summary.files.get(FILE)
    if stated is None:
        return None
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    hint = "restore it, or delete it: the rest of the result stands without"
    if hashlib.sha256(content).hexdigest() != stated:
        raise UserError(f"{path}: is not as it was written: its digest differs from summary.json's", hint=hint)
    return _parsed(path, content, hint)


def reload_embeddings(folder: Path) -> Embeddings:
    """Read the embeddings of a cell that had some a moment ago; raises UserError where they have gone."""
    summary = read_summary(folder)
    embeddings = load_embeddings(folder, summary) if summary else None
    if embeddings is None:
        raise UserError(f"{folder}: its embeddings have gone while they were read", hint="try again")
    return embeddings


def read_embeddings(path: str | Path) -> Embeddings:
    """Read the embeddings that `run --keep embeddings` or `evaluate --embeddings` wrote.

    Args:
        path: The file, or the folder of a cell that holds one.

    Raises:
        UserError: where it cannot be read, or holds something else.
    """
    file = Path(path) / FILE if Path(path).is_dir() else Path(path)
    try:
        content = file.read_bytes()
    except OSError as error:
        raise UserError(
            f"{file}: cannot be read ({error.strerror})", hint="`run --keep embeddings` writes it"
        ) from error
    return _parsed(file, content, f"name a file such as {FILE} of a cell's folder")


def _parsed(path: Path, content: bytes, hint: str) -> Embeddings:
    try:
        found = _checked(load(content))
        images = _images(content, len(found.labels))
    except (SafetensorError, KeyError, ValueError, TypeError, AttributeError, OverflowError, MemoryError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:100]
        raise UserError(f"{path}: holds no embeddings with their labels ({reason})", hint=hint) from error
    return replace(found, paths=tuple(path for path, _ in images), class_names=tuple(name for _, name in images))


def _images(content: bytes, count: int) -> list[tuple[str, str]]:
    """Path and class of each image, from the head of a safetensors file: its length in 8 bytes, then JSON."""
    head = from_json(content[8 : 8 + int.from_bytes(content[:8], "little")])
    images = from_json((head.get("__metadata__") or {}).get("images", "[]"))
    if images and len(images) != count:
        raise ValueError(f"{len(images)} images for {count} embeddings")
    return [(str(image["path"]), str(image["class"])) for image in images]


def nearest(embeddings: Embeddings) -> Nearest:
    """Find every query's nearest positive and nearest negative, each query left out by its index.

    Exact, in float64, a tile of the similarity matrix at a time: memory grows with N x D, never with N^2.
    """
    if embeddings.queries is not None:
        return _nearest_in_gallery(embeddings, embeddings.queries)
    # Classes become runs of rows, so that few tiles hold positives and need a mask.
    order = np.argsort(embeddings.labels, kind="stable")
    vectors, labels = np.ascontiguousarray(embeddings.vectors[order]), embeddings.labels[order]
    best, negative_labels = np.full((2, len(labels)), -np.inf), np.full(len(labels), -1)
    buffer = np.empty(min(TILE, len(labels)) ** 2)
    tiles = [slice(begin, min(begin + TILE, len(labels))) for begin in range(0, len(labels), TILE)]
    for number, rows in enumerate(tiles):
        for columns in tiles[number:]:  # the matrix is symmetric: half of it says all
            shape = rows.stop - rows.start, columns.stop - columns.start
            # One buffer for all tiles: fresh pages for each would cost as much as the product itself.
            similarities = buffer[: shape[0] * shape[1]].reshape(shape)
            np.matmul(vectors[rows], vectors[columns].T, out=similarities)
            _update(best, negative_labels, similarities, labels, (rows, columns))
    positive, negative = np.empty_like(best)
    other = np.empty_like(negative_labels)
    positive[order], negative[order], other[order] = *best, negative_labels
    return Nearest(positive, negative, other)


def _nearest_in_gallery(embeddings: Embeddings, queries: Booleans) -> Nearest:
    """`nearest` where the queries search among the other images alone."""
    asking, gallery = np.flatnonzero(queries), np.flatnonzero(~queries)
    vectors, labels = embeddings.vectors, embeddings.labels
    best, negative_labels = np.full((2, len(labels)), -np.inf), np.full(len(labels), -1)
    for rows in (asking[begin : begin + TILE] for begin in range(0, len(asking), TILE)):
        for columns in (gallery[begin : begin + TILE] for begin in range(0, len(gallery), TILE)):
            similarities = vectors[rows] @ vectors[columns].T
            same = labels[rows, None] == labels[columns]
            found = np.where(same, similarities, -np.inf).max(axis=1)
            best[0, rows] = np.maximum(best[0, rows], found)
            similarities[same] = -np.inf
            _take_nearer(best[1], negative_labels, similarities, rows, labels[columns])
    return Nearest(best[0], best[1], negative_labels)


def neighbours(embeddings: Embeddings, queries: Integers, k: int = 5) -> tuple[Integers, Floats]:
    """Find the k nearest references of some queries, each left out by its index, or all of a gallery.

    Among equals negatives come first, as they do in R@1, then the earlier reference. Memory grows with Q x N.

    Args:
        embeddings: Queries and references.
        queries: (Q,) int64, their positions.
        k: How many; all others where there are fewer.

    Returns:
        Positions of the references (Q, k), and their cosine similarities (Q, k), the nearest first.
    """
    similarities = embeddings.vectors[queries] @ embeddings.vectors.T
    positive = embeddings.labels[queries, None] == embeddings.labels
    sought = np.where(positive, similarities - TIE, similarities)
    sought[np.arange(len(queries)), queries] = -np.inf
    references = len(embeddings.labels) - 1
    if embeddings.queries is not None:
        sought[:, embeddings.queries] = -np.inf
        references = int((~embeddings.queries).sum())
    positions = np.broadcast_to(np.arange(len(embeddings.labels)), sought.shape)
    found = np.lexsort((positions, positive, -sought))[:, : min(k, references)]
    return found, np.take_along_axis(similarities, found, axis=1)


def spectrum(embeddings: Embeddings) -> Floats:
    """Singular values of the embeddings, (min(N, D),), descending, scaled to sum 1.

    As for `spectral_decay`, one counts as at least 2^-23 of the largest, the resolution of float32 embeddings.
    """
    values = np.linalg.svd(embeddings.vectors, compute_uv=False)
    relative = np.maximum(values / max(float(values[0]), np.finfo(np.float64).tiny), np.finfo(np.float32).eps)
    relative[0] = 1.0  # it is, unless all embeddings are zero: those count as one direction
    return np.asarray(relative / relative.sum(), dtype=np.float64)


def _checked(tensors: Mapping[str, NDArray[np.generic]]) -> Embeddings:
    """Bring stored tensors to unit length; raises KeyError or ValueError where they are not embeddings."""
    vectors, labels = tensors["embeddings"], tensors["labels"]
    if vectors.ndim != 2 or labels.shape != vectors.shape[:1] or 0 in vectors.shape:
        raise ValueError(f"shapes {vectors.shape} and {labels.shape}")
    if not np.issubdtype(labels.dtype, np.integer) or not np.issubdtype(vectors.dtype, np.floating):
        raise ValueError(f"types {vectors.dtype} and {labels.dtype}")
    wide = vectors.astype(np.float64)
    if not np.isfinite(wide).all():
        raise ValueError("values that are not finite")
    lengths = np.linalg.norm(wide, axis=1, keepdims=True)
    # As for the metrics: rows whose length float64 cannot square are first brought near 1.
    largest = np.abs(wide).max(axis=1, keepdims=True)
    extreme = ((lengths < SMALLEST) | (lengths > LARGEST)) & (largest > 0)
    if extreme.any():
        wide /= np.where(extreme, largest, 1.0)
        lengths = np.linalg.norm(wide, axis=1, keepdims=True)
    wide /= np.maximum(lengths, SMALLEST)
    return Embeddings(wide, labels.astype(np.int64), queries=_roles(tensors.get("queries"), len(labels)))


def _roles(queries: NDArray[np.generic] | None, count: int) -> Booleans | None:
    if queries is None:
        return None
    if queries.shape != (count,) or queries.dtype != np.bool_ or queries.all() or not queries.any():
        raise ValueError(f"queries of the shape {queries.shape} and type {queries.dtype}, or all of them or none")
    return queries.astype(np.bool_)


def _update(
    best: Floats, negative_labels: Integers, similarities: Floats, labels: Integers, tile: tuple[slice, slice]
) -> None:
    """Take a tile of similarities (B, C) into the best so far of its rows and columns: positives, then negatives."""
    rows, columns = tile
    own, others = labels[rows], labels[columns]
    if others[0] <= own[-1] and own[0] <= others[-1]:
        same = own[:, None] == others
        positives = np.where(same, similarities, -np.inf)
        if rows == columns:
            np.fill_diagonal(positives, -np.inf)
        best[0][rows] = np.maximum(best[0][rows], positives.max(axis=1))
        best[0][columns] = np.maximum(best[0][columns], positives.max(axis=0))
        similarities[same] = -np.inf
    _take_nearer(best[1], negative_labels, similarities, rows, others)
    _take_nearer(best[1], negative_labels, similarities.T, columns, own)


def _take_nearer(
    best: Floats, its_labels: Integers, similarities: Floats, places: slice | Integers, labels: Integers
) -> None:
    """Take similarities (B, C) of the images at B places to C of these labels, where they exceed the best so far."""
    found = similarities.max(axis=1)
    # Which one it is costs more than how near: asked only where it is nearer, which after a few tiles is rare.
    nearer = np.flatnonzero(found > best[places])
    positions = np.arange(len(best))[places][nearer]
    best[positions] = found[nearer]
    its_labels[positions] = labels[similarities[nearer].argmax(axis=1)]
