"""A results folder as a contribution: checked, and packed for a pull request into `results/`."""

import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dmlbench.atomic import replacing
from dmlbench.errors import Damaged, UserError, attempt, counted, inflected
from dmlbench.reporting.sources import read_studies
from dmlbench.results.claims import FOLDER as CLAIMS
from dmlbench.results.claims import declared_claims
from dmlbench.results.environment import made_by
from dmlbench.results.evaluated import FOLDER as EVALUATED
from dmlbench.results.evaluated import read_evaluated
from dmlbench.results.measurements import FOLDER as MEASUREMENTS
from dmlbench.results.measurements import read_measurements
from dmlbench.results.status import problems
from dmlbench.results.store import Record, Store, read_record, read_spec
from dmlbench.specs.cell import Cell
from dmlbench.specs.tuned import default_path

PACKED = ("spec.yaml", "history.csv", "summary.json")  # of a cell; logs and weights stay at home
SUFFIX = ".tar.gz"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
TAKEN = ("runs", "reference")  # folders of results/: what users run is ignored by git, the other is ours
PRIVATE = re.compile(
    r"(?<![\w:/.~-])(?:~|[A-Za-z]:)?[/\\][\w.-]+[/\\][^\s'\"]+"
)  # of two folders: /3 or and/or are none


@dataclass(frozen=True)
class Submission:
    """What a results folder holds that others can use.

    Attributes:
        files: To be packed, in path order.
        problems: What has to be mended first, one line each.
        notes: What a reviewer will ask, one line each.
    """

    files: tuple[Path, ...]
    problems: tuple[str, ...]
    notes: tuple[str, ...]


def check_submission(root: Path) -> Submission:
    """Look at all that would be packed of a results folder.

    Raises:
        UserError: where the folder cannot be read, or holds no finished cell.
    """
    store = Store(root)
    store.check_readable()
    records = [(folder, read_record(folder)) for folder in store.folders()]
    done = [record for _, record in records if isinstance(record, Record) and record.done]
    if not done:
        raise UserError(f"{root}: no finished cells to submit", hint=store.next_command())
    cells = [record.folder / name for record in done for name in PACKED]
    others = [*sorted((root / CLAIMS).glob("*.yaml")), *sorted((root / MEASUREMENTS).glob("*.json"))]
    others += sorted((root / EVALUATED).glob("*/*/*.json"))
    tuned = [path for path in [default_path(root)] if path.is_file()]
    files = (*cells, *others, *tuned)
    wrong = [f"{folder}: {problem}" for folder, found in problems(store).items() for problem in found]
    wrong += [found.reason for _, found in records if isinstance(found, Damaged)]
    wrong += [problem for record in done for problem in _unknown(record)]
    left_out: list[Damaged] = []
    for read in (declared_claims, read_measurements, read_studies, read_evaluated):
        read([root], left_out.append)
    wrong += [found.reason for found in left_out]
    wrong += list(_private(files))
    plugins = {shown for record in done for shown in _plugins(record)}
    open_ = len(records) - len(done)
    left = f"{counted(open_, 'cell')} without a finished result {inflected(open_, 'is', 'are')} left out"
    own = [f"code of your own, to be added to the pull request: {', '.join(sorted(plugins))}"] if plugins else []
    return Submission(files, tuple(dict.fromkeys(wrong)), (*([left] if open_ else []), *_notes(done), *own))


def pack(root: Path, submission: Submission, target: Path) -> Path:
    """Write the files into `NAME.tar.gz`, which unpacks into a folder NAME.

    Raises:
        UserError: where the target exists, has no such name, or one that git ignores in `results/`.
    """
    name = target.name.removesuffix(SUFFIX)
    if not target.name.endswith(SUFFIX) or not NAME.fullmatch(name) or name in TAKEN:
        hint = "its name becomes that of your folder in results/: letters, digits, dots and dashes"
        raise UserError(f"--output {target}: must be NAME{SUFFIX}, and NAME not {' or '.join(TAKEN)}", hint=hint)
    if target.exists():
        raise UserError(f"{target}: exists already", hint="name another file with --output")
    with replacing(target) as draft, tarfile.open(fileobj=draft, mode="w:gz") as archive:
        for path in submission.files:
            archive.add(path, f"{name}/{path.relative_to(root).as_posix()}", filter=_anonymous)
    return target


def _anonymous(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    return entry


def _unknown(record: Record) -> Iterator[str]:
    """What of a result nobody could check later."""
    summary, path = record.summary, record.folder / "summary.json"
    if not summary.code.digest:
        yield f"{path}: no digest of the training code"
    if not summary.environment.machine:
        yield f"{path}: no machine"


def _plugins(record: Record) -> Iterator[str]:
    spec = attempt(read_spec, record.folder)
    if isinstance(spec, Cell):
        for part in filter(None, (spec.method.loss, spec.method.distillation)):
            if part.plugin:
                yield f"{part.name} ({part.plugin}, SHA-256 {(part.plugin_sha256 or '')[:8]})"


def _private(files: tuple[Path, ...]) -> Iterator[str]:
    """Absolute paths in what would be packed: they name a user's folders."""
    for path in files:
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            yield f"{path}: cannot be read ({error})"
            continue
        if found := PRIVATE.search(text):
            yield f"{path}: holds the absolute path {found[0]}; run with a path relative to the working folder"


def _notes(done: list[Record]) -> Iterator[str]:
    yield from made_by([record.summary for record in done])
    if dirty := sum(record.summary.code.dirty for record in done):
        yield f"{counted(dirty, 'cell')} ran with changes that are in no commit"
    known = [record.summary.dataset for record in done if record.summary.dataset]
    data = {(own.name, own.fingerprint[:12]) for own in known}
    yield "datasets " + ", ".join(f"{name} {fingerprint}" for name, fingerprint in sorted(data))
