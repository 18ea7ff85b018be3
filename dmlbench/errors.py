"""Errors with a place of their own: a user's mistake, told in one line, and a training that diverged, a full disk."""

import difflib
from collections.abc import Iterable


def printable(text: str) -> str:
    """Text for a terminal or a figure: what would steer it, or cannot be encoded, stands there as an escape.

    Names of files and classes may hold anything: escape sequences, line breaks, bytes that are no UTF-8.
    """
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)


class UserError(Exception):
    """A mistake in names, files or settings; printed as one line, exit code 2, without a traceback.

    Args:
        message: What is wrong and where (``file: key``), in one sentence without a final full stop.
        hint: The next command or the valid values, appended after a semicolon.
    """

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(f"{message}; {hint}" if hint else message)


class StorageError(RuntimeError):
    """The results folder cannot be written: no result is at fault, and what was written before is whole."""


class DivergedError(ArithmeticError):
    """A loss or an embedding was not finite: the cell fails as `diverged`, and the message says when."""


def unknown_name(
    what: str, name: str, valid: Iterable[str], *, where: str | None = None, command: str | None = None
) -> UserError:
    """Build the error for a misspelt name: the nearest valid name first, then all of them."""
    names = sorted(valid)
    by_lower_case = {valid_name.lower(): valid_name for valid_name in names}
    near = [by_lower_case[match] for match in difflib.get_close_matches(name.lower(), by_lower_case, n=1)]
    parts = [f"did you mean {near[0]!r}?"] if near else []
    parts.append(f"valid: {', '.join(names)}" if names else "there are none")
    if command:
        parts.append(f"see `{command}`")
    place = f"{where}: " if where else ""
    return UserError(f"{place}unknown {what} {name!r}", hint="; ".join(parts))
