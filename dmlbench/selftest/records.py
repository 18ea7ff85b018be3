"""What a self-test found: figures with their bounds, a record a check, and the report in the results folder."""

import math
import re
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from dmlbench.atomic import write_atomically
from dmlbench.errors import UserError, counted, one_line
from dmlbench.results.records import Code, Environment

FOLDER = "selftest"
LOG = "output.txt"  # of the scratch folder: what libraries print
MOST_FIGURES = 6  # that a table's cell names; of more it shows the one nearest to its bound
Status = Literal["pass", "fail", "skipped"]


class Record(BaseModel):
    """A part of the report; a number that is not finite is written as text, which JSON can hold."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


class Figure(Record):
    """A number with what it is held to; without a bound it is shown and decides nothing."""

    name: str
    value: float
    unit: str = ""
    at_most: float | None = None
    at_least: float | None = None

    @property
    def bounded(self) -> bool:
        """Whether it is held to anything."""
        return self.at_most is not None or self.at_least is not None

    @property
    def holds(self) -> bool:
        """Whether it keeps its bounds; NaN keeps none."""
        return self.used <= 1 if self.bounded else True

    @property
    def used(self) -> float:
        """How much of what its bounds allow it takes: above 1 where it does not hold."""
        shares = [0.0] if self.bounded else []
        if self.at_most is not None:
            shares.append(_used(self.value, self.at_most))
        if self.at_least is not None:
            shares.append(_used(self.at_least, self.value))
        return math.inf if any(map(math.isnan, (*shares, self.value))) else max(shares, default=0.0)

    @property
    def text(self) -> str:
        """For people: `ms, gradient: 1.1e-07 (at most 0.0001)`."""
        unit = f" {self.unit}" if self.unit else ""
        bounds = [
            f"{words} {_short(bound)}"
            for words, bound in (("at least", self.at_least), ("at most", self.at_most))
            if bound is not None
        ]
        held = f" ({', '.join(bounds)})" if bounds else ""
        return f"{self.name}: {_short(self.value)}{unit}{held}"


class Outcome(Record):
    """What a check found: its figures, and what they mean where that needs words."""

    figures: tuple[Figure, ...]
    note: str = ""


class CheckRecord(Record):
    """How a check ended; `reason` says why it failed or was skipped, in one line."""

    name: str
    title: str
    status: Status
    reason: str = ""
    figures: tuple[Figure, ...] = ()
    note: str = ""
    seconds: float = 0.0

    @classmethod
    def of(cls, name: str, title: str, outcome: Outcome, seconds: float) -> "CheckRecord":
        """The record of a check that ran to its end: it passes where every figure keeps its bounds."""
        broken = [figure.text for figure in outcome.figures if not figure.holds]
        if not any(figure.bounded for figure in outcome.figures):
            broken = ["no figure has a bound, so nothing was checked"]
        more = f", and {len(broken) - MOST_FIGURES} more" if len(broken) > MOST_FIGURES else ""
        return cls(
            name=name,
            title=title,
            status="fail" if broken else "pass",
            reason="; ".join(broken[:MOST_FIGURES]) + more,
            figures=outcome.figures,
            note=outcome.note,
            seconds=seconds,
        )

    @property
    def lines(self) -> list[str]:
        """Its figures in words: the reason where there is one, all of a few, of many the one nearest to its bound."""
        if self.reason:
            return [self.reason, *([self.note] if self.note else [])]
        if len(self.figures) <= MOST_FIGURES:
            shown = [figure.text for figure in self.figures]
        else:
            nearest = max(self.figures, key=lambda figure: figure.used)
            shown = [f"{counted(len(self.figures), 'figure')}, nearest to its bound: {nearest.text}"]
        return [*shown, *([self.note] if self.note else [])]


class Ready(Record):
    """What the process of the checks says first: the device that it works on, the machine and the code."""

    device: str
    environment: Environment
    code: Code


class Report(Record):
    """A self-test of one device.

    Attributes:
        started: ISO 8601, in UTC.
        device: `cpu` or `cuda:0`.
        minutes: The time it was given.
    """

    version: Literal[1] = 1
    started: str
    device: str
    minutes: int
    seconds: float
    environment: Environment
    code: Code
    checks: tuple[CheckRecord, ...]

    @property
    def failed(self) -> list[CheckRecord]:
        """The checks that failed."""
        return [check for check in self.checks if check.status == "fail"]

    @property
    def device_name(self) -> str:
        """The GPU's or the processor's name, for people."""
        return self.environment.gpu or self.environment.cpu or self.device

    @property
    def verdict(self) -> str:
        """For people, one line: how many checks passed, failed and were skipped."""
        counts = {
            status: sum(check.status == status for check in self.checks) for status in ("pass", "fail", "skipped")
        }
        return f"{counts['pass']} passed, {counts['fail']} failed, {counts['skipped']} skipped in {self.seconds:.0f} s"

    @property
    def markdown(self) -> str:
        """The report as a small page."""
        known = self.environment.as_json()
        libraries = ", ".join(
            f"{name} {known[name]}" for name in ("dmlbench", "torch", "cuda", "driver") if known.get(name)
        )
        rows = [
            (check.name, check.status, _cell(check.title), _cell("; ".join(check.lines)), f"{check.seconds:.1f}")
            for check in self.checks
        ]
        return "\n".join((
            f"# Self-test of {self.device_name} ({self.device})",
            "",
            f"{self.verdict}; {self.started}, --minutes {self.minutes}; {libraries}; training code {self.code.digest}",
            "",
            "| check | result | what | figures | seconds |",
            "|---|---|---|---|---|",
            *(f"| {' | '.join(row)} |" for row in rows),
            "",
        ))  # fmt: skip


def save(results: Path, report: Report) -> Path:
    """Write a report into a new folder of the results folder: `report.json` and `report.md`.

    Returns:
        The folder, `RESULTS/selftest/DATE-DEVICE`; one that is there already stays, and the new one has a number.

    Raises:
        UserError: where that is not possible.
    """
    day = datetime.fromisoformat(report.started).astimezone(UTC).strftime("%Y%m%d-%H%M%S")
    stem = f"{day}-{re.sub(r'[^a-z0-9]+', '-', report.device_name.lower()).strip('-')}"
    try:
        folder = _new_folder(results / FOLDER, stem)
        write_atomically(folder / "report.json", report.model_dump_json(indent=1, exclude_none=True) + "\n")
        write_atomically(folder / "report.md", report.markdown)
    except OSError as error:
        what = f"{results / FOLDER}: cannot be written ({error.strerror})"
        raise UserError(what, hint="name another --results") from error
    return folder


def _new_folder(root: Path, stem: str) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for number in count(1):
        folder = root / (stem if number == 1 else f"{stem}-{number}")
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        return folder
    raise AssertionError("unreachable")


def _used(value: float, bound: float) -> float:
    """Value over bound, where both are at least 0; with a bound of 0 nothing else than 0 is within."""
    if bound > 0:
        return value / bound
    return 0.0 if value <= bound else math.inf


def _short(value: float) -> str:
    """Three digits, and a whole number or a large one without a fraction."""
    return f"{value:,.0f}" if value.is_integer() or 1000 <= abs(value) < math.inf else f"{value:.3g}"


def _cell(text: str) -> str:
    return one_line(text).replace("|", "\\|")
