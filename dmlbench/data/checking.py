"""Everything that can be wrong with a dataset on disk, found by looking at all of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dmlbench.data.catalogue import DatasetInfo
from dmlbench.data.family import LabelledImages, Log, Side
from dmlbench.data.fingerprints import files_fingerprint, fingerprint
from dmlbench.data.inspection import Finding, inspect, on_both_sides, unusable
from dmlbench.data.ready import files_of, too_little

SIDES = ("train", "test")


@dataclass(frozen=True)
class Checked:
    """What a check found.

    Attributes:
        counts: Training classes, test classes, training images, test images.
        published: The same as published; None for a folder of the user's own.
        bad: Paths of images that cannot be used, and why.
        converted: Paths of images that become RGB, and from what.
        duplicates: Groups of paths of one content on both sides of the split.
        singletons: Test classes of a single image, which has nothing to be retrieved by.
        fingerprint: Of labels and contents; empty where an image cannot be used.
        problem: What else a run would refuse; empty for nothing.
    """

    counts: tuple[int, int, int, int]
    published: tuple[int, int, int, int] | None
    bad: dict[str, str]
    converted: dict[str, str]
    duplicates: list[tuple[str, ...]]
    singletons: int
    fingerprint: str
    problem: str = ""

    @property
    def sound(self) -> bool:
        """Whether a run would take the dataset as it is."""
        return not self.bad and not self.problem and self.published in (None, self.counts)


def check(info: DatasetInfo, data_dir: Path | None, log: Log) -> Checked:
    """Read, decode and compare all images of a dataset, whatever an earlier check found.

    Raises:
        UserError: the dataset is not there, or not in a known layout.
    """
    sides = info.family.read(data_dir, log)
    train, test = sides
    counts = (len(train.class_names), len(test.class_names), len(train.labels), len(test.labels))
    published = info.counts if info.version else None
    singletons = int((np.bincount(test.labels) == 1).sum())
    files = files_of(sides)
    if files is None:
        whole = fingerprint(*(side for side in sides if isinstance(side, LabelledImages)))
        return Checked(counts, published, {}, {}, [], singletons, whole)
    findings = inspect(files, log, anew=True)
    bad = unusable(findings)
    digests = [[finding.sha256 for finding in side.values()] for side in findings]
    whole = "" if bad else files_fingerprint(zip(files, digests, strict=True))
    converted = {path: found.note for side in findings for path, found in side.items() if found.note}
    return Checked(counts, published, bad, converted, on_both_sides(findings), singletons, whole, too_little(files))


def sizes(sides: tuple[Side, Side], log: Log) -> dict[str, dict[str, Any]]:
    """For each side its classes, images, images a class, and widths and heights in pixels (least - median - most)."""
    files = files_of(sides)
    findings = inspect(files, log) if files else [None, None]
    return {name: _sizes(side, found) for name, side, found in zip(SIDES, sides, findings, strict=True)}


def _sizes(side: Side, findings: dict[str, Finding] | None) -> dict[str, Any]:
    per_class = np.bincount(side.labels)
    row: dict[str, Any] = {
        "classes": len(side.class_names),
        "images": len(side.labels),
        "images a class": _range(per_class),
    }
    if isinstance(side, LabelledImages):
        height, width = side.images.shape[-2:]
        return row | {"width": str(width), "height": str(height)}
    usable = [found for found in (findings or {}).values() if not found.problem]
    return row | {"width": _range([f.width for f in usable]), "height": _range([f.height for f in usable])}


def _range(values: Sequence[int] | np.ndarray) -> str:
    if not len(values):
        return "-"
    low, middle, high = int(np.min(values)), int(np.median(values)), int(np.max(values))
    return str(low) if low == high else f"{low} - {middle} - {high}"
