"""Retrieval metrics written the slow, obvious way: one query at a time, in order of similarity."""

import numpy as np

TIE = 1e-12


def units(embeddings):
    vectors = np.asarray(embeddings, dtype=np.float64)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-30)


def naive_retrieval(embeddings, labels, ks, gallery=None):
    """What `retrieval_metrics` must return, with the negatives before the positives among equals."""
    vectors, labels = units(embeddings), np.asarray(labels)
    references, reference_labels = (vectors, labels) if gallery is None else (units(gallery[0]), np.asarray(gallery[1]))
    relevances = []
    for query in range(len(labels)):
        own = [query] if gallery is None else []
        same = np.delete(reference_labels == labels[query], own)
        similarity = np.delete((vectors[query] * references).sum(axis=1), own)
        if same.any():
            relevances.append(same[np.argsort(-similarity - TIE * ~same)])
    average_precisions, r_precisions = [], []
    for relevant in relevances:
        r = relevant.sum()
        precision = np.cumsum(relevant) / np.arange(1, len(relevant) + 1)
        average_precisions.append((precision * relevant)[:r].sum() / r)
        r_precisions.append(relevant[:r].mean())
    return {f"recall_at_{k}": np.mean([relevant[:k].any() for relevant in relevances]) for k in ks} | {
        "map_at_r": np.mean(average_precisions),
        "r_precision": np.mean(r_precisions),
        "queries": len(relevances),
        "singleton_queries": len(labels) - len(relevances),
    }
