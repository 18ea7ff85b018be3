"""`inat`: iNaturalist 2018 with the class split of Smooth-AP (Brown et al., ECCV 2020, arXiv 2007.12163).

5,690 species train and the other 2,452 are tested, training and validation images of the competition together. Users
place the images, `train_val2018/<supercategory>/<category>/*.jpg`, and the lists of the split in
`Inat_dataset_splits/`, as the official code (Andrew-Brown1/Smooth_AP, src/datasets.py) reads them: one path a line,
whose last two folders are the class.
"""

from pathlib import Path

from dmlbench.data.family import LabelledFiles, Log, Row, below, cache_dir, check_listed, read_lines, sides_by_role
from dmlbench.errors import UserError

NAME = "inat"
VERSION = "iNaturalist 2018 Inaturalist_train_set1/Inaturalist_test_set1"
LISTS = {"train": "Inaturalist_train_set1.txt", "test": "Inaturalist_test_set1.txt"}
IMAGES = "train_val2018"
SPLITS = "Inat_dataset_splits"
PLACE = (
    f"place {IMAGES}/ (train_val2018.tar.gz of github.com/visipedia/inat_comp, 2018) and {SPLITS}/ with "
    f"{' and '.join(LISTS.values())} (linked by github.com/Andrew-Brown1/Smooth_AP)"
)


def prepare(data_dir: Path | None, log: Log) -> None:
    """Nothing is downloaded: the split is published apart from the images."""


def read(data_dir: Path | None, log: Log) -> tuple[LabelledFiles, LabelledFiles]:
    """Training and test species, by class and then by path."""
    folder = data_dir or cache_dir()
    if not folder.is_dir():
        raise UserError(f"{folder}: no such data folder", hint=PLACE)
    lists = {side: next(iter(below(folder, name, hint=PLACE)), None) for side, name in LISTS.items()}
    roots = [path.parent for path in below(folder, IMAGES, hint=PLACE) if path.is_dir()]
    for what, found in {**{LISTS[side]: path for side, path in lists.items()}, f"{IMAGES}/": roots}.items():
        if not found:
            raise UserError(f"{folder}: holds no {what}", hint=PLACE)
    rows = [row for side, path in lists.items() if path for row in _rows(side, path)]
    check_listed(NAME, roots[0], [IMAGES], [path for _, _, path in rows], log)
    return sides_by_role(NAME, roots[0], rows)


def _rows(side: str, path: Path) -> list[Row]:
    """Role, class and path, by class and then by path; raises UserError for a line that is none."""
    rows = []
    for number, line in enumerate(read_lines(path), start=1):
        if not (image := line.strip()):
            continue
        parts = image.split("/")
        if len(parts) != 4 or parts[0] != IMAGES or ".." in parts:
            what = f"{path}: line {number}: must be {IMAGES}/SUPERCATEGORY/CATEGORY/IMAGE, not {image!r}"
            raise UserError(what, hint=PLACE)
        rows.append((side, f"{parts[1]}/{parts[2]}", image))
    return sorted(rows, key=lambda row: row[1:])
