"""Checkpoints, from which an interrupted cell resumes, each with the one before it kept.

Random streams are functions of seed, epoch and purpose, so a checkpoint holds no generator; nor does it hold a teacher
that is the student of the epoch before. What it holds is read back without pickle's freedom to run code.
"""

import io
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch

from dmlbench.atomic import replacing
from dmlbench.results.history import Row

NAME, PREVIOUS = "checkpoint.pt", "checkpoint.previous.pt"
VERSION = 1
Log = Callable[[str], None]


@dataclass
class Checkpoint:
    """All that a cell needs to resume.

    Args:
        made_by: What the numbers depend on (the cell, code, libraries, kind of machine, data, initial weights).
        epoch: Epochs trained.
        seconds: Time spent so far.
        places: Machines and their loads that epochs were trained on, in order.
        resumed: Epochs after which training was taken up again.
    """

    made_by: dict[str, str]
    epoch: int = 0
    trainer: dict[str, Any] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    seconds: float = 0.0
    places: list[str] = field(default_factory=list)
    resumed: list[int] = field(default_factory=list)


CHEAP_SECONDS = 0.25
TIMES = 20
LONGEST_SECONDS = 120.0


class Pace:
    """When a checkpoint is due: after every epoch where writing takes no time, else for a twentieth of it.

    At the latest after the first epoch that ends two minutes after the last one was written.

    That of a ResNet-50 is 285 MB and takes 1.5 s until the disk has it, as long as an epoch of CUB on a fast GPU.
    """

    def __init__(self) -> None:
        self._took = self._ended = 0.0

    def due(self, now: float) -> bool:
        """Whether to write one, `now` in seconds."""
        return self._took <= CHEAP_SECONDS or now - self._ended >= min(TIMES * self._took, LONGEST_SECONDS)

    def wrote(self, begun: float, ended: float) -> None:
        """Take note of a checkpoint that was written, in seconds."""
        self._took, self._ended = ended - begun, ended


def save(folder: Path, checkpoint: Checkpoint) -> None:
    """Write the folder's checkpoint; the one that was there becomes the previous one.

    A kill in the midst of it leaves at least one that is whole. Raises OSError where the folder cannot be written.
    """
    content = {item.name: getattr(checkpoint, item.name) for item in fields(checkpoint)}
    whole = io.BytesIO()  # torch reports a full disk by a RuntimeError of its own, a file by an OSError
    torch.save({"version": VERSION, **content}, whole)
    with replacing(folder / NAME, previous=folder / PREVIOUS) as file:
        file.write(whole.getbuffer())


def load(folder: Path, made_by: Mapping[str, str], log: Log) -> Checkpoint:
    """The folder's last usable checkpoint that is `made_by` the same, or an empty one; logs why one is not usable."""
    for path in filter(Path.is_file, (folder / NAME, folder / PREVIOUS)):
        try:
            checkpoint = _read(path, made_by)
        except ValueError as error:
            log(f"{path.name}: {error}; it is left out")
            continue
        log(f"resumes after epoch {checkpoint.epoch}, from {path.name}")
        return checkpoint
    return Checkpoint(dict(made_by))


def clear(folder: Path) -> None:
    """Remove the folder's checkpoints: there is a result, or nothing to resume."""
    for name in (NAME, PREVIOUS):
        (folder / name).unlink(missing_ok=True)


def _read(path: Path, made_by: Mapping[str, str]) -> Checkpoint:
    """The checkpoint in a file; raises ValueError where it is not usable."""
    try:
        _check_whole(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
        version = content.pop("version")
        found = Checkpoint(**content) if version == VERSION else Checkpoint({})
    except Exception as error:  # a damaged file can fail in many ways; none may stop the cell
        path.unlink()  # or the next save would overwrite the one that is whole with it
        raise ValueError(f"cannot be read ({type(error).__name__})") from error
    if version != VERSION:
        raise ValueError(f"is of version {version}, not {VERSION}")
    if differing := [key for key in {**made_by, **found.made_by} if made_by.get(key) != found.made_by.get(key)]:
        shown = ", ".join(f"{key} {found.made_by.get(key)}, now {made_by.get(key)}" for key in differing)
        raise ValueError(f"is of another run ({shown})")
    return found


def _check_whole(path: Path) -> None:
    """Raise where a byte of the archive is not as it was written: torch reads past some damage."""
    with zipfile.ZipFile(path) as archive:
        if broken := archive.testzip():
            raise zipfile.BadZipFile(f"{broken} is damaged")
