"""Before a run: data are found and verified, images that cannot be used are named, and contents get their version."""

import hashlib
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from dmlbench.data.catalogue import DatasetInfo, family_of
from dmlbench.data.family import LabelledFiles, Log, Side
from dmlbench.data.fingerprints import files_fingerprint
from dmlbench.data.folder import ImageFolder
from dmlbench.data.inspection import inspect, unusable
from dmlbench.errors import UserError
from dmlbench.spec import DatasetSpec

LISTED = 10


def dataset_spec(info: DatasetInfo, data_dir: Path | None, log: Log, *, skip_bad: bool = False) -> DatasetSpec:
    """The part of a cell's spec that names the data and fixes their contents.

    Args:
        info: A dataset of the catalogue or a declared folder, whose version is the digest of its contents.
        data_dir: The folder the user gave, None for the cache.
        log: Takes lines of progress.
        skip_bad: Leave out images that cannot be used; what is left out enters the version.

    Raises:
        UserError: where images have to be read and cannot.
    """
    folder = info.family if isinstance(info.family, ImageFolder) else None
    if folder is None and not skip_bad:
        return DatasetSpec(name=info.name, version=info.version)
    sides = files_of(info.family.read(data_dir, lambda _: None))
    if sides is None:
        return DatasetSpec(name=info.name, version=info.version)
    findings = inspect(sides, log)
    skipped = tuple(unusable(findings)) if skip_bad else ()
    if folder is None:
        left_out = f"-without-{_digest(skipped)[:8]}" if skipped else ""
        return DatasetSpec(name=info.name, version=info.version + left_out, skipped=skipped)
    kept = [side.without(frozenset(skipped)) for side in sides]
    contents = [[found[path].sha256 for path in side.paths] for side, found in zip(kept, findings, strict=True)]
    version = files_fingerprint(zip(kept, contents, strict=True))
    return DatasetSpec(name=info.name, version=version[:12], root=str(folder.root), split=folder.split, skipped=skipped)


def prepare(spec: DatasetSpec, data_dir: Path | None, log: Log) -> None:
    """Make sure a dataset can be loaded before any cell starts: generate, fetch or verify it.

    Args:
        spec: The cells' spec of it, with what is skipped.
        data_dir: The folder the user gave (``--data-dir`` or ``DMLBENCH_DATA``), None for neither. Nothing is
            ever downloaded into a given folder.
        log: Takes one line per lengthy step.

    Raises:
        UserError: What is missing or damaged, and what to do next.
    """
    family = family_of(spec)
    family.prepare(data_dir, log)
    if (sides := files_of(family.read(data_dir, lambda _: None))) is None:
        return
    bad = {path: why for path, why in unusable(inspect(sides, log)).items() if path not in spec.skipped}
    if bad:
        some = ", ".join(f"{path} ({why})" for path, why in islice(bad.items(), LISTED))
        more = f" and {len(bad) - LISTED} more" if len(bad) > LISTED else ""
        total = sum(len(side.paths) for side in sides)
        hint = f"replace them, or leave them out with --skip-bad; `dmlbench data check` lists all of {sides[0].root}"
        raise UserError(f"{spec.name}: {len(bad)} of {total} images cannot be used: {some}{more}", hint=hint)


def files_of(sides: tuple[Side, Side]) -> tuple[LabelledFiles, LabelledFiles] | None:
    """Both sides where they are files; None for images in memory."""
    train, test = sides
    return (train, test) if isinstance(train, LabelledFiles) and isinstance(test, LabelledFiles) else None


def _digest(paths: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(paths).encode()).hexdigest()
