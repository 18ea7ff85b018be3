import threading
import time
from contextlib import contextmanager

import pytest
from mlflow.exceptions import MlflowException

from dmlbench.results.events import Claimed, Epoch, Finished, Started, Stopped
from dmlbench.tracking import Mirror, mirror
from tests.tracking.conftest import row
from tests.tracking.servers import failing, hanging
from tests.tracking.test_runs import all_runs, steps

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of MLflow's own libraries
NOBODY = "http://127.0.0.1:9"


@pytest.fixture
def said() -> list[str]:
    return []


def wait_for(condition, seconds=30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_cells_are_shown_while_they_run(client, begun, finished, said, monkeypatch):
    monkeypatch.setattr(mirror, "LINGER", 0.05)
    writer = begun(epochs=1)
    with Mirror(said.append) as shown:
        shown(None, writer.folder, Started())
        shown(None, writer.folder, Epoch(0, 2, {}))
        wait_for(lambda: client.get_experiment_by_name("dmlbench/tiny/glyphs") and all_runs(client))
        wait_for(lambda: steps(client, all_runs(client)[0]) == [0])
        for epoch in (1, 2):
            writer.append(row(epoch))
            shown(None, writer.folder, Epoch(0, 2, {}))
        finished(writer)
        shown(None, writer.folder, Finished())
        other = begun(seed=1, epochs=2)
        shown(None, other.folder, Started())
        shown(None, other.folder, Stopped())
        claimed = begun(seed=2, epochs=2)
        shown(None, claimed.folder, Claimed(done=False))
    assert said == []
    assert shown.sent == 1
    found = {run.info.run_name: (run.info.status, steps(client, run)) for run in all_runs(client)}
    assert found == {"ms, seed 0": ("FINISHED", [0, 1, 2]), "ms, seed 1": ("KILLED", [0, 1])}


@contextmanager
def absent():
    yield NOBODY


@pytest.mark.parametrize("server", [hanging, failing, absent])
def test_a_server_that_does_not_serve_costs_two_lines_and_no_waiting(server, in_folder, monkeypatch, finished, said):
    monkeypatch.setattr(mirror, "LINGER", 0.05)
    record = finished()
    with server() as uri:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        with Mirror(said.append) as shown:
            for _ in range(3):
                begun = time.monotonic()
                shown(None, record.folder, Finished())
                assert time.monotonic() - begun < 0.5
            wait_for(lambda: said)
            ending = time.monotonic()
        assert time.monotonic() - ending < 1.0
    first, last = said
    assert first.startswith("MLflow: API request to http://127.0.0.1:")
    assert first.endswith(
        "(start the server, or name another store with MLFLOW_TRACKING_URI); results are safe, `dmlbench sync` sends "
        "them later"
    )
    assert last == "MLflow: some runs are not there yet; `dmlbench sync` sends the rest"
    assert shown.sent == 0


def test_a_server_that_comes_back_gets_all_of_it(client, monkeypatch, finished, said):
    monkeypatch.setattr(mirror, "LINGER", 0.05)
    monkeypatch.setattr(mirror, "AGAIN", (0.2, 0.4))
    uri, records = client.tracking_uri, [finished(seed=seed) for seed in (0, 1)]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", NOBODY)
    with Mirror(said.append) as shown:
        shown(None, records[0].folder, Finished())
        wait_for(lambda: said)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        wait_for(lambda: shown.sent == 1)
        shown(None, records[1].folder, Finished())
    assert shown.sent == 2
    assert [line.partition(":")[0] for line in said] == ["MLflow", "MLflow answers again"]
    assert len(all_runs(client)) == 2


def test_a_run_that_the_server_refuses_holds_up_no_other(client, begun, finished, said, monkeypatch):
    monkeypatch.setattr(mirror, "LINGER", 0.3)
    first, real = begun(epochs=3), type(client).log_batch

    def refuse(self, run_id, *args, **options):
        if client.get_run(run_id).info.run_name == "ms, seed 0":
            raise MlflowException("")
        return real(self, run_id, *args, **options)

    monkeypatch.setattr(type(client), "log_batch", refuse)
    with Mirror(said.append) as shown:
        shown(None, finished(first).folder, Finished())
        shown(None, finished(seed=1).folder, Finished())
    assert shown.sent == 1
    assert said == [f"MLflow: left out {first.folder}: TrackingError: no message"]


def test_a_deleted_experiment_is_one_line_and_holds_up_no_other(
    client, begun, finished, *, said, monkeypatch, make_cell
):
    monkeypatch.setattr(mirror, "LINGER", 0.05)
    live, name = begun(epochs=1), "dmlbench/tiny/glyphs"
    with Mirror(said.append) as shown:
        shown(None, live.folder, Started())
        wait_for(lambda: client.get_experiment_by_name(name) and all_runs(client))
        client.delete_experiment(client.get_experiment_by_name(name).experiment_id)
        for epoch in (1, 2):
            live.append(row(epoch))
            shown(None, live.folder, Epoch(0, 2, {}))
        wait_for(lambda: said)
        shown(None, finished(live).folder, Finished())
        shown(None, finished(seed=1).folder, Finished())
        shown(None, finished(cell=make_cell(dataset="mine")).folder, Finished())
    assert shown.sent == 1
    (line,) = said
    assert line.startswith(f"MLflow: the experiment {name} has been deleted (`MLFLOW_TRACKING_URI=")
    assert line.endswith("results are safe, `dmlbench sync` then sends them")


def test_an_artifact_store_that_takes_nothing_is_one_line_of_all_cells(client, finished, said, monkeypatch):
    def refuse(*_):
        raise OSError("disk full")

    monkeypatch.setattr(mirror, "LINGER", 0.05)
    monkeypatch.setattr(type(client), "log_artifact", refuse)
    with Mirror(said.append) as shown:
        for seed in range(3):
            shown(None, finished(seed=seed).folder, Finished())
    assert shown.sent == 3
    assert [line.partition(";")[0] for line in said] == [
        "MLflow: the artifact store of dmlbench/tiny/glyphs does not take files: disk full"
    ]
    assert [run.info.status for run in all_runs(client)] == ["FINISHED"] * 3


def test_a_damaged_cell_holds_up_no_other(client, finished, said, monkeypatch):
    monkeypatch.setattr(mirror, "LINGER", 0.05)
    records = [finished(seed=seed) for seed in (0, 1)]
    (records[0].folder / "spec.yaml").write_text("seed: 7")
    with Mirror(said.append) as shown:
        for record in records:
            shown(None, record.folder, Finished())
    assert shown.sent == 1
    (line,) = said
    assert line.startswith(f"MLflow: left out {records[0].folder}: UserError: ")
    assert "not a readable spec" in line


def test_the_machine_is_sampled_where_that_is_asked_for(client, begun, finished, said, monkeypatch):
    monkeypatch.setattr(mirror, "LINGER", 0.05)
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.1")
    writer = begun(epochs=1)
    with Mirror(said.append, system_metrics=True) as shown:
        shown(None, writer.folder, Started())
        wait_for(lambda: client.get_experiment_by_name("dmlbench/tiny/glyphs") and all_runs(client))
        wait_for(lambda: "system/cpu_utilization_percentage" in all_runs(client)[0].data.metrics)
        for epoch in (1, 2):
            writer.append(row(epoch))
        finished(writer)
        shown(None, writer.folder, Finished())
    assert said == []
    (run,) = all_runs(client)
    assert run.info.status == "FINISHED"
    assert steps(client, run) == [0, 1, 2]
    assert "SystemMetricsMonitor" not in {thread.name for thread in threading.enumerate()}


def test_sampling_that_fails_tells_nobody_the_password(client, begun, said, *, monkeypatch, caplog):
    def vanish(*_):
        raise MlflowException("http://user:hunter2@host does not answer")

    def sampling() -> bool:
        return "SystemMetricsMonitor" in {thread.name for thread in threading.enumerate()}

    monkeypatch.setattr(mirror, "LINGER", 0.05)
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.1")
    with Mirror(said.append, system_metrics=True) as shown:
        shown(None, begun(epochs=1).folder, Started())
        wait_for(sampling)
        with monkeypatch.context() as patch:
            patch.setattr(type(client), "get_run", vanish)
            wait_for(lambda: not sampling())
    assert "hunter2" not in caplog.text


def test_the_machine_is_not_sampled_unasked(client, begun, said, monkeypatch):
    monkeypatch.setattr(mirror, "LINGER", 0.05)
    with Mirror(said.append) as shown:
        shown(None, begun(epochs=1).folder, Started())
        wait_for(lambda: client.get_experiment_by_name("dmlbench/tiny/glyphs") and all_runs(client))
        assert "SystemMetricsMonitor" not in {thread.name for thread in threading.enumerate()}
