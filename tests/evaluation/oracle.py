"""Retrieval metrics written the slow, obvious way: one query at a time, in exact order of similarity."""

import numpy as np

TIE = 1e-12


def naive_retrieval(embeddings, labels, ks):
    vectors = np.asarray(embeddings, dtype=np.float64)
    vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-30)
    labels = np.asarray(labels)
    recalls, average_precisions, r_precisions, alone = [], [], [], 0
    for query in range(len(labels)):
        similarity = (vectors[query] * vectors).sum(axis=1)
        others = [i for i in range(len(labels)) if i != query]
        r = sum(labels[i] == labels[query] for i in others)
        if r == 0:
            alone += 1
            continue
        # A negative stands before every positive that is not clearly more similar.
        order = sorted(others, key=lambda i: -similarity[i] - (TIE if labels[i] != labels[query] else 0.0))  # noqa: B023
        relevant = np.array([labels[i] == labels[query] for i in order])
        precision = np.cumsum(relevant) / np.arange(1, len(order) + 1)
        recalls.append([relevant[:k].any() for k in ks])
        average_precisions.append((precision * relevant)[:r].sum() / r)
        r_precisions.append(relevant[:r].mean())
    expected = {f"recall_at_{k}": np.mean(column) for k, column in zip(ks, np.transpose(recalls), strict=True)}
    return expected | {
        "map_at_r": np.mean(average_precisions),
        "r_precision": np.mean(r_precisions),
        "queries": len(recalls),
        "singleton_queries": alone,
    }
