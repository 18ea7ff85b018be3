"""Finds method files, and composes and resolves names such as `ms+obdsd` into a MethodSpec."""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import get_args

from dmlbench.errors import UserError, unknown_name
from dmlbench.specs.cell import (
    EVAL_TEACHER,
    RATE,
    TEACHER_MODE,
    TEACHER_WEIGHTS,
    VARY,
    Kind,
    MethodSpec,
    Part,
    ResolvedValue,
    Slot,
    TeacherMode,
    slot_of,
)
from dmlbench.specs.method import AnyFile, MethodFile, Parameter, PinnedFile, Search, takes_references
from dmlbench.specs.method_loading import Folder, LearningRate, checked, load_file, plugin, resolved_rates
from dmlbench.specs.protocol import is_file_of_weights
from dmlbench.specs.protocol_spec import Scalar
from dmlbench.specs.yaml_files import parse_written, path_of, read_yaml, validate

PUBLISHED = "published here: for this protocol and dataset"
DEFINITION = "published: part of the method's definition, whatever the protocol and dataset"
UNTUNED = "untuned: nothing published"
TRANSFERRED = "transferred from {}: published there, not for this protocol and dataset"
UNPUBLISHED = "unpublished composition"
SEARCHED_MARK = re.compile(r"tuned: (\d+ epochs) of search on held-out training classes\b.*")
OF_FILES = ("published", "untuned", "transferred")  # what marks of the files' own values begin with
NEW = "new: in no paper"
REPLACED = "the user's own {}, not the shipped one"
NO_REFERENCES = "{}: the base takes no references, embeddings of other batches"
LIST = "dmlbench list methods"
MODIFIER_KINDS = tuple(kind for kind in get_args(Kind) if kind != "loss")
PLAIN = re.compile(r"[a-z0-9_-]{1,100}")
BRACES = re.compile(r"\{[^}]*\}?")


@dataclass(frozen=True)
class MethodSettings:
    """Values that replace a file's: from `--set loss.x=...` and `--set distillation.x=...`, or from tuning.

    Rates have the name `learning_rates.NAME`. `source` says where values come from, and `where` begins what is said of
    one that is wrong. With `tuned`, they are of a search with such a budget, and `mark` qualifies their rows.
    """

    loss: dict[str, Scalar] = field(default_factory=dict)
    distillation: dict[str, Scalar] = field(default_factory=dict)
    source: str = "--set on the command line"
    where: str = "--set"
    tuned: int | None = None
    mark: str = ""


def searched_mark(epochs: int, folds: int) -> str:
    """The mark of tuned values, given the epochs of the search and the folds that decided it."""
    chosen = f"chosen by MAP@R on {folds} class-disjoint folds"
    return f"tuned: {epochs} epochs of search on held-out training classes, {chosen}: see the margin"


def own_folder() -> Path:
    """The package's method files: beside the package in a source tree, inside it in a wheel."""
    package = Path(__file__).parent.parent
    inside = package / "_methods"
    return inside if inside.is_dir() else package.parent / "methods"


@cache
def shipped_files() -> dict[str, Path]:
    """The package's own method files by name."""
    return _index(own_folder())


@cache
def shipped_order(slot: Slot) -> tuple[str, ...]:
    """Names of the shipped losses, or modifiers, in the order of tables, which their files state."""
    contents = [parse_written(path.read_text(encoding="utf-8")) for path in sorted(own_folder().glob("*.yaml"))]
    placed = [content for content in contents if content.get("order") and slot_of(content["kind"]) == slot]
    return tuple(content["name"] for content in sorted(placed, key=lambda content: int(content["order"])))


def search_path(methods_dir: Path | None) -> list[Folder]:
    """Folders in search order: `--methods-dir`, `./methods`, the package's own."""
    folders = []
    if methods_dir is not None:
        if not methods_dir.is_dir():
            raise UserError(f"--methods-dir {methods_dir}: no such folder")
        folders.append(Folder(methods_dir, named_by_user=True))
    for path in (Path("methods"), own_folder()):
        if path.is_dir() and all(path.resolve() != folder.path.resolve() for folder in folders):
            folders.append(Folder(path))
    return folders


class Registry:
    """Method files by name. Files are indexed by their name and validated when they are used."""

    def __init__(self, methods_dir: Path | None = None) -> None:
        self.folders = search_path(methods_dir)
        self._paths: dict[str, tuple[Path, Folder]] = {}
        for folder in self.folders:
            for name, path in _index(folder.path).items():
                self._paths.setdefault(name, (path, folder))

    def files(self) -> dict[str, AnyFile]:
        """Every valid file by name; `problems` names the others, which fail when they are used."""
        return {name: file for name, file in self._read().items() if not isinstance(file, UserError)}

    def problems(self) -> list[str]:
        """What is wrong with the files that are not valid, one line each."""
        return [str(file) for file in self._read().values() if isinstance(file, UserError)]

    def bases(self) -> list[str]:
        """Every loss."""
        files = self.files().values()
        return [file.name for file in files if isinstance(file, MethodFile) and file.kind == "loss"]

    def modifiers(self) -> list[str]:
        """Every modifier."""
        files = self.files().values()
        return [file.name for file in files if isinstance(file, MethodFile) and file.kind != "loss"]

    def names(self) -> list[str]:
        """Every method that can be run: bases, and each base with each modifier that it goes with."""
        files = self.files()
        parts = [file for file in files.values() if isinstance(file, MethodFile)]
        bases, modifiers = ([file for file in parts if (file.slot == "loss") == wanted] for wanted in (True, False))
        composed = {f"{base.name}+{own.name}" for base in bases for own in modifiers if fits(base, own)}
        return sorted(files.keys() - {file.name for file in modifiers} | composed)

    def datasets(self) -> set[str]:
        """Datasets that the files speak of, in overrides and published figures."""
        files = self.files().values()
        parameters = [p for file in files if isinstance(file, MethodFile) for p in file.parameters.values()]
        named = {override.when.dataset for parameter in parameters for override in parameter.overrides}
        return {name for name in named if name} | {figure.dataset for file in files for figure in file.published}

    def file(self, name: str) -> AnyFile:
        """The validated file of one name."""
        path, folder = self._paths[name]
        return load_file(path, folder)

    def resolve(
        self,
        name: str,
        dataset: str,
        protocol: str,
        settings: MethodSettings | None = None,
        *,
        family: str | None = None,
    ) -> MethodSpec:
        """Resolve a method name for one dataset and protocol.

        Args:
            name: Of the method.
            dataset: Its name.
            protocol: Its name.
            settings: Values that replace the files'.
            family: The protocol whose published values count as published for this one, too.

        Raises:
            UserError: for an unknown name, a modifier without a base, or a value out of range.
        """
        context = {"dataset": dataset, "protocol": protocol} | ({"family": family} if family else {})
        spec = self._resolved(name, context, settings or MethodSettings())
        if settings is None or settings.tuned is None:
            return spec
        marks = tuple(mark for mark in spec.marks if not mark.startswith(OF_FILES))
        return spec.model_copy(update={"marks": tuple(filter(None, (settings.mark, *marks))), "tuned": settings.tuned})

    def searches(self, name: str) -> dict[str, Search]:
        """Where tuning looks for values: by `loss.NAME`, `loss.learning_rates.NAME` and `distillation.NAME`."""
        pinned = self.pinned(name)
        found: dict[str, Search] = {}
        for file in filter(None, self.parts(name)):
            overlay: dict[str, Parameter] = getattr(pinned, file.slot) if pinned else {}
            rates = {f"{RATE}{key}": rate for key, rate in file.learning_rates.items()}
            for key, parameter in (file.parameters | rates).items():
                search = (overlay[key].search if key in overlay else None) or parameter.search
                found |= {f"{file.slot}.{key}": search} if search else {}
        return found

    def _resolved(self, name: str, where: dict[str, str], settings: MethodSettings) -> MethodSpec:
        base, modifier = self.parts(name)
        context, extra = where | {"base": base.name}, self.pinned(name)
        loss = self._resolve_part(base, context, settings, extra)
        if modifier is None:
            marks = _own_marks(base) + _marks(loss, known=not _new(base)) + self._replacing(base.name)
            return MethodSpec(name=name, loss=loss, marks=marks)
        distillation = self._resolve_part(modifier, context, settings, extra)
        if distillation.teacher_weights:  # a file's mark speaks of its own teacher
            modifier = modifier.model_copy(update={"mark": None})
        composed = extra is None and base.name not in modifier.published_with and not _new(base, modifier)
        known = not composed and not _new(base, modifier)
        marks = _own_marks(base, modifier) + _marks(loss, distillation, known=known)
        marks += (UNPUBLISHED,) if composed else ()
        marks += self._replacing(base.name, modifier.name, *([extra.name] if extra else []))
        return MethodSpec(name=name, loss=loss, distillation=distillation, marks=marks)

    def parts(self, name: str) -> tuple[MethodFile, MethodFile | None]:
        """The base and the modifier of a name."""
        base_name, plus, modifier_name = name.partition("+")
        base = self._part(base_name, name)
        if base.kind != "loss":
            bases = [n for n in self._paths if "+" not in n and self._kind(n) == "loss"]
            example = f"{'ms' if 'ms' in bases else bases[0]}+{base_name}" if bases else f"BASE+{base_name}"
            raise UserError(
                f"{base_name!r} is a modifier and needs a base",
                hint=f"for example {example}; bases: {', '.join(sorted(bases))}",
            )
        if not plus:
            return base, None
        if "+" in modifier_name:
            example = f"{base_name}+{modifier_name.partition('+')[0]}"
            raise UserError(f"{name!r}: a base takes one modifier", hint=f"for example {example}")
        modifier = self._part(modifier_name, name)
        if modifier.kind == "loss":
            modifiers = [n for n in self._paths if "+" not in n and self._kind(n) in MODIFIER_KINDS]
            raise UserError(
                f"{name!r}: {modifier_name!r} is a base and cannot follow a +",
                hint=f"modifiers: {', '.join(sorted(modifiers))}",
            )
        if not fits(base, modifier):
            hint = f"bases: {', '.join(other for other in self.bases() if fits(self._part(other, name), modifier))}"
            raise UserError(NO_REFERENCES.format(name), hint=hint)
        return base, modifier

    def pinned(self, name: str) -> PinnedFile | None:
        """The file of a composition with values of its own, where there is one."""
        file = self.file(name) if "+" in name and name in self._paths else None
        return file if isinstance(file, PinnedFile) else None

    def _replacing(self, *names: str) -> tuple[str, ...]:
        """A mark for each file that replaces a shipped method of its name: its numbers are not that method's."""
        known = [name for name in names if shipped_files().keys() >= {*name.split("+")}]
        return tuple(REPLACED.format(name) for name in known if not self._is_shipped(name))

    def _is_shipped(self, name: str) -> bool:
        shipped = shipped_files().get(name)
        return shipped is not None and shipped.read_bytes() == self._paths[name][0].read_bytes()

    def _read(self) -> dict[str, AnyFile | UserError]:
        read: dict[str, AnyFile | UserError] = {}
        for name in sorted(self._paths):
            try:
                read[name] = self.file(name)
            except UserError as error:
                read[name] = error
        return read

    def _part(self, part: str, name: str) -> MethodFile:
        if part not in self._paths:
            if "{" in part:
                said = f"unknown method {name!r}: what stands in braces is a row of a report"
                raise UserError(said, hint=f"name {BRACES.sub('', name)}")
            where = None if part == name else repr(name)
            raise unknown_name("method", part, self._paths, where=where, command=LIST, also=self._elsewhere(part))
        file = self.file(part)
        if not isinstance(file, MethodFile):
            raise UserError(f"{self._paths[part][0]}: kind: a file named {part!r} must be a loss or a modifier")
        return file

    def _elsewhere(self, name: str) -> str | None:
        """Where a user may have the file of a name, for folders of one's own are searched only where they are named."""
        if self.folders[0].named_by_user:
            return None
        found = sorted(Path().glob(f"*/{name}.y*ml")) if PLAIN.fullmatch(name) else []
        return f"for {found[0]} add --methods-dir {found[0].parent}" if found else "your own need --methods-dir FOLDER"

    def _kind(self, name: str) -> str:
        try:
            return str(read_yaml(self._paths[name][0]).get("kind"))
        except UserError:  # a broken file hurts only who uses it
            return ""

    def _resolve_part(
        self, file: MethodFile, context: dict[str, str], settings: MethodSettings, pinned: PinnedFile | None
    ) -> Part:
        path, folder = self._paths[file.name]
        overlay: dict[str, Parameter] = getattr(pinned, file.slot) if pinned else {}
        own_rates = pinned.learning_rates if pinned and file.kind == "loss" else {}
        where = str(self._paths[pinned.name][0] if pinned and (overlay or own_rates) else path)
        stated = {name: pinned.published_for for name in (*overlay, *own_rates) if pinned}
        rates = resolved_rates(file, file.learning_rates | own_rates, context, where, stated)
        values = {
            name: parameter.resolve(context, f"{where}: {name}", stated.get(name, file.published_for))
            for name, parameter in (file.parameters | overlay).items()
        }
        own: dict[str, Scalar] = getattr(settings, file.slot)
        given = {name: value for name, value in own.items() if name in values}
        rates |= _given_rates(rates, own, settings, file.slot)
        typed = checked(file, values, where)
        for name, value in given.items():
            content = {"value": value, "source": settings.source, "published": False}
            values[name] = validate(ResolvedValue, content, f"{settings.where} {file.slot}.{name}")
        if given:
            found = checked(file, values, f"{settings.where} {file.slot}")
            # The file's value once more is no other experiment; among tuned ones it is what tuning chose.
            same = [n for n in given if not settings.tuned and repr(found[n].value) == repr(typed[n].value)]
            typed = found | {name: typed[name] for name in same}
        part = Part(
            name=file.name,
            title=file.title,
            kind=file.kind,
            class_name=file.class_name,
            variant=file.variant,
            teacher=file.teacher,
            teacher_mode=_teacher_mode(file, own, f"{settings.where} {file.slot}"),
            parameters=typed,
            learning_rates=rates,
            **plugin(file, folder),
        )
        return _with_trained_teacher(part, own, f"{settings.where} {file.slot}")


def fits(base: MethodFile, modifier: MethodFile) -> bool:
    """Whether a base's loss takes what a modifier gives it; of plugins that is known once they are built."""
    if base.plugin or modifier.plugin:
        return True
    return takes_references(base) or not takes_references(modifier)


def _given_rates(
    rates: dict[str, ResolvedValue], own: dict[str, Scalar], settings: MethodSettings, slot: Slot
) -> dict[str, ResolvedValue]:
    """The rates that settings give, as `learning_rates.NAME`, of those that the method has."""
    given = {name: value for key, value in own.items() if (name := key.removeprefix(RATE)) != key and name in rates}
    found = {}
    for name, value in given.items():
        rate = validate(LearningRate, {"rate": value}, f"{settings.where} {slot}.{RATE}{name}").rate
        found[name] = ResolvedValue(value=rate, source=settings.source, published=False)
    return found


def _own_marks(*files: MethodFile) -> tuple[str, ...]:
    """Marks of files without a paper, and marks that the files state."""
    return _new(*files) + tuple(dict.fromkeys(file.mark for file in files if file.mark))


def _new(*files: MethodFile) -> tuple[str, ...]:
    return () if all(file.paper for file in files) else (NEW,)


def _marks(*parts: Part, known: bool) -> tuple[str, ...]:
    """Where values come from, learning rates too; `known` is whether the method is in a paper."""
    values = [value for part in parts for value in (*part.parameters.values(), *part.learning_rates.values())]
    untuned = any(not value.published and not value.transferred_from for value in values)
    origins = dict.fromkeys(protocol for value in values for protocol in value.transferred_from[:1])
    evaluates = any(part.runs_teacher and part.teacher_mode == "eval" and part.teacher != "weights" for part in parts)
    marks = {
        (DEFINITION if any(value.anywhere for value in values) else PUBLISHED): (
            known and bool(values) and not untuned and not origins
        ),
        UNTUNED: untuned,
        TRANSFERRED.format(", ".join(origins)): bool(origins),
        EVAL_TEACHER: evaluates,
    }
    return tuple(mark for mark, applies in marks.items() if applies)


def under_settings(method: MethodSpec, protocol: str, changed: Iterable[str]) -> MethodSpec:
    """A method under a protocol of which settings changed how it trains: what was published was so without them."""
    trains = any(key.startswith(("model.", "input.", "training.")) and not key.startswith(VARY) for key in changed)
    if not trains or PUBLISHED not in method.marks:
        return method
    other = TRANSFERRED.format(f"{protocol} without --set")
    return method.model_copy(update={"marks": tuple(other if own == PUBLISHED else own for own in method.marks)})


def _teacher_mode(file: MethodFile, given: dict[str, Scalar], where: str) -> TeacherMode:
    """The mode of a teacher that is a network; `eval` elsewhere, where none is run."""
    if file.kind == "loss" or file.teacher not in ("previous-epoch", "ema"):
        return "eval"
    asked = given.get(TEACHER_MODE, file.teacher_mode)
    modes: dict[Scalar, TeacherMode] = {mode: mode for mode in get_args(TeacherMode)}
    if asked not in modes:
        raise UserError(
            f"{where}.{TEACHER_MODE}: unknown mode {asked!r}", hint=f"valid: {', '.join(get_args(TeacherMode))}"
        )
    return modes[asked]


def _with_trained_teacher(part: Part, given: dict[str, Scalar], where: str) -> Part:
    """The part with a network that was trained before as its teacher, in eval mode unless settings say otherwise."""
    if TEACHER_WEIGHTS not in given or TEACHER_WEIGHTS not in part.accepted():
        return part
    where, named = f"{where}.{TEACHER_WEIGHTS}", given[TEACHER_WEIGHTS]
    path = path_of(str(named), where)
    if not is_file_of_weights(str(named)) or not path.is_file():
        raise UserError(f"{where}: no file of weights {named!r}", hint="`run --keep weights` writes one")
    update = {
        "variant": f"{part.variant}; here the teacher is a network that was trained before".removeprefix("; "),
        "teacher": "weights",
        TEACHER_WEIGHTS: str(path),
        f"{TEACHER_WEIGHTS}_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        TEACHER_MODE: given.get(TEACHER_MODE, "eval"),
    }
    return part.model_copy(update=update)


def _index(folder: Path) -> dict[str, Path]:
    """Method names of a folder's files; a file that cannot be read is found under its stem, to fail when used."""
    index: dict[str, Path] = {}
    for path in sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")]):
        try:
            name = str(read_yaml(path).get("name", path.stem))
        except UserError:
            name = path.stem
        if name in index:
            raise UserError(f"{folder}: the name {name!r} stands in both {index[name].name} and {path.name}")
        index[name] = path
    return index
