"""Where runs go: URIs that survive any folder's name, and what of them is never shown."""

from pathlib import Path

import pytest
from mlflow import MlflowClient

from dmlbench.tracking import TrackingError, connect, local_database, redacted, send, tracking_uri, without_credentials

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of MLflow's own libraries


@pytest.mark.parametrize("name", ["50% done #1", "50%25", "what? a=b&c", "a b"])
def test_all_that_is_written_stays_in_a_folder_whatever_its_name(in_folder, monkeypatch, finished, name):
    folder = in_folder / "outer" / name
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    record = finished()
    assert send(connect(), record)
    assert local_database(tracking_uri()) == folder / "mlflow.db"
    assert [path.name for path in (in_folder / "outer").iterdir()] == [name]
    assert sorted(path.name for path in folder.iterdir()) == [".mlflow.db.lock", "mlflow.db", "mlruns"]
    (sent,) = folder.glob("mlruns/**/artifacts/spec.yaml")
    client = MlflowClient(tracking_uri())
    (run,) = client.search_runs(
        [client.get_experiment_by_name("dmlbench/tiny/glyphs").experiment_id], "tags.kind = 'cell'"
    )
    fetched = Path(client.download_artifacts(run.info.run_id, "spec.yaml", str(in_folder)))
    assert fetched.read_text() == sent.read_text()
    assert not send(connect(), record)


@pytest.mark.parametrize(
    ("uri", "file"),
    [
        ("sqlite:///mlflow.db", "mlflow.db"),
        ("sqlite:////abs/mlflow.db", "/abs/mlflow.db"),
        ("sqlite+pysqlite:////abs/mlflow.db", "/abs/mlflow.db"),
        ("sqlite://", None),
        ("sqlite:///:memory:", None),
        ("sqlite://host/x.db", None),
        ("postgresql://user@host/db", None),
        ("http://host", None),
        ("file:///folder", None),
    ],
)
def test_the_file_of_a_local_database(uri, file):
    assert local_database(uri) == (file and Path(file))


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        ("to http://user:***@host:80/x failed", "to http://user:hunter2secret@host:80/x failed"),
        ("postgresql://u:***@h/db", "postgresql://u:p@h/db"),
        ("postgresql://user:***@host/db", "postgresql://user:se/cret@host/db"),
        ("http://h/x?token=***&a=b", "http://h/x?token=abcdef&a=b"),
        ("(http://h/?access_key=***)", "(http://h/?access_key=abc)"),
        ("http://h/?workflowType=machine_learning", "http://h/?workflowType=machine_learning"),
        ("a colon: and an @ sign", "a colon: and an @ sign"),
    ],
)
def test_passwords_and_tokens_of_uris_are_hidden(shown, text):
    assert redacted(text) == shown


@pytest.mark.parametrize("uri", ["http://user:hunter%2Fsecret@127.0.0.1:9", "http://127.0.0.1:9/?token=hunter/secret"])
def test_secrets_of_the_store_are_hidden_wherever_they_stand(monkeypatch, uri):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "longer-token")
    text = "refused 'hunter/secret' and hunter%2Fsecret, with longer-token"
    assert redacted(text).replace("hunter%2Fsecret", "***") == "refused '***' and ***, with ***"
    assert "secret" not in str(TrackingError(f"{uri} does not answer"))


def test_a_server_s_address_for_a_browser_has_no_password():
    assert without_credentials("https://user:pass@host:80/ml/?token=x") == "https://host:80/ml"
