"""MLflow as a view of the results folder: the only package that imports mlflow.

A thread of the runner's process mirrors cells while they run, one run each, found again by their `cell` tag, so that
sending twice changes nothing. A tracking server that is down costs a warning, never a result.
"""

from dmlbench.tracking.connection import TrackingError, connect, local_database, tracking_uri
from dmlbench.tracking.mirror import Mirror
from dmlbench.tracking.runs import send

__all__ = ["Mirror", "TrackingError", "connect", "local_database", "send", "tracking_uri"]
