"""`history.csv`: what every epoch measured, a row each, in full precision."""

import csv
import io
from pathlib import Path

from dmlbench.errors import UserError

HISTORY = "history.csv"
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
        with path.open(newline="", encoding="utf-8") as file:
            columns, *lines = csv.reader(file, strict=True)
        rows = [dict(zip(columns, map(_number, line), strict=True)) for line in lines]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError, csv.Error) as error:
        raise UserError(f"{path}: not a readable history ({str(error).splitlines()[0]})") from error
    if any("epoch" not in row for row in rows):
        raise UserError(f"{path}: not a history (no column `epoch`)")
    if not all(isinstance(row["epoch"], int) for row in rows):
        raise UserError(f"{path}: not a history (a row without its epoch)")
    return rows


def _number(text: str) -> float | int | None:
    if text == "":
        return None
    return int(text) if text.lstrip("-").isdigit() else float(text)
