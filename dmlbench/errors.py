"""Lines for people, one each and safe for a terminal; errors that are not bugs; files that are not what they should be.

Such a file is named and left out, and never stops the rest.
"""

import difflib
import unicodedata
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

LONGEST = 1000  # characters of a message: what is quoted from a user may be a page
ESCAPED = ("Cc", "Cf", "Cs", "Zl", "Zp")  # Unicode's controls, invisible formats, lone surrogates, separators


def printable(text: str, keep: str = "") -> str:
    r"""Text with what a terminal would obey, or could not print, as an escape such as `\x1b`.

    Args:
        text: Anything, such as a file's name.
        keep: Characters that stay, such as a newline.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        character
        if character in keep or unicodedata.category(character) not in ESCAPED
        else character.encode("unicode_escape").decode("ascii")
        for character in text
    )


def one_line(text: str, most: int = LONGEST) -> str:
    """Text as one printable line of at most `most` characters; what is too long loses its middle."""
    line = printable(" ".join(part.strip() for part in text.splitlines()) if "\n" in text else text)
    if len(line) <= most:
        return line
    cut = f" … ({len(line) - most:,} characters left out) … "
    return line[: 2 * most // 3] + cut + line[-(most // 3) :]


def counted(number: int, noun: str, plural: str = "") -> str:
    """`1 cell`, `2 cells`; `plural` where it is not the noun with an s."""
    return f"{number} {inflected(number, noun, plural or noun + 's')}"


def inflected(number: int, one: str, more: str) -> str:
    """The form of a word that goes with a number: `inflected(1, "has", "have")`."""
    return one if number == 1 else more


MOST_NAMES = 50  # that an error lists


class UserError(Exception):
    """A mistake in names, files or settings; printed as one line, exit code 2, without a traceback.

    Args:
        message: What is wrong and where (``file: key``), in one sentence without a final full stop.
        hint: The next command or the valid values, appended after a semicolon.

    Both are shortened where they quote a page, so that a long value never hides the hint.

    Attributes:
        unshortened: Both as they were given: what passes on another process' error needs its last line.
    """

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        self.unshortened = f"{message}; {hint}" if hint else message
        line = one_line(message)
        super().__init__(f"{line}; {one_line(hint)}" if hint else line)


class StorageError(RuntimeError):
    """The results folder cannot be written: no result is at fault, and what was written before is whole."""


class DivergedError(ArithmeticError):
    """A loss or an embedding was not finite: the cell fails as `diverged`, and the message says when."""


def unknown_name(
    what: str,
    name: str,
    valid: Iterable[str],
    *,
    where: str | None = None,
    command: str | None = None,
    also: str | None = None,
    meant: str | None = None,
) -> UserError:
    """Build the error for a misspelt name: the nearest valid name first, then all of them, then what may help.

    `meant` is the guess where no name is near.
    """
    names = sorted(valid)
    by_lower_case = {valid_name.lower(): valid_name for valid_name in names}
    near = [by_lower_case[match] for match in difflib.get_close_matches(name.lower(), by_lower_case, n=1)]
    near += [meant] if meant else []
    parts = [f"did you mean {near[0]!r}?"] if near else []
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    parts.append(f"valid: {', '.join(names[:MOST_NAMES])}{more}" if names else "there are none")
    if command:
        parts.append(f"see `{command}`")
    if also:
        parts.append(also)
    prefix = f"{where}: " if where else ""
    return UserError(f"{prefix}unknown {what} {name!r}", hint="; ".join(parts))


Content = TypeVar("Content")


@dataclass(frozen=True)
class Damaged:
    """What could not be read.

    Attributes:
        path: The cell's folder, or the file where it belongs to no cell.
        reason: One line that begins with the file.
    """

    path: Path
    reason: str


OnDamaged = Callable[[Damaged], None]


def warn(damaged: Damaged) -> None:
    """Say it as a Python warning: what is done where the caller of a function of this package says nothing else."""
    warnings.warn(f"left out: {damaged.reason}", stacklevel=2)


def attempt(read: Callable[[Path], Content], path: Path) -> Content | Damaged:
    """What `read(path)` returns, or why it cannot be read."""
    try:
        return read(path)
    except UserError as error:
        return Damaged(path, str(error))


def sound(found: Iterable[Content | Damaged], damaged: OnDamaged) -> Iterator[Content]:
    """Pass on what could be read, and give the rest to `damaged`."""
    for item in found:
        if isinstance(item, Damaged):
            damaged(item)
        else:
            yield item
