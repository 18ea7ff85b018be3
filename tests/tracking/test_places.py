"""Where runs go: URIs that survive any folder's name, and what of them is never shown."""

import shutil
from pathlib import Path

import pytest
from filelock import FileLock
from mlflow import MlflowClient
from sqlalchemy import make_url

from dmlbench.tracking import TrackingError, connect, local_database, redacted, send, tracking_uri, without_credentials

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of MLflow's own libraries


@pytest.mark.parametrize("name", ["50% done #1", "50%25", "what? a=b&c", "a b", "ä+,[@](') :$;"])
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


def spellings(folder: Path) -> list[str]:
    """URIs of one database in a folder with a blank: plain, encoded, relative, by a symbolic link, with a setting."""
    (folder.parent / "link").symlink_to(folder)
    (folder / "link.db").symlink_to(folder / "mlflow.db")
    quoted = str(folder).replace(" ", "%20")
    return [
        f"sqlite:///{folder}/mlflow.db",
        f"sqlite:///{quoted}/mlflow.db",
        f"sqlite+pysqlite:///{quoted}/mlflow.db",
        f"sqlite:///{folder.parent}/link/mlflow.db",
        f"sqlite:///{folder}/link.db",
        "sqlite:///mlflow.db",
        "sqlite:///./mlflow.db?timeout=20",
    ]


@pytest.mark.skipif("%20" in str(make_url("sqlite:///a%20b").database), reason="this SQLAlchemy decodes no path")
def test_all_uris_of_a_database_take_one_lock_and_make_no_folder(in_folder, monkeypatch, empty_database):
    folder = in_folder / "outer" / "a b"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    shutil.copy(empty_database, folder / "mlflow.db")
    given = spellings(folder)
    monkeypatch.setattr("dmlbench.tracking.connection.LOCK_SECONDS", 0.1)
    connect()  # by the default URI, which makes the lock
    for uri in given:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        connect()
        with FileLock(folder / ".mlflow.db.lock"), pytest.raises(TrackingError, match="could not be acquired"):
            connect()
    assert sorted(path.name for path in (in_folder / "outer").iterdir()) == ["a b", "link"]
    assert sorted(path.name for path in folder.iterdir()) == [".mlflow.db.lock", "link.db", "mlflow.db"]


@pytest.mark.parametrize(
    ("uri", "file"),
    [
        ("sqlite:///mlflow.db", "mlflow.db"),
        ("sqlite:///mlflow.db?timeout=20", "mlflow.db"),
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
