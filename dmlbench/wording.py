"""How lines for people are worded: one line each, safe for a terminal, with the right number."""

import unicodedata

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
        character if character in keep or unicodedata.category(character) not in ESCAPED else _escape(character)
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


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
