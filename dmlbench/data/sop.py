"""`sop`: Stanford Online Products (Song et al. 2016), split by classes as published: 11,318 train, 11,316 test."""

from pathlib import Path

from dmlbench.data.archives import Archive, Release
from dmlbench.data.family import LabelledFiles, Log, check_listed, labelled, read_lines
from dmlbench.errors import UserError

NAME = "sop"
VERSION = "Stanford_Online_Products Ebay_train/Ebay_test"
LISTS = ("Ebay_train.txt", "Ebay_test.txt")
COLUMNS = ["image_id", "class_id", "super_class_id", "path"]
RELEASE = Release(
    NAME,
    Archive(
        name="Stanford_Online_Products.zip",
        url="http://ftp.cs.stanford.edu/cs/cvgl/Stanford_Online_Products.zip",
        checksum="md5:7f73d41a2f44250d4779881525aea32e",
        folder="Stanford_Online_Products",
        gibibytes=2.9,
    ),
    marks=LISTS,
)
prepare, fetch = RELEASE.prepare, RELEASE.fetch


def read(data_dir: Path | None, log: Log) -> tuple[LabelledFiles, LabelledFiles]:
    """Training and test classes in the order of the published lists."""
    root = RELEASE.root(data_dir, log)
    train, test = (labelled(root, _rows(root / name)) for name in LISTS)
    folders = {path.split("/")[0] for path in train.paths + test.paths}
    check_listed(NAME, root, sorted(folders), train.paths + test.paths, log)
    return train, test


def _rows(path: Path) -> list[tuple[str, str]]:
    """(class name, path) by class number, then in the order of the list."""
    header, *lines = read_lines(path) or [""]
    if header.split() != COLUMNS:
        raise UserError(f"{path}: line 1: must be {' '.join(COLUMNS)!r}, not {header!r}")
    rows = []
    for number, line in enumerate(lines, start=2):
        columns = line.split()
        if len(columns) != len(COLUMNS) or not all(column.isdigit() for column in columns[:3]) or "/" not in columns[3]:
            raise UserError(f"{path}: line {number}: must hold {', '.join(COLUMNS)}, not {line!r}")
        kind = columns[3].split("/")[0].removesuffix("_final")
        rows.append((int(columns[1]), f"{kind} {columns[1]}", columns[3]))
    rows.sort(key=lambda row: row[0])
    return [(name, image) for _, name, image in rows]
