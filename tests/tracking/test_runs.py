import pytest
from mlflow.entities import ViewType
from mlflow.exceptions import MlflowException

from dmlbench.errors import UserError
from dmlbench.tracking import TrackingError, all_in_order, runs, send_all
from dmlbench.tracking.files import Files
from dmlbench.tracking.runs import begin, interrupt, send, update
from tests.tracking.conftest import row

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of MLflow's own libraries
EXPERIMENT = "dmlbench/tiny/glyphs"


def all_runs(client, kind="cell"):
    experiment = client.get_experiment_by_name(EXPERIMENT)
    return client.search_runs([experiment.experiment_id], f"tags.kind = '{kind}'")


def steps(client, run, metric="test/recall_at_1") -> list[int]:
    return [point.step for point in client.get_metric_history(run.info.run_id, metric)]


def test_a_result_is_sent_once_however_often_it_is_sent(client, finished):
    record = finished()
    assert [send(client, record) for _ in range(3)] == [True, False, False]
    (run,) = all_runs(client)
    assert (run.info.status, run.info.run_name) == ("FINISHED", "ms, seed 0")
    assert run.data.tags["cell"] == record.summary.cell.hash
    assert run.data.tags["status"] == "done"
    assert steps(client, run) == [0, 1, 2]
    assert run.info.end_time - run.info.start_time == 4000
    assert {file.path for file in client.list_artifacts(run.info.run_id)} == {
        "spec.yaml", "summary.json", "history.csv",
    }  # fmt: skip
    assert not list(record.folder.glob(".mlflow*"))


def test_a_run_is_shown_while_it_goes_on_and_ends_as_the_same_run(client, begun, finished):
    writer = begun(epochs=1)
    live = begin(client, writer.folder)
    update(client, writer.folder, live)
    (run,) = all_runs(client)
    assert (run.info.status, run.data.tags["status"]) == ("RUNNING", "running")
    assert run.data.params["training.epochs"] == "2"
    assert steps(client, run) == [0]
    for epoch in (1, 2):
        writer.append(row(epoch))
        update(client, writer.folder, live)
        update(client, writer.folder, live)
    assert steps(client, run) == [0, 1, 2]
    assert send(client, finished(writer), live)
    (ended,) = all_runs(client)
    assert ended.info.run_id == run.info.run_id
    assert (ended.info.status, ended.data.tags["status"]) == ("FINISHED", "done")
    assert steps(client, ended) == [0, 1, 2]


def test_epochs_sent_twice_after_a_lost_answer_are_one(client, begun):
    writer = begun(epochs=3)
    live = begin(client, writer.folder)
    update(client, writer.folder, live)
    live.epoch = 0
    update(client, writer.folder, live)
    (run,) = all_runs(client)
    assert steps(client, run) == [0, 1, 2]


def test_an_interrupted_run_is_replaced_by_the_attempt_that_goes_on(client, begun, finished):
    writer = begun(epochs=2)
    live = begin(client, writer.folder)
    interrupt(client, writer.folder, live)
    (cut,) = all_runs(client)
    assert (cut.info.status, cut.data.tags["status"]) == ("KILLED", "interrupted")
    again = begin(client, writer.folder)
    writer.append(row(2))
    update(client, writer.folder, again)
    (run,) = all_runs(client)
    assert run.info.run_id != cut.info.run_id
    assert steps(client, run) == [0, 1, 2]
    assert send(client, finished(writer), again)
    assert [run.info.status for run in all_runs(client)] == ["FINISHED"]


def test_sync_beside_a_live_run_leaves_one(client, begun, finished):
    writer = begun(epochs=3)
    live = begin(client, writer.folder)
    record = finished(writer)
    assert send(client, record)  # another process, which knows nothing of the live run
    assert not send(client, record, live)
    assert [run.info.status for run in all_runs(client)] == ["FINISHED"]


def test_a_failure_gives_way_to_what_was_run_again(client, begun, finished):
    writer = begun(epochs=3)
    assert send(client, finished(writer, status="failed"))
    assert not send(client, finished(writer, status="failed"))
    (run,) = all_runs(client)
    assert (run.info.status, run.data.tags["error"]) == ("FAILED", "broke")
    assert send(client, finished(writer, started="2027"))
    assert not send(client, finished(writer, started="1999"))  # the same number from another machine
    assert [run.info.status for run in all_runs(client)] == ["FINISHED"]
    assert begin(client, writer.folder).run_id is None


def test_a_cell_run_again_by_other_code_takes_the_place_of_the_old_one(client, finished):
    assert send(client, finished(code="old"))
    newer = finished(code="new", started="2027")
    assert [send(client, newer) for _ in range(2)] == [True, False]
    (run,) = all_runs(client)
    assert run.data.tags["code"] == "new"
    assert not send(client, finished(code="old"))  # an older copy, from elsewhere


def test_two_that_send_at_the_same_time_leave_one(client, finished, monkeypatch):
    record, search, calls = finished(), runs._runs, []

    def blind_at_first(*args):
        calls.append(args)
        return [] if len(calls) in (1, 3) else search(*args)

    monkeypatch.setattr(runs, "_runs", blind_at_first)
    assert send(client, record)
    assert send(client, record)
    assert len(all_runs(client)) == 1


def test_a_run_that_was_created_and_not_filled_is_replaced(client, finished, monkeypatch):
    record = finished()

    def refuse(*_, **__):
        raise MlflowException("lost")

    with monkeypatch.context() as patch:
        patch.setattr(type(client), "log_batch", refuse)
        patch.setattr(type(client), "delete_run", refuse)
        with pytest.raises(TrackingError, match="lost"):
            send(client, record)
    assert len(all_runs(client)) == 1
    assert send(client, record)
    assert [run.info.status for run in all_runs(client)] == ["FINISHED"]


def test_a_spec_edited_by_hand_is_not_sent_as_what_it_is_not(client, finished):
    record = finished()
    path = record.folder / "spec.yaml"
    path.write_text(path.read_text().replace("learning_rate: 0.001", "learning_rate: 0.5"))
    with pytest.raises(UserError, match="edited by hand"):
        send(client, record)


def delete_experiment(client) -> str:
    """Deletes the experiment, as a person in the UI does; its id."""
    experiment = str(client.get_experiment_by_name(EXPERIMENT).experiment_id)
    client.delete_experiment(experiment)
    return experiment


def test_a_deleted_experiment_takes_no_run_and_how_it_is_restored_or_made_anew_is_said(client, begun, finished):
    first, second = finished(), finished(seed=1)
    assert send(client, first)
    number = delete_experiment(client)
    for attempt in (lambda: send(client, second), lambda: begin(client, begun(seed=2).folder)):
        with pytest.raises(TrackingError) as caught:
            attempt()
        assert caught.value.brief == (
            f"the experiment {EXPERIMENT} has been deleted (`MLFLOW_TRACKING_URI={client.tracking_uri} mlflow "
            f"experiments restore --experiment-id {number}` brings it back, `mlflow gc --tracking-uri "
            f"{client.tracking_uri} --backend-store-uri {client.tracking_uri} --experiment-ids {number}` removes it "
            "for good, so that a new one can be made)"
        )
    client.restore_experiment(number)
    assert send(client, second)
    assert not send(client, first)
    assert sorted(run.info.status for run in all_runs(client)) == ["FINISHED", "FINISHED"]


def test_an_experiment_deleted_under_a_live_run_is_named(client, begun):
    writer = begun(epochs=1)
    live = begin(client, writer.folder)
    delete_experiment(client)
    with pytest.raises(TrackingError, match=f"the experiment {EXPERIMENT} has been deleted"):
        update(client, writer.folder, live)


def test_an_experiment_deleted_while_a_run_begins_or_is_sent_is_named(client, begun, finished, monkeypatch):
    real = type(client).create_run

    def create(self, *args, **options):
        created = real(self, *args, **options)
        delete_experiment(client)
        return created

    record, writer = finished(seed=1), begun(epochs=1)
    monkeypatch.setattr(type(client), "create_run", create)
    for sending in (lambda: begin(client, writer.folder), lambda: send(client, record)):
        with pytest.raises(TrackingError, match=f"the experiment {EXPERIMENT} has been deleted"):
            sending()
        client.restore_experiment(client.get_experiment_by_name(EXPERIMENT).experiment_id)


def test_a_deleted_experiment_holds_up_no_other(client, finished, make_cell):
    records = [finished(seed=seed) for seed in (0, 1)]
    assert send(client, records[0])
    delete_experiment(client)
    elsewhere = finished(cell=make_cell(dataset="mine"))
    said = []
    assert list(send_all(client, [*records, elsewhere], said.append)) == [None, None, True]
    (line,) = said  # of both results
    assert line.startswith(f"error: MLflow: the experiment {EXPERIMENT} has been deleted (`MLFLOW_TRACKING_URI=")
    all_in_order(client, [*records, elsewhere])


def refuse_some(client, monkeypatch, *seeds):
    """The store takes no metrics of these seeds."""
    real = type(client).log_batch

    def refuse(self, run_id, *args, **options):
        if any(client.get_run(run_id).info.run_name.endswith(f"seed {seed}") for seed in seeds):
            raise MlflowException("too large")
        return real(self, run_id, *args, **options)

    monkeypatch.setattr(type(client), "log_batch", refuse)


def test_a_result_that_the_store_refuses_holds_up_no_other(client, finished, monkeypatch):
    records = [finished(seed=seed) for seed in range(3)]
    refuse_some(client, monkeypatch, 0, 1)
    said = []
    assert list(send_all(client, records, said.append)) == [None, None, True]
    assert [line.partition(" (")[0] for line in said] == [
        f"error: MLflow: {record.folder}: too large" for record in records[:2]
    ]


def test_a_store_that_refuses_many_results_is_sent_the_others(client, finished, monkeypatch):
    records = [finished(seed=seed) for seed in range(6)]
    refuse_some(client, monkeypatch, *range(5))
    said = []
    assert list(send_all(client, records, said.append)) == [None, None, None, None, None, True]
    assert ["too large" in line for line in said] == [True, True, True, False]
    assert said[-1] == "error: MLflow: more results are refused"


def files(client, run) -> set[str]:
    return {file.path for file in client.list_artifacts(run.info.run_id)}


ERRORS = [OSError("disk full"), ModuleNotFoundError("No module named 'boto3'"), MlflowException("500")]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_numbers_and_status_arrive_without_the_files_and_these_later(client, begun, finished, monkeypatch, error):
    asked = []

    def refuse(*args):
        asked.append(args)
        raise error

    writer = begun(epochs=1)
    live = begin(client, writer.folder)
    for epoch in (1, 2):
        writer.append(row(epoch))
    records, said = [finished(writer), finished(seed=1)], []
    with monkeypatch.context() as patch:
        patch.setattr(type(client), "log_artifact", refuse)
        send_files = Files(said.append)
        assert [send(client, record, live if record is records[0] else None, send_files) for record in records] == [
            True, True,
        ]  # fmt: skip
        assert len(asked) == 1  # of the second run's nobody asks
        assert [send(client, record) for record in records] == [False, False]
    (line,) = said
    package = " (install its package)" if isinstance(error, ImportError) else ""
    assert line == (
        f"MLflow: the artifact store of {EXPERIMENT} does not take files: {error}{package}; runs have their numbers, "
        "`dmlbench sync` sends the files later"
    )
    experiment = client.get_experiment_by_name(EXPERIMENT).experiment_id
    for run in all_runs(client):
        assert (run.info.status, run.data.tags["status"], steps(client, run)) == ("FINISHED", "done", [0, 1, 2])
        assert run.data.metrics["final/recall_at_1"] == 0.2
        assert run.data.tags["files_missing"] == str(error)
        assert files(client, run) == set()
    assert len(client.search_runs([experiment], run_view_type=ViewType.ALL)) == 3  # both seeds', the method's
    assert [send(client, record) for record in records * 2] == [True, True, False, False]
    for run in all_runs(client):
        assert files(client, run) == {"spec.yaml", "summary.json", "history.csv"}
        assert "files_missing" not in run.data.tags


def test_a_server_that_is_down_is_no_artifact_store_that_takes_nothing(client, finished, monkeypatch):
    def vanish(*_, **__):
        raise MlflowException("nobody there")

    record, said = finished(), []
    files = Files(said.append)
    with monkeypatch.context() as patch:
        for name in ("log_artifact", "search_experiments"):
            patch.setattr(type(client), name, vanish)
        with pytest.raises(TrackingError, match="nobody there"):
            send(client, record, files=files)
    assert (said, all_runs(client)) == ([], [])
    assert send(client, record, files=files)
    assert "files_missing" not in all_runs(client)[0].data.tags


def test_whatever_stops_a_sending_no_run_is_left_running(client, finished, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    record = finished()
    with monkeypatch.context() as patch:
        patch.setattr(type(client), "log_inputs", stop)
        with pytest.raises(KeyboardInterrupt):
            send(client, record)
    assert all_runs(client) == []
    client.restore_experiment(delete_experiment(client))  # and with it all its runs
    assert len(all_runs(client)) == 1
    assert send(client, record)
    assert [run.info.status for run in all_runs(client)] == ["FINISHED"]
