"""MLflow as a view of the results folder: the only package that imports mlflow.

A thread of the runner's process mirrors cells while they run, one run each, found again by their `cell` tag, so that
sending twice changes nothing; cells that differ only in their seed have a parent run for their method. A tracking
server that is down costs a warning, never a result.
"""

from dmlbench.tracking.connection import (
    TrackingError,
    connect,
    local_database,
    redacted,
    tracking_uri,
    without_credentials,
)
from dmlbench.tracking.experiments import pages, send_report
from dmlbench.tracking.methods import all_in_order
from dmlbench.tracking.mirror import Mirror
from dmlbench.tracking.runs import send, send_all

__all__ = [
    "Mirror", "TrackingError", "all_in_order", "connect", "local_database", "pages", "redacted", "send", "send_all",
    "send_report", "tracking_uri", "without_credentials",
]  # fmt: skip
