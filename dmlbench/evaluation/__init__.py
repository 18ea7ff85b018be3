"""Metrics of a set of test embeddings: retrieval, clustering against the classes, and geometry."""

from dmlbench.evaluation.clustering import clustering_metrics, revisiting_nmi
from dmlbench.evaluation.geometry import geometry_metrics
from dmlbench.evaluation.retrieval import retrieval_metrics

__all__ = ["clustering_metrics", "geometry_metrics", "retrieval_metrics", "revisiting_nmi"]
