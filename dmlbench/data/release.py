"""A published dataset that lies somewhere below a data folder, or can be downloaded as one archive."""

from dataclasses import dataclass
from pathlib import Path

from dmlbench.data.archives import Archive, Progress
from dmlbench.data.cache import cache_dir
from dmlbench.data.extraction import fetch_and_extract
from dmlbench.data.family import Log
from dmlbench.data.places import below
from dmlbench.errors import UserError


@dataclass(frozen=True)
class Release:
    """Where to find it and where to get it.

    Attributes:
        name: The dataset's, for messages and commands.
        archive: What is published.
        marks: Files and folders that its root holds, by which it is found.
    """

    name: str
    archive: Archive
    marks: tuple[str, ...]

    def prepare(self, data_dir: Path | None, log: Log) -> None:
        """Download a release that is missing in the cache; a given folder is left as it is."""
        if data_dir is None and not (cache_dir().is_dir() and self._roots(cache_dir())):
            self.fetch(cache_dir(), log)

    def fetch(self, folder: Path, log: Log, progress: Progress | None = None) -> None:
        """Download the published archive into `folder` unless it lies there, verify and unpack it."""
        fetch_and_extract(self.archive, folder, log, progress)

    def root(self, data_dir: Path | None, log: Log) -> Path:
        """The folder of the release, the shallowest of several; raises UserError where there is none."""
        folder = data_dir or cache_dir()
        roots = self._roots(folder) if data_dir or folder.is_dir() else []
        if not roots:
            hint = f"`dmlbench data fetch {self.name} --data-dir {folder}` downloads it ({self.archive.size})"
            raise UserError(f"{folder}: holds no {self.archive.folder}/ with {', '.join(self.marks)}", hint=hint)
        if len(roots) > 1:
            log(f"{self.name}: {len(roots)} copies below {folder}; the one in {roots[0]} is used")
        return roots[0]

    def _roots(self, folder: Path) -> list[Path]:
        found = below(folder, self.marks[0], hint="name an existing one with --data-dir")
        return [path.parent for path in found if all((path.parent / mark).exists() for mark in self.marks)]
