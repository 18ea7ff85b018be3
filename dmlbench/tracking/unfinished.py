"""A local database whose making was interrupted: no release of MLflow opens it, and it never held a run."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from itertools import count
from pathlib import Path

VERSION, EXPERIMENTS = "alembic_version", "experiments"  # the second has MLflow's own "Default" in every whole store
# Rows that MLflow makes before a store is whole: its version, and the one workspace.
ITS_OWN = {VERSION: "1 = 1", "workspaces": "name = 'default'"}
BELONGING = ("", "-journal", "-wal", "-shm")  # SQLite's own files beside a database


def set_aside(database: Path, tell: Callable[[str], None]) -> None:
    """Rename a database that was never whole, so that a new one takes its place; any other is left as it is.

    Args:
        database: The file, which need not be there.
        tell: Takes a line that says so.
    """
    if not database.is_file() or not was_never_whole(database):
        return
    names = (database.with_name(f"{database.name}.unfinished{number or ''}") for number in count())
    target = next(path for path in names if not path.exists())
    for ending in reversed(BELONGING):  # the database last: until then the next attempt finds the same
        belonging = database.with_name(database.name + ending)
        if belonging.is_file():
            belonging.rename(target.with_name(target.name + ending))
    tell(f"MLflow: {database} was left unfinished and holds no run; it is now {target.name}, and a new one is made")


def was_never_whole(database: Path) -> bool:
    """Whether a database has MLflow's tables, and not a single row in them that another than MLflow can have made.

    One that cannot be read is taken for whole: it may hold something.
    """
    try:
        # Not read-only, for an interrupted transaction has to be rolled back before anything can be said.
        with closing(sqlite3.connect(f"{database.absolute().as_uri()}?mode=rw", uri=True, timeout=5.0)) as connection:
            tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            known = VERSION in tables or EXPERIMENTS in tables
            return known and not any(_holds_more(connection, table) for table in tables)
    except sqlite3.Error:
        return False


def _holds_more(connection: sqlite3.Connection, table: str) -> bool:
    quoted, own = table.replace('"', '""'), ITS_OWN.get(table, "1 = 0")
    query = f'SELECT 1 FROM "{quoted}" WHERE NOT ({own}) LIMIT 1'  # noqa: S608 - a table's name, and a text of ours
    return connection.execute(query).fetchone() is not None
