"""`history.csv`: what every epoch measured, a row each, in full precision."""

import csv
import io
import math
from pathlib import Path

from dmlbench.errors import UserError

HISTORY = "history.csv"
LARGEST = 2**28  # bytes: a hundred thousand epochs
MOST_EPOCHS = 10**9
LONGEST = 1e10  # seconds
Row = dict[str, float | int | None]


def history_text(rows: list[Row]) -> str:
    """The CSV of a history: full precision, empty where nothing was measured, timing columns last."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    columns.sort(key=lambda key: key.startswith("time/"))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, restval="", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({key: "" if value is None else repr(value) for key, value in row.items()})
    return buffer.getvalue()


def read_history(folder: Path) -> list[Row]:
    """Read `history.csv` back, None where nothing was measured; empty where there is none.

    Raises:
        UserError: where the file is not a history.
    """
    path = folder / HISTORY
    try:
        columns, *lines = _lines(path)
        rows = [dict(zip(columns, map(_number, line), strict=True)) for line in lines]
        _check(columns, rows)
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError, csv.Error) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:100]
        raise UserError(f"{path}: not a readable history ({reason})") from error
    return rows


def _lines(path: Path) -> list[list[str]]:
    if path.stat().st_size > LARGEST:
        raise ValueError(f"has more than {LARGEST >> 20} MiB")
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file, strict=True))


def _check(columns: list[str], rows: list[Row]) -> None:
    """Raise ValueError where rows are none of a history."""
    if "epoch" not in columns:
        raise ValueError("no column `epoch`")
    if len(set(columns)) < len(columns):
        raise ValueError("a column stands twice")
    for row in rows:
        epoch = row["epoch"]
        if not (isinstance(epoch, int) and 0 <= epoch <= MOST_EPOCHS):
            raise ValueError("a row without its epoch")
        for key, value in row.items():
            if value is not None and not (math.isfinite(value) and (0 <= value <= LONGEST or key[:5] != "time/")):
                raise ValueError(f"epoch {epoch}: {key} is {value}")


def _number(text: str) -> float | int | None:
    if text == "":
        return None
    return int(text) if text.lstrip("-").isdigit() else float(text)
