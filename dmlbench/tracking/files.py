"""A result's files in MLflow's artifact store, which may take none while the runs with their numbers arrive."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from dmlbench.errors import one_line
from dmlbench.specs.cell import Cell
from dmlbench.tracking.connection import answers, not_stored, own_words, redacted
from dmlbench.tracking.experiments import experiment_name

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

SENT = ("spec.yaml", "summary.json", "history.csv")
MISSING = "files_missing"  # the tag of a run whose files could not be stored; its value says why
LONGEST = 500  # characters of that


class Files:
    """Sends files of results; an experiment whose artifact store refuses one is not asked again by the same object.

    Args:
        warn: Takes one line for the user for each such experiment.
    """

    def __init__(self, warn: Callable[[str], None] = lambda _: None) -> None:
        self._warn = warn
        self._refused: dict[str, str] = {}  # name of an experiment, and why

    def send(self, client: "MlflowClient", run_id: str, cell: Cell, folder: Path) -> bool:
        """Log a result's files to its run, or tag the run as one without them; whether they are there."""
        experiment = experiment_name(cell.protocol.name, cell.dataset.label)
        if experiment not in self._refused:
            try:
                for name in SENT:
                    if (folder / name).is_file():
                        client.log_artifact(run_id, str(folder / name))
            except Exception as error:  # an artifact store's drivers raise what they like
                if not answers(client):  # the server is down, with all that it proxies
                    raise
                self._refuse(experiment, error)
            else:
                return True
        client.set_tag(run_id, MISSING, self._refused[experiment])
        return False

    def send_missing(self, client: "MlflowClient", runs: "Iterable[Run]", cell: Cell, folder: Path) -> bool:
        """Log the files to those runs that were left without; whether any run has them now."""
        sent = False
        for run in runs:
            if MISSING in run.data.tags and self.send(client, run.info.run_id, cell, folder):
                client.delete_tag(run.info.run_id, MISSING)
                sent = True
        return sent

    def _refuse(self, experiment: str, error: Exception) -> None:
        self._refused[experiment] = redacted(one_line(own_words(error), LONGEST)) or type(error).__name__
        later = "runs have their numbers, `dmlbench sync` sends the files later"
        self._warn(f"MLflow: {not_stored(experiment, error).brief}; {later}")
