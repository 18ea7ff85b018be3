"""MLflow as a view: stores that eight runners make at once, servers that vanish, and nothing sent twice."""

import os
import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import mlflow
import pytest

from tests.e2e.conftest import TINY, Command, metric_columns
from tests.tracking.servers import hanging, mlflow_server, postgresql, postgresql_programs

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]  # of MLflow's libraries
REQUIRE = "DMLBENCH_REQUIRE_POSTGRESQL"
RUN = ("run", "--datasets", "glyphs", *TINY)


@pytest.fixture
def dmlbench(installed: Command) -> Command:
    """The installed script: each command has its own tracking store."""
    return installed


def statuses(uri: str) -> Counter[tuple[str, str]]:
    """How many runs there are of each cell in each status."""
    client = mlflow.MlflowClient(uri)
    experiments = [found.experiment_id for found in client.search_experiments()]
    runs = client.search_runs(experiments, "tags.cell != ''", max_results=1000)
    return Counter((run.data.tags["cell"], run.info.status) for run in runs)


def finished(uri: str) -> int:
    """How many runs of cells have finished."""
    return sum(count for (_, status), count in statuses(uri).items() if status == "FINISHED")


def seeds_of_methods(uri: str) -> dict[str, float]:
    """The runs above those of the seeds, and how many finished seeds each counts; all seeds are below one of them."""
    client = mlflow.MlflowClient(uri)
    experiments = [found.experiment_id for found in client.search_experiments()]
    methods = client.search_runs(experiments, "tags.kind = 'method'")
    cells = client.search_runs(experiments, "tags.cell != ''")
    parents = {run.data.tags["mlflow.parentRunId"] for run in cells}
    assert parents == {run.info.run_id for run in methods}
    assert {run.info.status for run in methods} == {"FINISHED"}
    return {run.data.tags["method"]: run.data.metrics["seeds"] for run in methods}


def start(environment: dict[str, str], cwd: Path, *arguments: str, **variables: str) -> subprocess.Popen[str]:
    script = str(Path(sys.executable).with_name("dmlbench"))
    return subprocess.Popen(
        [script, *arguments], cwd=cwd, env=environment | variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True,
    )  # fmt: skip


def test_a_server_on_postgresql_that_vanishes_in_the_midst_of_a_run(
    environment: dict[str, str], dmlbench: Command, tmp_path: Path
) -> None:
    programs = postgresql_programs()
    if programs is None:
        assert not os.environ.get(REQUIRE), "PostgreSQL is required here and not installed"
        pytest.skip("PostgreSQL's server programs are not installed")
    with postgresql(programs) as store, mlflow_server(tmp_path, store) as server:
        four = (*RUN, "--methods", "ms,margin", "--seeds", "2", "--workers", "1")
        with start(environment, tmp_path, *four, MLFLOW_TRACKING_URI=server.uri) as running:
            assert running.stdout is not None
            while running.poll() is None and not finished(server.uri):
                time.sleep(0.2)
            server.stop()
            output = running.stdout.read()
        assert running.returncode == 0, output
        assert "results are safe, `dmlbench sync` sends them later" in output
        assert len(metric_columns(tmp_path / "results" / "runs")) == 4

        server.start()
        assert 1 <= finished(server.uri) < 4, output
        sent = [dmlbench("sync", MLFLOW_TRACKING_URI=server.uri).stdout for _ in range(3)]
        assert re.fullmatch(r"\d runs? sent, \d (was|were) there already\n", sent[0])
        assert sent[1:] == ["0 runs sent, 4 were there already\n"] * 2, sent
        after = statuses(server.uri)
        assert len(after) == 4
        assert set(after.values()) == {1}
        assert {status for _, status in after} == {"FINISHED"}
        assert seeds_of_methods(server.uri) == {"ms": 2, "margin": 2}


def test_eight_runners_at_once_on_a_fresh_folder(environment: dict[str, str], tmp_path: Path) -> None:
    one = tuple(part.replace("epochs=2", "epochs=1") for part in RUN)
    runners = [
        start(environment, tmp_path, *one, "--methods", "ms", "--seeds", "8", "--workers", "1") for _ in range(8)
    ]
    outputs = [runner.communicate(timeout=400)[0] for runner in runners]
    # Whoever ends while another is still at a cell says so; the last to end finds all of them done.
    assert 0 in {runner.returncode for runner in runners}, outputs[0]
    assert {runner.returncode for runner in runners} <= {0, 1}
    assert not [output for output in outputs if "MLflow:" in output or "Traceback" in output]
    assert len(metric_columns(tmp_path / "results" / "runs")) == 8
    for log in (tmp_path / "results").rglob("log.txt"):
        assert log.read_text().count("epoch 1 of 1 begins") == 1
    found = statuses(f"sqlite:///{tmp_path / 'mlflow.db'}")
    assert len(found) == 8
    assert {status for _, status in found} == {"FINISHED"}
    assert set(found.values()) == {1}
    assert seeds_of_methods(f"sqlite:///{tmp_path / 'mlflow.db'}") == {"ms": 8}


def test_a_server_that_hangs_costs_a_warning(dmlbench: Command, tmp_path: Path) -> None:
    with hanging() as uri:
        done = dmlbench(*RUN, "--methods", "ms", "--seeds", "1", MLFLOW_TRACKING_URI=uri)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "results are safe, `dmlbench sync` sends them later" in done.stdout
    assert "0 runs sent" not in done.stdout
    assert "1 run sent, 0 were there already" in dmlbench("sync").stdout


def test_a_database_server_that_is_down_is_one_line_of_each_command(dmlbench: Command, tmp_path: Path) -> None:
    uri = "postgresql://user:hunter2@127.0.0.1:9/db"
    done = dmlbench(*RUN, "--methods", "ms", "--seeds", "1", MLFLOW_TRACKING_URI=uri)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "results are safe, `dmlbench sync` sends them later" in done.stdout
    assert len(metric_columns(tmp_path / "results" / "runs")) == 1
    for command, code in ((("sync",), 1), (("ui", "--no-browser"), 2), (("report", "--tracking", "auto"), 0)):
        ended = dmlbench(*command, MLFLOW_TRACKING_URI=uri)
        assert ended.returncode == code
        (line,) = (line for line in ended.stderr.splitlines() if "MLflow" in line)
        assert "(name another store with MLFLOW_TRACKING_URI)" in line
        assert "Traceback" not in ended.stderr
        assert "hunter2" not in ended.stderr


def test_an_experiment_that_was_deleted_and_its_way_back(dmlbench: Command, tmp_path: Path) -> None:
    name = "dmlbench/conv4-64/glyphs"
    assert dmlbench(*RUN, "--methods", "ms", "--seeds", "1", "--tracking", "none").returncode == 0
    assert dmlbench("sync").returncode == 0
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    client.delete_experiment(client.get_experiment_by_name(name).experiment_id)
    refused = dmlbench("sync")
    assert (refused.returncode, refused.stdout) == (1, "0 runs sent, 0 were there already, 1 not sent\n")
    reported = dmlbench("report", "--tracking", "auto")
    assert reported.returncode == 0
    assert "run `report" not in reported.stdout
    ways = re.compile(rf"MLflow: the experiment {name} has been deleted \(`(.+?)` brings it back, `(mlflow gc .+?)` ")
    (restore, _), _ = (ways.search(done.stderr).groups() for done in (refused, reported))
    folder = Path(sys.executable).parent
    subprocess.run(["/bin/sh", "-c", f"PATH={folder}:$PATH; export PATH; {restore}"], check=True, cwd=tmp_path)
    assert dmlbench("sync").stdout == "0 runs sent, 1 was there already\n"
    assert f"MLflow: run `report report` in {name}\n" in dmlbench("report", "--tracking", "auto").stdout
