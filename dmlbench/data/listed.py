"""Datasets that the user lists in a CSV file: a row an image, with the columns `path`, `label` and `split`."""

import csv
import posixpath
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

from dmlbench.data.family import ROLES, LabelledFiles, Log, Row, composed, sides_by_role, some
from dmlbench.errors import UserError, counted, inflected

COLUMNS = ("path", "label", "split")
EXPECTED = "a row an image: path (from the CSV's folder), label, and split: train or test; or train, query or gallery"


@dataclass(frozen=True)
class ListedImages:
    """A dataset family of one CSV file, `root`; its paths start from the file's folder. Other columns are ignored."""

    name: str
    root: Path

    def prepare(self, data_dir: Path | None, log: Log) -> None:
        """Nothing has to be prepared: the files are the user's."""

    def read(self, data_dir: Path | None, log: Log) -> tuple[LabelledFiles, LabelledFiles]:  # noqa: ARG002
        """Training and test classes, by label and then by path, both in composed form (NFC).

        Raises:
            UserError: no such file, columns or values that are missing or unknown, an image listed twice or not there,
                fewer than two classes for a side, a class on both.
        """
        rows = sorted(self._rows(), key=lambda row: (row[1], composed(row[2])))
        folder = self.root.parent
        if missing := [path for _, _, path in rows if not (folder / path).is_file()]:
            said = f"{len(missing)} of {counted(len(rows), 'listed image')} {inflected(len(missing), 'is', 'are')} not"
            raise UserError(
                f"{self.name}: {said} in {folder} ({some(missing)})", hint="paths start from the CSV's folder"
            )
        train, test = sides_by_role(self.name, folder, rows)
        if min(len(train.class_names), len(test.class_names)) < 2:
            found = f"{len(train.class_names)} classes to train and {len(test.class_names)} to test"
            raise UserError(f"{self.name}: {self.root}: lists {found}", hint="each side needs two")
        return train, test

    def _rows(self) -> list[Row]:
        """Role, label and path of each image."""
        try:
            with self.root.open(encoding="utf-8-sig", newline="") as file:
                rows = [self._row(number, entry) for number, entry in self._entries(file)]
        except FileNotFoundError:
            raise UserError(f"{self.name}: {self.root}: no such file", hint=f"a CSV has {EXPECTED}") from None
        except OSError as error:
            raise UserError(f"{self.name}: {self.root}: cannot be read ({error.strerror})") from error
        except (UnicodeDecodeError, csv.Error) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"{self.name}: {self.root}: not a CSV file in UTF-8 ({reason})") from error
        roles, paths = {role for role, _, _ in rows}, [posixpath.normpath(path) for _, _, path in rows]
        if "test" in roles and roles & {"query", "gallery"}:
            raise UserError(f"{self.name}: {self.root}: split: has test next to query or gallery", hint=EXPECTED)
        if ("query" in roles) != ("gallery" in roles):
            lacking = "gallery" if "query" in roles else "query"
            raise UserError(f"{self.name}: {self.root}: split: has no {lacking}", hint=EXPECTED)
        if "train" not in roles or len(roles) < 2:
            lacking = "test, and no query and gallery" if roles == {"train"} else "train"
            raise UserError(f"{self.name}: {self.root}: split: has no {lacking}", hint=EXPECTED)
        most, times = next(iter(Counter(paths).most_common(1)), ("", 0))
        if times > 1:
            raise UserError(f"{self.name}: {self.root}: lists {most!r} {times} times")
        return rows

    def _entries(self, file: Iterable[str]) -> Iterable[tuple[int, dict[str, str | None]]]:
        """Line number and the columns of each row."""
        reader = csv.DictReader(file, restkey="", skipinitialspace=True)
        fields = reader.fieldnames or []
        if missing := [column for column in COLUMNS if column not in fields]:
            found = ", ".join(map(repr, fields)) or "nothing"
            what = f"{self.name}: {self.root}: line 1: has no column {missing[0]!r}, but {found[:200]}"
            raise UserError(what, hint=EXPECTED)
        for entry in reader:
            yield reader.line_num, entry

    def _row(self, number: int, entry: dict[str, str | None]) -> Row:
        path, label, role = ((entry[column] or "").strip() for column in COLUMNS)
        where = f"{self.name}: {self.root}: line {number}"
        if not path or not label:
            raise UserError(f"{where}: has no {'label' if path else 'path'}", hint=EXPECTED)
        if role not in ROLES:
            raise UserError(f"{where}: split must be one of {', '.join(ROLES)}, not {role!r}")
        if PurePosixPath(path).is_absolute() or PureWindowsPath(path).drive:
            raise UserError(f"{where}: {path!r} must be a path from the CSV's folder, not a full one")
        if posixpath.normpath(path).split("/")[0] == "..":
            raise UserError(f"{where}: {path!r} leaves the CSV's folder", hint="place the CSV above all images")
        return role, composed(label), path
