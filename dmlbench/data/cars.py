"""`cars`: Cars196 (Krause et al. 2013). Train and test are merged, then classes 1-98 train and 99-196 test.

The published links are dead, so users place one of three layouts: the original one (`car_ims/`, `cars_annos.mat`),
the split release (`cars_train/`, `cars_test/` and the annotations of its devkit), or a folder for each class, also
within `train/` and `test/`, as a usual copy has them.
"""

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from dmlbench.data.family import (
    LabelledFiles,
    Log,
    below,
    cache_dir,
    check_listed,
    files_below,
    is_image,
    labelled,
    some,
    tell_strays,
)
from dmlbench.errors import UserError

NAME = "cars"
VERSION = "Cars196 classes 1-98/99-196"
TRAIN_CLASSES = 98
CLASS_NAMES = tuple((Path(__file__).parent / "cars_classes.txt").read_text(encoding="utf-8").splitlines())
ORIGINAL = "cars_annos.mat"
SPLIT = {"cars_train": "cars_train_annos.mat", "cars_test": "cars_test_annos_withlabels.mat"}
CLASS_FOLDERS = ("cars", "Cars", "cars196", "Cars196", "CARS196", "stanford_cars")
SIDES = ("train", "test")  # as published: the class split needs both
SOME_CLASSES = 20  # from here on a folder is taken for one of classes
LAYOUTS = (
    "car_ims/ with cars_annos.mat (car_ims.tgz md5 d5c8f0aa497503f355e17dc7886c3f14, cars_annos.mat md5 "
    "b407c6086d669747186bd1d764ff9dbc); or cars_train/ and cars_test/ with cars_train_annos.mat (of the devkit, md5 "
    "c3b158d763b6e2245038c8ad08e45376) and cars_test_annos_withlabels.mat (md5 b0a2b23655a3edd16d84508592a98d10); "
    "or cars/<001..196 or class name>/*.jpg; or train/ and test/ with such folders"
)
PLACE = f"place {LAYOUTS}"
Row = tuple[int, str]  # class from 1, path from the root

_below = partial(below, hint=PLACE)


def prepare(data_dir: Path | None, log: Log) -> None:
    """Nothing can be downloaded, for no public link is left."""


def read(data_dir: Path | None, log: Log) -> tuple[LabelledFiles, LabelledFiles]:
    """Training and test classes, by class and then by path."""
    folder = data_dir or cache_dir()
    hint = f"the published links are dead; {PLACE}"
    if not folder.is_dir():
        raise UserError(f"{folder}: no such data folder", hint=hint)
    layouts = (layout(folder, log) for layout in (_original, _split, _by_class))
    root, rows = next((found for found in layouts if found), (folder, []))
    if not rows:
        raise UserError(f"{folder}: holds no layout of Cars196", hint=hint)
    sides = [[row for row in sorted(rows) if (row[0] <= TRAIN_CLASSES) == train] for train in (True, False)]
    train, test = (labelled(root, [(CLASS_NAMES[label - 1], path) for label, path in side]) for side in sides)
    return train, test


def _original(folder: Path, log: Log) -> tuple[Path, list[Row]] | None:
    """`car_ims/` next to `cars_annos.mat`, which gives the class of each image."""
    lists = [path for path in _below(folder, ORIGINAL) if (path.parent / "car_ims").is_dir()]
    if not lists:
        return None
    rows = list(_annotations(lists[0], "relative_im_path", "car_ims"))
    check_listed(NAME, lists[0].parent, ["car_ims"], [path for _, path in rows], log)
    return lists[0].parent, rows


def _split(folder: Path, log: Log) -> tuple[Path, list[Row]] | None:
    """`cars_train/` and `cars_test/`, whose annotations may be anywhere; some copies nest a folder in itself."""
    if not all(_below(folder, name) for name in SPLIT):
        return None
    rows: list[Row] = []
    folders = []
    for name, annotations in SPLIT.items():
        lists = _below(folder, annotations)
        if not lists:
            raise UserError(f"{folder}: holds {name}/ but not {annotations}", hint=PLACE)
        images = next((path for path in _below(folder, name) if any(path.glob("[!.]*.jpg"))), None)
        if images is None:
            raise UserError(f"{folder}: holds no images in {name}/", hint=PLACE)
        folders.append(images.relative_to(folder).as_posix())
        rows += _annotations(lists[0], "fname", folders[-1])
    check_listed(NAME, folder, folders, [path for _, path in rows], log)
    return folder, rows


def _by_class(folder: Path, log: Log) -> tuple[Path, list[Row]] | None:
    """A folder a class, by number (`001`, `001.AMG_Hummer`) or by name, whatever its spaces and slashes became."""
    roots = [*(path for name in CLASS_FOLDERS for path in _below(folder, name) if path.is_dir()), folder]
    layouts: list[tuple[Path, tuple[str, ...]]] = [(root, ("",)) for root in roots]
    layouts += [(path.parent, SIDES) for path in _below(folder, SIDES[0]) if (path.parent / SIDES[1]).is_dir()]
    incomplete = None
    for root, parts in layouts:
        known = _class_folders(root, parts)
        if missing := [name for number, name in enumerate(CLASS_NAMES, start=1) if number not in known.values()]:
            found = len(CLASS_NAMES) - len(missing)
            if found >= SOME_CLASSES and incomplete is None:
                what = f"{root}: holds {found} of {len(CLASS_NAMES)} class folders of Cars196"
                incomplete = UserError(what, hint=f"missing: {some(missing)}")
            continue
        there = [(name, path) for name in known for path in files_below(root, name)]
        rows = [(known[name], path) for name, path in there if is_image(Path(path))]
        tell_strays(NAME, root, {path for _, path in there} - {path for _, path in rows}, log)
        return root, rows
    if incomplete:
        raise incomplete
    return None


def _class_folders(root: Path, parts: tuple[str, ...]) -> dict[str, int]:
    """Folders of classes in some parts of a root, as paths from it, and the classes' numbers."""
    found = [path for part in parts if (root / part).is_dir() for path in (root / part).iterdir() if path.is_dir()]
    numbers = {path.relative_to(root).as_posix(): _class_number(path.name) for path in found}
    return {path: number for path, number in numbers.items() if number}


def _class_number(name: str) -> int | None:
    if numbered := re.match(r"(\d{1,3})(?!\d)", name):
        number = int(numbered[1])
        return number if 1 <= number <= len(CLASS_NAMES) else None
    return _NUMBERS.get(_letters(name))


def _letters(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


_NUMBERS = {_letters(name): number for number, name in enumerate(CLASS_NAMES, start=1)}


def _annotations(path: Path, field: str, folder: str) -> Iterator[Row]:
    """Class and image of every annotation of a MATLAB file."""
    from scipy.io import loadmat

    try:
        rows = [(str(entry[field][0]), int(entry["class"][0, 0])) for entry in loadmat(path)["annotations"][0]]
    except Exception as error:  # scipy raises nearly anything for a file that is none
        what = f"{path}: not the annotations of Cars196 ({type(error).__name__}: {error})"
        raise UserError(what, hint=PLACE) from error
    for name, label in rows:
        if not 1 <= label <= len(CLASS_NAMES):
            raise UserError(f"{path}: class {label} of {name} is not one of 1-{len(CLASS_NAMES)}")
        yield label, f"{folder}/{Path(name).name}"
