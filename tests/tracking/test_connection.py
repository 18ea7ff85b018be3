"""Stores that cannot be used: one line that says why, and what to do."""

import shutil
import sqlite3
from contextlib import closing

import pytest

from dmlbench.tracking import TrackingError, connect

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of MLflow's own libraries
ELSEWHERE = "name another store with MLFLOW_TRACKING_URI"


def refusal() -> str:
    with pytest.raises(TrackingError) as caught:
        connect()
    assert "\n" not in caught.value.brief
    return caught.value.brief


@pytest.mark.parametrize(
    ("uri", "parts"),
    [
        ("mysql+pymysql://u:hunter2@127.0.0.1/db", ("No module named 'pymysql'", f"package, or {ELSEWHERE})")),
        ("mssql+pyodbc://u:hunter2@h/db", ("No module named 'pyodbc'", "install that package")),
        ("sqlite://abs.db", ("Invalid SQLite URL: sqlite://abs.db", ELSEWHERE)),
        ("sqlite:///bad.db", ("file is not a database", ELSEWHERE)),
        ("nonsense://x", ("unsupported URI 'nonsense://x'", ELSEWHERE)),
        ("http://u:hunter2@127.0.0.1:9", ("API request to http://u:***@127.0.0.1:9/", "(start the server, or ")),
        ("http://[::1", ("", ELSEWHERE)),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_store_and_what_to_do(in_folder, monkeypatch, uri, parts):
    (in_folder / "bad.db").write_bytes(bytes(range(256)) * 20)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setattr("mlflow.store.db.utils.MAX_RETRY_COUNT", 1)  # it would try for a minute
    said = refusal()
    assert "hunter2" not in said
    for part in parts:
        assert part in said


def test_a_store_of_files_is_given_its_way_into_a_database(in_folder):
    (in_folder / "mlruns" / "0").mkdir(parents=True)
    (in_folder / "mlruns" / "0" / "meta.yaml").write_text(
        f"artifact_location: file://{in_folder}/mlruns/0\ncreation_time: 1600000000000\nexperiment_id: '0'\n"
        "last_update_time: 1600000000000\nlifecycle_stage: active\nname: Default\n"
    )
    said = refusal()
    assert "MLFLOW_TRACKING_URI=sqlite:///mlflow.db begins a new store" in said
    assert "`mlflow migrate-filestore --source FOLDER --target sqlite:///mlflow.db`" in said
    assert "start the server" not in said


def test_a_database_of_another_release_is_to_be_upgraded(in_folder, empty_database):
    database = in_folder / "mlflow.db"
    shutil.copy(empty_database, database)
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'acf3f17fdcc7'")
        connection.commit()
    said = refusal()
    assert said.endswith(f"(keep a copy of it, then `mlflow db upgrade sqlite:///{database}`)")
    assert [path.name for path in in_folder.iterdir() if "unfinished" in path.name] == []
