"""Stores that cannot be used: one line that says why, and what to do."""

import logging
import os
import shutil
import sqlite3
from contextlib import closing

import pytest
from mlflow.store.db import utils

from dmlbench.tracking import TrackingError, connect, send
from tests.tracking.servers import hanging, postgresql, postgresql_programs, refusing

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of MLflow's own libraries
ELSEWHERE = "name another store with MLFLOW_TRACKING_URI"


@pytest.fixture(autouse=True)
def one_try(monkeypatch):
    """MLflow waits between its ten tries at a database, for a hundred seconds in all; nobody is to wait for them."""

    class Clock:
        @staticmethod
        def sleep(seconds: float) -> None:
            pytest.fail(f"MLflow waits {seconds} seconds to try again")

    monkeypatch.setattr(utils, "time", Clock)


def refusal() -> str:
    with pytest.raises(TrackingError) as caught:
        connect()
    assert "\n" not in caught.value.brief
    return caught.value.brief


@pytest.mark.parametrize(
    ("uri", "parts"),
    [
        ("mysql+pymysql://u:hunter2@127.0.0.1/db", ("No module named 'pymysql'", f"its package, or {ELSEWHERE})")),
        ("mssql+pyodbc://u:hunter2@h/db", ("No module named 'pyodbc'", "install its package")),
        ("postgresql://u:hunter2@127.0.0.1:9/db", ('"127.0.0.1", port 9 failed: Connection refused; Is ', ELSEWHERE)),
        ("sqlite://abs.db", ("Invalid SQLite URL: sqlite://abs.db", "sqlite:////absolute/path/to/file.db", ELSEWHERE)),
        ("sqlite:///bad.db", ("bad.db: file is not a database (name", ELSEWHERE)),
        ("sqlite:///some", ("some: a folder, not a database", ELSEWHERE)),
        ("sqlite:///no/file/where/a/file/is", ("Not a directory", ELSEWHERE)),
        ("nonsense://x", ("unsupported URI 'nonsense://x'", "supported backend storage locations", ELSEWHERE)),
        ("http://u:hunter2@127.0.0.1:9", ("API request to http://u:***@127.0.0.1:9/", "(start the server, or ")),
        ("http://[::1", ("", ELSEWHERE)),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_store_and_what_to_do(in_folder, monkeypatch, uri, parts):
    (in_folder / "bad.db").write_bytes(bytes(range(256)) * 20)
    (in_folder / "some").mkdir()
    (in_folder / "no").write_text("a file")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    said = refusal()
    assert "hunter2" not in said
    for part in parts:
        assert part in said
    assert "sqlalche.me" not in said
    assert "SELECT" not in said
    assert not list(in_folder.glob(".some*"))


@pytest.mark.skipif(not os.path.ismount("/proc"), reason="without a file system where no file can be made")
def test_a_lock_that_cannot_be_made_is_not_waited_for(in_folder, monkeypatch):
    monkeypatch.setattr("dmlbench.tracking.connection.LOCK_SECONDS", 0.1)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////proc/x.db")
    assert "No such file or directory: '/proc/.x.db.lock'" in refusal()


def test_a_database_server_that_takes_connections_and_says_nothing_is_given_up(in_folder, monkeypatch):
    monkeypatch.setenv("PGCONNECT_TIMEOUT", "2")  # the least it can be
    with hanging() as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address.replace("http:", "postgresql:") + "/db")
        assert "timeout expired" in refusal()


def test_an_unset_limit_for_database_servers_is_set_and_a_users_stays(in_folder, monkeypatch):
    monkeypatch.delenv("PGCONNECT_TIMEOUT", raising=False)
    connect()
    assert 0 < int(os.environ["PGCONNECT_TIMEOUT"]) <= 10
    monkeypatch.setenv("PGCONNECT_TIMEOUT", "77")
    connect()
    assert os.environ["PGCONNECT_TIMEOUT"] == "77"


def test_a_database_server_that_vanishes_is_one_line_and_nothing_in_the_log(in_folder, monkeypatch, finished, caplog):
    programs = postgresql_programs()
    if programs is None:
        pytest.skip("PostgreSQL's server programs are not installed")
    with postgresql(programs) as uri:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        client = connect()
        assert send(client, finished())
    with caplog.at_level(logging.NOTSET), pytest.raises(TrackingError) as caught:
        send(client, finished(seed=1))
    assert "Connection refused; Is the server running on that host" in caught.value.brief
    assert "sqlalche.me" not in caught.value.brief
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_a_server_that_runs_and_refuses_is_not_to_be_started(in_folder, monkeypatch):
    with refusing() as uri:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        said = refusal()
    assert "error code 403" in said
    assert said.endswith(f"({ELSEWHERE})")


def test_a_store_of_files_is_given_its_way_into_a_database(in_folder):
    (in_folder / "mlruns" / "0").mkdir(parents=True)
    (in_folder / "mlruns" / "0" / "meta.yaml").write_text(
        f"artifact_location: file://{in_folder}/mlruns/0\ncreation_time: 1600000000000\nexperiment_id: '0'\n"
        "last_update_time: 1600000000000\nlifecycle_stage: active\nname: Default\n"
    )
    said = refusal()
    assert "MLFLOW_TRACKING_URI=sqlite:///mlflow.db begins a new store" in said
    assert "`mlflow migrate-filestore --source FOLDER --target sqlite:///mlflow.db`" in said
    assert "MLFLOW_ALLOW_FILE_STORE=true keeps the old store" in said
    assert "start the server" not in said


def test_a_database_of_another_release_is_to_be_upgraded(in_folder, empty_database):
    database = in_folder / "mlflow.db"
    shutil.copy(empty_database, database)
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'acf3f17fdcc7'")
        connection.commit()
    said = refusal()
    assert said.endswith(
        f"(keep a copy of it, then `mlflow db upgrade sqlite:///{database}`; where a newer MLflow made it, install "
        "that one)"
    )
    assert [path.name for path in in_folder.iterdir() if "unfinished" in path.name] == []
