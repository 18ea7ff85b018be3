"""Datasets that the user declares, by ``name=path/to/images`` or a YAML file: any `root/<class>/*.jpg`.

Half of the sorted classes train, the rest test, unless a split is declared, or the folder itself has one: `train/` and
`test/`, or `train/`, `query/` and `gallery/`, each with a folder for each class.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from dmlbench.data.family import (
    LabelledFiles,
    Log,
    composed,
    is_image,
    labelled,
    sides_by_role,
    some,
    tell_strays,
)
from dmlbench.data.listed import ListedImages
from dmlbench.errors import UserError, counted, inflected, unknown_name
from dmlbench.specs.dataset import FolderSplit, Section
from dmlbench.specs.yaml_files import path_of, read_yaml, validate

HALF = FolderSplit()
LAYOUTS = (("train", "query", "gallery"), ("train", "test"))  # folders that split what is below them

ONE_LAYOUT = "train/ and test/, or train/, query/ and gallery/: move other images away"


@dataclass(frozen=True)
class ImageFolder:
    """A dataset family of one folder.

    `root` holds a folder for each class, or links to such; deeper folders, hidden files and other kinds of files are
    ignored. Or it holds the folders of one of `LAYOUTS`, with such folders in each.
    """

    name: str
    root: Path
    split: FolderSplit = HALF

    def prepare(self, data_dir: Path | None, log: Log) -> None:
        """Nothing has to be prepared: the folder is the user's."""

    def read(self, data_dir: Path | None, log: Log) -> tuple[LabelledFiles, LabelledFiles]:  # noqa: ARG002
        """Training and test classes, by class and then by file name, both in composed form (NFC).

        Raises:
            UserError: no such folder, one that cannot be read, fewer than two classes with images for a side, a class
                of the split missing, two folders of one name.
        """
        if not self.root.is_dir():
            hint = f"{self.name}=FOLDER names a folder that holds a folder for each class"
            raise UserError(f"{self.name}: {self.root}: no such folder", hint=hint)
        try:
            layout = next((names for names in LAYOUTS if all(map(self._has_classes, names))), None)
            return self._by_role(layout, log) if layout else self._by_class(log)
        except OSError as error:
            what = f"{self.name}: {error.filename}: cannot be read ({error.strerror})"
            raise UserError(what, hint="check its permissions") from error

    def _has_classes(self, name: str) -> bool:
        """Whether a folder holds folders, and no image that would make it a class."""
        folder = self.root / name
        there = list(folder.iterdir()) if folder.is_dir() else []
        return any(entry.is_dir() for entry in there) and not any(is_image(e) and e.is_file() for e in there)

    def _has_labelled(self, name: str) -> bool:
        """Whether a folder that is not hidden holds folders with images."""
        folders = [] if name.startswith(".") or not self._has_classes(name) else (self.root / name).iterdir()
        return any(is_image(file) for entry in folders if entry.is_dir() for file in entry.iterdir())

    def _by_role(self, layout: tuple[str, ...], log: Log) -> tuple[LabelledFiles, LabelledFiles]:
        """The sides that the folder itself says; raises UserError where another split is declared, or they overlap."""
        if self.split != HALF:
            where = ", ".join(f"{name}/" for name in layout)
            raise UserError(f"{self.name}: split: {self.root} has its own, {where}", hint="leave split out")
        strays = [entry.name for entry in self.root.iterdir() if entry.name not in layout]
        if others := sorted(name for name in strays if self._has_labelled(name)):
            where = f"{' and '.join(f'{name}/' for name in others)} next to {', '.join(f'{name}/' for name in layout)}"
            raise UserError(f"{self.name}: {self.root}: has images of classes in {where}", hint=ONE_LAYOUT)
        tell_strays(self.name, self.root, strays, log)
        found = {role: self._classes(role, log) for role in layout}
        rows = [(role, label, path) for role, own in found.items() for label, paths in own.items() for path in paths]
        train, test = sides_by_role(self.name, self.root, sorted(rows, key=lambda row: row[1]))
        self._check_two(train.class_names, test.class_names)
        return train, test

    def _by_class(self, log: Log) -> tuple[LabelledFiles, LabelledFiles]:
        images = self._classes("", log)
        rows = [[(name, path) for name in side for path in images[name]] for side in self._sides(list(images))]
        train, test = (labelled(self.root, side) for side in rows)
        return train, test

    def _classes(self, inner: str, log: Log) -> dict[str, list[str]]:
        """Images by class, sorted, of the root or a folder in it, as paths from the root; says what is ignored."""
        images, strays = self._listing(inner)
        tell_strays(self.name, self.root / inner, strays, log)
        if empty := sorted(name for name, files in images.items() if not files):
            hold = inflected(len(empty), "holds no images and is no class", "hold no images and are no classes")
            where = self.root / inner
            log(f"{self.name}: {counted(len(empty), 'folder')} of {where} {hold} ({some(empty)})")
        return {name: images[name] for name in sorted(images) if images[name]}

    def _listing(self, inner: str) -> tuple[dict[str, list[str]], list[str]]:
        """Images by class, and all else that is there; paths from the root."""
        images: dict[str, list[str]] = {}
        strays = []
        prefix = f"{inner}/" if inner else ""
        for entry in (self.root / inner).iterdir():
            if not entry.is_dir() or entry.name.startswith("."):
                strays.append(f"{prefix}{entry.name}")
                continue
            name = composed(entry.name)
            if name in images:
                where = self.root / inner
                what = f"{self.name}: {where}: two folders are called {name!r}, in two ways to write its accents"
                raise UserError(what, hint="rename one, or bring their images together")
            images[name] = []
            files = sorted(entry.iterdir(), key=lambda file: composed(file.name))
            for file in files:
                kept = images[name] if is_image(file) and not file.is_dir() else strays
                kept.append(f"{prefix}{entry.name}/{file.name}")
        return images, strays

    def _sides(self, classes: list[str]) -> tuple[list[str], list[str]]:
        if isinstance(self.split.train, tuple):
            sides = [composed(name) for name in self.split.train], [composed(name) for name in self.split.test]
            for name in (*sides[0], *sides[1]):
                if name not in classes:
                    raise unknown_name("class", name, classes, where=f"{self.name}: split")
        else:
            count = len(classes) // 2 if self.split.train is None else self.split.train
            sides = classes[:count], classes[count:]
        self._check_two(*sides)
        return sides

    def _check_two(self, train: Sequence[str], test: Sequence[str]) -> None:
        if min(len(train), len(test)) < 2:
            found = f"{len(train) + len(test)} classes with images, {len(train)} to train and {len(test)} to test"
            hint = "each side needs two: a folder for each class, with images directly in it"
            raise UserError(f"{self.name}: {self.root}: holds {found}", hint=hint)


NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
MOST_NAME = 100  # characters: it is a folder's
DEFAULT_PROTOCOL = "resnet50-128"


OwnImages = ImageFolder | ListedImages


def own_images(name: str, root: Path, split: FolderSplit = HALF) -> OwnImages:
    """The family of a declared folder, or of a CSV file."""
    if root.suffix.lower() != ".csv":
        return ImageFolder(name, root, split)
    if split != HALF:
        raise UserError(f"{name}: split: {root} says itself which images train", hint="leave split out")
    return ListedImages(name, root)


class DatasetFile(Section):
    """A dataset's YAML: a folder of images with one subfolder a class, and which classes train; or a CSV file."""

    name: str = Field(pattern=f"^{NAME.pattern}$", max_length=MOST_NAME)
    root: str
    split: FolderSplit = FolderSplit()
    default_protocol: str = DEFAULT_PROTOCOL


def declared(text: str, option: str = "--datasets") -> tuple[OwnImages, str] | None:
    """The folder or CSV file that `text` declares and its default protocol; None where it declares none.

    Args:
        text: ``name=path``, or the path of a YAML file, whose `root` is relative to it.
        option: Where the user gave it, for messages.

    Raises:
        UserError: a name that is none, no such file, or a file that is not valid.
    """
    if text.lower().endswith((".yaml", ".yml")) and "=" not in text:
        file = path_of(text, option)
        if not file.is_file():
            raise UserError(
                f"{option} {text}: no such file", hint="NAME, NAME=FOLDER, NAME=FILE.csv or a dataset's YAML"
            )
        content = validate(DatasetFile, read_yaml(file), text)
        root = file.parent / path_of(content.root, f"{text}: root")
        return own_images(content.name, root, content.split), content.default_protocol
    name, equals, path = text.partition("=")
    if not equals:
        return None
    if not NAME.fullmatch(name) or not path or len(name) > MOST_NAME:
        hint = "letters, digits, '.', '_' and '-', for example birds=path/to/images"
        raise UserError(f"{option} {text!r}: must be NAME=FOLDER or NAME=FILE.csv", hint=hint)
    return own_images(name, path_of(path, f"{option} {name}")), DEFAULT_PROTOCOL
