"""`cub`: CUB-200-2011 (Wah et al. 2011). Classes 1-100 train, 101-200 test; its own train/test list is not used."""

from pathlib import Path

from dmlbench.data.archives import Archive, Release
from dmlbench.data.family import LabelledFiles, Log, check_listed, labelled, read_lines
from dmlbench.errors import UserError

NAME = "cub"
VERSION = "CUB_200_2011 classes 1-100/101-200"
TRAIN_CLASSES = 100
RELEASE = Release(
    NAME,
    Archive(
        name="CUB_200_2011.tgz",
        url="https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz",
        checksum="md5:97eceeb196236b17998738112f37df78",
        folder="CUB_200_2011",
        gibibytes=1.1,
    ),
    marks=("image_class_labels.txt", "images.txt", "images"),
)
prepare, fetch = RELEASE.prepare, RELEASE.fetch


def read(data_dir: Path | None, log: Log) -> tuple[LabelledFiles, LabelledFiles]:
    """Training and test classes, by class and then by path."""
    root = RELEASE.root(data_dir, log)
    paths = _table(root / "images.txt")
    classes = {image: int(label) for image, label in _table(root / "image_class_labels.txt").items()}
    if paths.keys() != classes.keys():
        raise UserError(f"{root}: images.txt and image_class_labels.txt list different images")
    rows = sorted((classes[image], f"images/{path}") for image, path in paths.items())
    check_listed(NAME, root, ["images"], [path for _, path in rows], log)
    sides = [[row for row in rows if (row[0] <= TRAIN_CLASSES) == train] for train in (True, False)]
    train, test = (labelled(root, [(path.split("/")[1], path) for _, path in side]) for side in sides)
    return train, test


def _table(path: Path) -> dict[str, str]:
    """Two columns, the first of them the image's number."""
    table = {}
    for number, line in enumerate(read_lines(path), start=1):
        first, _, second = line.strip().partition(" ")
        if not first.isdigit() or not second or (path.name != "images.txt" and not second.isdigit()):
            raise UserError(f"{path}: line {number}: must be an image's number and its value, not {line!r}")
        table[first] = second
    return table
