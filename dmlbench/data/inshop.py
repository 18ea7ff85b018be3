"""`inshop`: In-shop Clothes Retrieval of DeepFashion (Liu et al. 2016), split by item as published.

3,997 items train. The images of 3,985 others are queries, or the gallery in which these search. The images are given
to people who sign an agreement, so users place them: `list_eval_partition.txt` and the folder `img/` of the release
(`Img/img.zip`), as `Eval/` and `Img/` next to each other, or together.
"""

from pathlib import Path

from dmlbench.data.family import (
    LabelledFiles,
    Log,
    Row,
    below,
    cache_dir,
    check_listed,
    read_lines,
    sides_by_role,
)
from dmlbench.errors import UserError

NAME = "inshop"
VERSION = "In-shop Clothes Retrieval list_eval_partition"
LIST = "list_eval_partition.txt"  # other benchmarks of DeepFashion have lists of this name, with other columns
IMAGES = "img"
COLUMNS = ["image_name", "item_id", "evaluation_status"]
STATUS = ("train", "query", "gallery")
PLACE = (
    f"place Eval/{LIST} and Img/{IMAGES}/ (Img/img.zip, extracted) of DeepFashion's In-shop Clothes Retrieval "
    "Benchmark, which its authors give to those who sign their agreement"
)


def prepare(data_dir: Path | None, log: Log) -> None:
    """Nothing can be downloaded: the release needs an agreement."""


def read(data_dir: Path | None, log: Log) -> tuple[LabelledFiles, LabelledFiles]:
    """Training items, and queries with their gallery, by item and then by path."""
    folder = data_dir or cache_dir()
    if not folder.is_dir():
        raise UserError(f"{folder}: no such data folder", hint=PLACE)
    found = below(folder, LIST, hint=PLACE)
    partition = next((path for path in found if path.is_file() and _columns(path) == COLUMNS), None)
    if partition is None:
        other = f" (but {found[0]}, of another benchmark: its line 2 is not {' '.join(COLUMNS)!r})" if found else ""
        raise UserError(f"{folder}: holds no {LIST} of In-Shop{other}", hint=PLACE)
    rows = _rows(partition)
    root = _root(partition, rows)
    check_listed(NAME, root, [IMAGES], [path for _, _, path in rows], log)
    return sides_by_role(NAME, root, rows)


def _columns(path: Path) -> list[str]:
    return (read_lines(path)[1:2] or [""])[0].split()


def _rows(path: Path) -> list[Row]:
    """Role, item and path, by item and then by path; raises UserError for a line that is none."""
    count, _, *lines = read_lines(path)
    rows = []
    for number, line in enumerate(lines, start=3):
        columns = line.split()
        if not columns:
            continue
        if len(columns) != len(COLUMNS) or columns[2] not in STATUS or not columns[0].startswith(f"{IMAGES}/"):
            wanted = f"{COLUMNS[0]} ({IMAGES}/...), {COLUMNS[1]} and one of {', '.join(STATUS)}"
            raise UserError(f"{path}: line {number}: must hold {wanted}, not {line!r}")
        rows.append((columns[2], columns[1], columns[0]))
    if count.strip() != str(len(rows)):
        raise UserError(f"{path}: line 1: says {count.strip()!r} images, and lists {len(rows)}", hint="obtain it again")
    return sorted(rows, key=lambda row: row[1:])


def _root(partition: Path, rows: list[Row]) -> Path:
    """The folder from which listed paths start: the list's, the release's, or `Img/` of either."""
    near = [partition.parent, partition.parent.parent]
    # An archive that was extracted into a folder of its own name gives img/img/.
    candidates = [folder / inner for folder in near for inner in ("", "Img", IMAGES, f"Img/{IMAGES}")]
    there = [folder for folder in candidates if (folder / IMAGES).is_dir()]
    if not there:
        raise UserError(f"{partition}: no folder {IMAGES}/ or Img/{IMAGES}/ near it", hint=PLACE)
    first = rows[0][2] if rows else ""
    return next((folder for folder in there if (folder / first).is_file()), there[0])
