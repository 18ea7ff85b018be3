"""What commands print without rich."""

import click

from dmlbench.wording import printable


def echo(text: str, *, err: bool = False) -> None:
    """Print text; control characters of a file's or a class's name are shown, not obeyed."""
    click.echo(printable(text, keep="\n\t"), err=err)
