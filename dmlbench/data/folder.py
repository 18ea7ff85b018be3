"""`folder`: any `root/<class>/*.jpg`. Half of the sorted classes train, the rest test, unless a split is declared."""

from dataclasses import dataclass
from pathlib import Path

from dmlbench.data.family import LabelledFiles, Log, labelled
from dmlbench.data.places import IMAGE_SUFFIXES, files_below, tell_strays
from dmlbench.errors import UserError, unknown_name
from dmlbench.spec import FolderSplit

HALF = FolderSplit()


@dataclass(frozen=True)
class ImageFolder:
    """A dataset family of one folder.

    Attributes:
        name: The dataset's name, for messages.
        root: Holds a folder for each class; images deeper down, hidden files and other kinds of files are ignored.
        split: Which classes train and which test.
    """

    name: str
    root: Path
    split: FolderSplit = HALF

    def prepare(self, data_dir: Path | None, log: Log) -> None:
        """See that both sides hold images."""
        self.read(data_dir, log)

    def read(self, data_dir: Path | None, log: Log) -> tuple[LabelledFiles, LabelledFiles]:  # noqa: ARG002
        """Training and test classes, by class and then by file name.

        Raises:
            UserError: no such folder, fewer than two classes with images for a side, a class of the split missing.
        """
        if not self.root.is_dir():
            raise UserError(f"{self.name}: {self.root}: no such folder", hint=f"--datasets {self.name}=path/to/images")
        there = files_below(self.root, ".")
        images = sorted(path for path in there if _is_image(path))
        classes = sorted({path.split("/")[0] for path in images})
        train, test = self._sides(classes)
        tell_strays(self.name, self.root, set(there) - set(images), log)
        by_class: dict[str, list[tuple[str, str]]] = {name: [] for name in classes}
        for path in images:
            by_class[path.split("/")[0]].append((path.split("/")[0], path))
        first, second = (
            labelled(self.root, [row for name in side for row in by_class[name]]) for side in (train, test)
        )
        return first, second

    def _sides(self, classes: list[str]) -> tuple[list[str], list[str]]:
        if isinstance(self.split.train, tuple):
            sides = list(self.split.train), list(self.split.test)
            for name in (*sides[0], *sides[1]):
                if name not in classes:
                    raise unknown_name("class", name, classes, where=f"{self.name}: split")
        else:
            count = len(classes) // 2 if self.split.train is None else self.split.train
            sides = classes[:count], classes[count:]
        if min(map(len, sides)) < 2:
            found = f"{len(classes)} classes with images, {len(sides[0])} to train and {len(sides[1])} to test"
            hint = "each side needs two: a folder for each class, with images in it"
            raise UserError(f"{self.name}: {self.root}: holds {found}", hint=hint)
        return sides


def _is_image(path: str) -> bool:
    parts = path.split("/")
    hidden = any(part.startswith(".") for part in parts)
    return len(parts) == 2 and not hidden and Path(path).suffix.lower() in IMAGE_SUFFIXES
