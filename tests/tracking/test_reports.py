import pytest

from dmlbench.tracking import TrackingError, send, send_report
from tests.tracking.test_runs import EXPERIMENT, all_runs

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of MLflow's own libraries


@pytest.fixture
def report(client, finished, tmp_path):
    """Makes the folder of a report on a result that was sent."""
    send(client, finished())

    def make(name="first", title="first"):
        folder = tmp_path / "reports" / name
        for part in ("figures", "tables"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        (folder / "index.html").write_text(f"<title>{title}</title>")
        (folder / "figures" / "curves.svg").write_text("<svg/>")
        (folder / "tables" / "cells.csv").write_text("protocol,dataset,method\ntiny,glyphs,ms\ntiny,glyphs,ms+psd\n")
        return folder

    return make


def files(client, run, path=None) -> set[str]:
    found = client.list_artifacts(run.info.run_id, path)
    return {name for file in found for name in (files(client, run, file.path) if file.is_dir else {file.path})}


def test_a_report_is_the_artifacts_of_a_run(client, report):
    folder = report()
    assert send_report(client, folder) == [EXPERIMENT]
    (run,) = all_runs(client, "report")
    assert (run.info.run_name, run.info.status) == ("report first", "FINISHED")
    assert (run.data.tags["dataset"], run.data.tags["protocol"]) == ("glyphs", "tiny")
    assert "cell" not in run.data.tags
    below = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert files(client, run) == below
    assert {"index.html", "figures/curves.svg", "tables/cells.csv"} <= below


def test_a_report_takes_the_place_of_the_earlier_one_of_its_name(client, report):
    send_report(client, report("other"))
    send_report(client, report())
    (before,) = (run for run in all_runs(client, "report") if run.data.tags["report"] == "first")
    send_report(client, report())
    assert before.info.run_id in {run.info.run_id for run in all_runs(client, "report")}  # it is the same
    send_report(client, report(title="second"))
    found = {run.info.run_name: run.info.run_id for run in all_runs(client, "report")}
    assert sorted(found) == ["report first", "report other"]
    assert len(all_runs(client, "report")) == 2
    assert found["report first"] != before.info.run_id


def test_the_description_names_the_reports_and_keeps_what_people_wrote(client, report):
    experiment = client.get_experiment_by_name(EXPERIMENT).experiment_id

    def note() -> str:
        return client.get_experiment(experiment).tags["mlflow.note.content"]

    folder, before = report(), note()
    send_report(client, folder)
    client.set_experiment_tag(experiment, "mlflow.note.content", note() + "\nMine.")
    send_report(client, report("other"))
    send_report(client, report(title="second"))
    runs = {run.data.tags["report"]: run.info.run_id for run in all_runs(client, "report")}
    links = "".join(
        f" · [report {name}](#/experiments/{experiment}/runs/{runs[name]}/artifacts)" for name in sorted(runs)
    )
    first, rest = before.split("\n", 1)
    assert note() == f"{first}{links}\n{rest}\nMine."


def test_an_experiment_that_was_never_sent_gets_none(client, report):
    folder = report()
    cells = folder / "tables" / "cells.csv"
    cells.write_text(cells.read_text().replace("glyphs", "elsewhere"))
    assert send_report(client, folder) == []


def test_a_folder_without_a_report_is_refused(client, tmp_path):
    with pytest.raises(TrackingError, match="not a report"):
        send_report(client, tmp_path)


def test_a_report_that_does_not_get_through_leaves_no_run(client, report, monkeypatch):
    def refuse(*_):
        raise OSError("disk full")

    monkeypatch.setattr(type(client), "log_artifacts", refuse)
    with pytest.raises(TrackingError, match="disk full"):
        send_report(client, report())
    assert all_runs(client, "report") == []


def test_an_experiment_that_takes_no_report_keeps_it_from_no_other(client, report, finished, make_cell, monkeypatch):
    other, real = "dmlbench/tiny/mine", type(client).log_artifacts
    send(client, finished(cell=make_cell(dataset="mine")))
    folder = report()
    (folder / "tables" / "cells.csv").write_text("protocol,dataset\ntiny,glyphs\ntiny,mine\n")

    def refuse(self, run_id, *args):
        if client.get_run(run_id).data.tags["dataset"] == "glyphs":
            raise OSError("disk full")
        return real(self, run_id, *args)

    refused = {}
    with monkeypatch.context() as patch:
        patch.setattr(type(client), "log_artifacts", refuse)
        assert send_report(client, folder, refused.__setitem__) == [other]
    assert {name: error.brief for name, error in refused.items()} == {
        EXPERIMENT: f"the artifact store of {EXPERIMENT} does not take files: disk full"
    }
    experiment = client.get_experiment_by_name(EXPERIMENT).experiment_id
    client.delete_experiment(experiment)
    client.restore_experiment(experiment)  # and with it all its runs
    assert [run.info.status for run in all_runs(client, "report")] == ["FAILED"]
    client.delete_experiment(client.get_experiment_by_name(other).experiment_id)
    refused.clear()
    assert send_report(client, folder, refused.__setitem__) == [EXPERIMENT]
    assert {name: str(error) for name, error in refused.items()} == {other: f"the experiment {other} has been deleted"}
    assert [run.info.status for run in all_runs(client, "report")] == ["FINISHED"]
