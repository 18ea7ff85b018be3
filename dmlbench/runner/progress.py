"""Shows a run: bars on a terminal, plain lines elsewhere."""

import errno
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

from rich.console import Console, ConsoleOptions, RenderableType
from rich.measure import Measurement
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.segment import Segment
from rich.table import Table

from dmlbench.errors import printable
from dmlbench.results.events import Claimed, Epoch, Event, Finished, Halted, Started, Stopped
from dmlbench.results.history import Row
from dmlbench.results.records import Failure
from dmlbench.specs.cell import Cell

PLAIN_LINES_PER_CELL = 4
WIDEST, LONGEST_WORD = 1000, 24  # characters of a table, and of a word in it that is kept whole


class SafeConsole(Console):
    """A console that shows names from outside as they are and never obeys them: they may hold escape sequences."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """As rich does, with what would steer the terminal as an escape; line ends are rich's own by now."""
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else printable(text, keep="\n"), style, control)

    def print(self, *objects: Any, **options: Any) -> None:  # noqa: ANN401 - rich's own
        """As rich does, but a table too wide for the terminal goes beyond its edge: a number cut short is another."""
        needed = max((self._least(one) for one in objects if isinstance(one, Table)), default=0)
        if needed <= self.width:
            super().print(*objects, **options)
            return
        with self._lock:  # other threads print lines meanwhile
            before, self.width = self._width, needed
            try:
                super().print(*objects, **options)
            finally:
                self._width = before

    def on_broken_pipe(self) -> None:
        """Let the error go on: rich would end the command here, without a word."""
        raise BrokenPipeError(errno.EPIPE, "nobody reads it any more")

    def _least(self, table: Table) -> int:
        """The least width of a table with whole words, which its columns are made to keep."""
        plenty = self.options.update(width=WIDEST)
        for column in table.columns:
            sizes = [Measurement.get(self, plenty, cell) for cell in (column.header, *column.cells)]
            words = max(size.maximum if column.no_wrap else min(size.minimum, LONGEST_WORD) for size in sizes)
            column.min_width = words if column.min_width is None else column.min_width
        return Measurement.get(self, plenty, table).minimum

    def say(self, line: str) -> None:
        """Print one line, as long as it is; where a name in it has line ends, these are escapes, too."""
        self.print(printable(line), markup=False, soft_wrap=True)


def plain_or_wide(*, stderr: bool = False) -> SafeConsole:
    """A console: as wide as the terminal, or wide enough for tables where there is none."""
    # Without markup: a name in square brackets is a name.
    console = SafeConsole(stderr=stderr, highlight=False, markup=False, soft_wrap=False)
    return console if console.is_terminal else SafeConsole(stderr=stderr, highlight=False, markup=False, width=140)


class Display:
    """An observer of a run that shows cells, epochs, loss, R@1 and the time left."""

    def __init__(self, console: SafeConsole, cells: int) -> None:
        self.console = console
        self.cells = cells
        self.ended = 0
        self.started: dict[str, float] = {}
        self.bars: dict[str, TaskID] = {}
        self.progress = Progress(
            TextColumn("{task.description}", justify="left", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self.all = self.progress.add_task("all cells", total=cells, figures="")

    def __enter__(self) -> Self:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def __call__(self, cell: Cell, folder: Path, event: Event) -> None:
        """Show one event of a cell."""
        match event:
            case Started():
                self._start(cell)
            case Epoch():
                self._epoch(cell, event)
            case Finished(error=None):
                seconds = time.monotonic() - self.started.get(cell.hash, time.monotonic())
                self._end(cell, f"done in {seconds:.0f} s")
            case Finished(error=Failure() as error):
                self._end(cell, f"FAILED: {error.message} (log: {folder / 'log.txt'})")
            case Claimed():
                self._end(cell, f"another process {'has run it' if event.done else 'has it'}")
            case Halted():
                self._end(cell, f"HALTED: {event.error.message}")
            case Stopped():
                self._end(cell, "stopped, not lost")

    def _start(self, cell: Cell) -> None:
        if cell.hash in self.bars:  # begun again, on another node
            self.progress.remove_task(self.bars.pop(cell.hash))
        self.started[cell.hash] = time.monotonic()
        epochs = cell.protocol.training.epochs
        self.bars[cell.hash] = self.progress.add_task(cell.label, total=epochs, figures="starting")

    def _epoch(self, cell: Cell, event: Epoch) -> None:
        epoch, epochs, figures = event.epoch, event.epochs, _figures(event.row)
        self.progress.update(self.bars[cell.hash], completed=epoch)
        if figures:
            self.progress.update(self.bars[cell.hash], figures=figures)
        # The share of the epochs before this one ends in another quarter: say so.
        quarter = epoch * PLAIN_LINES_PER_CELL // epochs != (epoch - 1) * PLAIN_LINES_PER_CELL // epochs
        if not self.console.is_terminal and epoch and epoch != epochs and quarter:
            self.console.say(f"{cell.label}: epoch {epoch} of {epochs}{', ' + figures if figures else ''}")

    def _end(self, cell: Cell, words: str) -> None:
        self.ended += 1
        self.progress.advance(self.all)
        if cell.hash in self.bars:
            self.progress.remove_task(self.bars.pop(cell.hash))
        self.console.say(f"[{self.ended}/{self.cells}] {cell.label}: {words}")


def _figures(row: Row) -> str:
    loss, recall = row.get("train/loss"), row.get("test/recall_at_1")
    parts = ["" if loss is None else f"loss {loss:.3f}", "" if recall is None else f"R@1 {100 * recall:.1f}"]
    return "  ".join(filter(None, parts))
