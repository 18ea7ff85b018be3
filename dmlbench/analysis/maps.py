"""Maps of kept embeddings in the plane, to look at: which images lie near one another.

t-SNE (van der Maaten and Hinton 2008), because scikit-learn has it and is there for k-means anyway; UMAP would show
much the same, started alike (Kobak and Linderman 2021), and be a dependency more, with a compiler behind it. A map
keeps who is near whom. Distances between groups, and how large and how dense they are, mean nothing in either.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from dmlbench.analysis.embeddings import Floats, Integers, reload_embeddings

CLASSES, IMAGES = 10, 20  # the classes a map shows, and the most images of each: 0.3 s a map
FEWEST = 8  # images of a map: fewer have no neighbourhoods
PERPLEXITY, STEPS = 30.0, 500
START = 1e-4  # standard deviation of the start, as Kobak and Berens (2019) have it


def mapped_images(labels: Integers) -> Integers:
    """Positions of the images of a map, by class: a choice that looks at no result.

    Args:
        labels: (N,) classes of the test split.

    Returns:
        (M,): every n-th class of those with two images or more, and every m-th image of each, so that at most `CLASSES`
        and `IMAGES` are left.
    """
    classes, counts = np.unique(labels, return_counts=True)
    several = _spread(classes[counts > 1], CLASSES)
    chosen = [_spread(np.flatnonzero(labels == label), IMAGES) for label in several]
    return np.concatenate([*chosen, np.array([], dtype=np.int64)])


def embedding_map(folder: Path) -> pd.DataFrame:
    """The map of one cell's test embeddings; the same embeddings give the same map.

    Returns:
        One row per image of `mapped_images`: `image`, its position, `label`, and `x` and `y`. None where these are too
        few for a map.

    Raises:
        UserError: where embeddings that were there are gone or damaged.
    """
    embeddings = reload_embeddings(folder)
    chosen = mapped_images(embeddings.labels)
    if len(chosen) < FEWEST:
        chosen = chosen[:0]
    x, y = project(embeddings.vectors[chosen]).T if len(chosen) else np.empty((2, 0))
    return pd.DataFrame({"image": chosen, "label": embeddings.labels[chosen], "x": x, "y": y})


def project(vectors: Floats) -> Floats:
    """t-SNE of unit vectors (N, D) by their cosine distances: (N, 2), from their two first principal components.

    One thread: sums of several depend on their number.
    """
    from sklearn.manifold import TSNE  # noqa: PLC0415 - a second, only for those who kept embeddings

    perplexity = min(PERPLEXITY, (len(vectors) - 1) / 3)
    with threadpool_limits(1):
        learner = TSNE(
            perplexity=perplexity, metric="cosine", init=_start(vectors), max_iter=STEPS, random_state=0, n_jobs=1
        )
        return np.asarray(learner.fit_transform(vectors), dtype=np.float64)


def _start(vectors: Floats) -> Floats:
    """Two principal components, scaled; collapsed embeddings have none, and start from seeded noise of that size."""
    centred = vectors - vectors.mean(axis=0)
    left, values, _ = np.linalg.svd(centred, full_matrices=False)
    found = np.random.default_rng(0).normal(scale=START, size=(len(vectors), 2))
    kept = values[:2] > 1e-9 * np.sqrt(len(vectors))
    found[:, : len(kept)][:, kept] = (left * values)[:, :2][:, kept] * START / (values[0] / np.sqrt(len(vectors)))
    return found


def _spread(values: Integers, most: int) -> Integers:
    """At most so many of the values, evenly spaced."""
    return values[np.linspace(0, len(values) - 1, min(most, len(values))).round().astype(np.int64)]
