"""Databases whose making was interrupted give way to new ones; those that may hold anything stay."""

import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing, suppress

import pytest

from dmlbench.tracking import TrackingError, connect, send
from tests.tracking.test_runs import all_runs

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of MLflow's own libraries
# Makes MLflow's database and is killed before one of its statements.
KILLED = """
import os, sys
import mlflow
from sqlalchemy import event
from sqlalchemy.engine import Engine
statements = 0
@event.listens_for(Engine, "before_cursor_execute")
def count(*_):
    global statements
    statements += 1
    if statements == int(sys.argv[1]):
        os._exit(9)
mlflow.MlflowClient("sqlite:///mlflow.db").search_experiments()
"""


@pytest.mark.parametrize("statement", [60, 400, 1660])
def test_a_store_that_was_killed_while_it_was_made_is_made_anew(in_folder, finished, statement):
    killed = subprocess.run([sys.executable, "-c", KILLED, str(statement)], check=False, capture_output=True)
    if killed.returncode == 0:
        pytest.skip("this release of MLflow makes its store in fewer statements")
    assert killed.returncode == 9
    said = []
    client = connect(said.append)
    (line,) = said
    assert line.startswith(f"MLflow: {in_folder / 'mlflow.db'} was left unfinished and holds no run; it is now ")
    assert line.endswith(" mlflow.db.unfinished, and a new one is made")
    assert (in_folder / "mlflow.db.unfinished").stat().st_size
    assert send(client, finished())
    assert len(all_runs(client)) == 1
    connect(said.append)
    assert len(said) == 1


def test_an_earlier_unfinished_one_is_kept(in_folder):
    (in_folder / "mlflow.db.unfinished").write_text("earlier")
    write(in_folder / "mlflow.db", "CREATE TABLE experiments (name TEXT)")
    connect()
    assert (in_folder / "mlflow.db.unfinished").read_text() == "earlier"
    assert (in_folder / "mlflow.db.unfinished1").is_file()


@pytest.mark.parametrize("statement", [
    "CREATE TABLE experiments (name TEXT); INSERT INTO experiments VALUES ('mine')",
    "CREATE TABLE experiments (name TEXT); CREATE TABLE runs (id TEXT); INSERT INTO runs VALUES ('mine')",
    "CREATE TABLE experiments (name TEXT); CREATE TABLE workspaces (name TEXT); INSERT INTO workspaces VALUES ('mine')",
    "CREATE TABLE another_program (name TEXT)",
])  # fmt: skip
def test_a_database_that_may_hold_anything_stays_as_it_is(in_folder, statement):
    write(in_folder / "mlflow.db", statement)
    said = []
    with suppress(TrackingError):  # what MLflow makes of it is another matter
        connect(said.append)
    assert said == []
    assert [path.name for path in in_folder.iterdir() if "unfinished" in path.name] == []


def test_a_store_without_runs_and_a_damaged_one_stay(in_folder, empty_database, monkeypatch):
    said = []
    shutil.copy(empty_database, in_folder / "mlflow.db")
    connect(said.append)
    (in_folder / "damaged.db").write_bytes(empty_database.read_bytes()[:5000] + bytes(5000))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///damaged.db")
    with pytest.raises(TrackingError):
        connect(said.append)
    assert said == []


def write(path, statements: str) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(statements)
