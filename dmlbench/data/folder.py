"""Datasets that the user declares, by ``name=path/to/images`` or a YAML file: any `root/<class>/*.jpg`.

Half of the sorted classes train, the rest test, unless a split is declared.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from dmlbench.data.family import LabelledFiles, Log, composed, is_image, labelled, some, tell_strays
from dmlbench.errors import UserError, counted, inflected, unknown_name
from dmlbench.specs.dataset import FolderSplit, Section
from dmlbench.specs.yaml_files import path_of, read_yaml, validate

HALF = FolderSplit()


@dataclass(frozen=True)
class ImageFolder:
    """A dataset family of one folder.

    `root` holds a folder for each class, or links to such; deeper folders, hidden files and other kinds of files are
    ignored.
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
            images, strays = self._listing()
        except OSError as error:
            what = f"{self.name}: {error.filename}: cannot be read ({error.strerror})"
            raise UserError(what, hint="check its permissions") from error
        tell_strays(self.name, self.root, strays, log)
        classes = sorted(name for name, files in images.items() if files)
        if empty := sorted(images.keys() - set(classes)):
            hold = inflected(len(empty), "holds no images and is no class", "hold no images and are no classes")
            log(f"{self.name}: {counted(len(empty), 'folder')} of {self.root} {hold} ({some(empty)})")
        rows = [[(name, path) for name in side for path in images[name]] for side in self._sides(classes)]
        train, test = (labelled(self.root, side) for side in rows)
        return train, test

    def _listing(self) -> tuple[dict[str, list[str]], list[str]]:
        """Images by class, and all else that is there; paths from the root."""
        images: dict[str, list[str]] = {}
        strays = []
        for entry in self.root.iterdir():
            if not entry.is_dir() or entry.name.startswith("."):
                strays.append(entry.name)
                continue
            name = composed(entry.name)
            if name in images:
                what = f"{self.name}: {self.root}: two folders are called {name!r}, in two ways to write its accents"
                raise UserError(what, hint="rename one, or bring their images together")
            images[name] = []
            files = sorted(entry.iterdir(), key=lambda file: composed(file.name))
            for file in files:
                kept = images[name] if is_image(file) and not file.is_dir() else strays
                kept.append(f"{entry.name}/{file.name}")
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
        if min(map(len, sides)) < 2:
            found = f"{len(classes)} classes with images, {len(sides[0])} to train and {len(sides[1])} to test"
            hint = "each side needs two: a folder for each class, with images directly in it"
            raise UserError(f"{self.name}: {self.root}: holds {found}", hint=hint)
        return sides


NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
MOST_NAME = 100  # characters: it is a folder's
DEFAULT_PROTOCOL = "resnet50-128"


class DatasetFile(Section):
    """A dataset's YAML: a folder of images with one subfolder a class, and which classes train."""

    name: str = Field(pattern=f"^{NAME.pattern}$", max_length=MOST_NAME)
    root: str
    split: FolderSplit = FolderSplit()
    default_protocol: str = DEFAULT_PROTOCOL


def declared(text: str, option: str = "--datasets") -> tuple[ImageFolder, str] | None:
    """The folder that `text` declares and its default protocol; None where it declares none.

    Args:
        text: ``name=path``, or the path of a YAML file, whose `root` is relative to it.
        option: Where the user gave it, for messages.

    Raises:
        UserError: a name that is none, no such file, or a file that is not valid.
    """
    if text.lower().endswith((".yaml", ".yml")) and "=" not in text:
        file = path_of(text, option)
        if not file.is_file():
            raise UserError(f"{option} {text}: no such file", hint="NAME, NAME=FOLDER or a dataset's YAML")
        content = validate(DatasetFile, read_yaml(file), text)
        root = file.parent / path_of(content.root, f"{text}: root")
        return ImageFolder(content.name, root, content.split), content.default_protocol
    name, equals, path = text.partition("=")
    if not equals:
        return None
    if not NAME.fullmatch(name) or not path or len(name) > MOST_NAME:
        hint = "letters, digits, '.', '_' and '-', for example birds=path/to/images"
        raise UserError(f"{option} {text!r}: must be NAME=FOLDER", hint=hint)
    return ImageFolder(name, path_of(path, f"{option} {name}")), DEFAULT_PROTOCOL
