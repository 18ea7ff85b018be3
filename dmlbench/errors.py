"""Errors with a place of their own: a user's mistake, told in one line, and a training that diverged, a full disk."""

import difflib
from collections.abc import Iterable

from dmlbench.wording import one_line

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
        told = one_line(message)
        super().__init__(f"{told}; {one_line(hint)}" if hint else told)


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
) -> UserError:
    """Build the error for a misspelt name: the nearest valid name first, then all of them, then what may help."""
    names = sorted(valid)
    by_lower_case = {valid_name.lower(): valid_name for valid_name in names}
    near = [by_lower_case[match] for match in difflib.get_close_matches(name.lower(), by_lower_case, n=1)]
    parts = [f"did you mean {near[0]!r}?"] if near else []
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    parts.append(f"valid: {', '.join(names[:MOST_NAMES])}{more}" if names else "there are none")
    if command:
        parts.append(f"see `{command}`")
    if also:
        parts.append(also)
    place = f"{where}: " if where else ""
    return UserError(f"{place}unknown {what} {name!r}", hint="; ".join(parts))
