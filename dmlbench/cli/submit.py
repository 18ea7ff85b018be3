"""`dmlbench submit`."""

from pathlib import Path

import click

from dmlbench.cli.options import PATH, Command, results_option
from dmlbench.cli.terminal import echo
from dmlbench.errors import counted


@click.command("submit", cls=Command)
@results_option()
@click.option(
    "--output", type=PATH, help="The archive, NAME.tar.gz; it unpacks into a folder NAME. Required without --check."
)
@click.option("--check", is_flag=True, help="Check only, and pack nothing.")
def command(results: Path, output: Path | None, check: bool) -> int:
    """Check a results folder, and pack it for a pull request.

    Every result must agree with its spec, hash and history, state the machine, the training code and the dataset's
    fingerprint, and hold no absolute path. Logs, weights and embeddings are left out. Unpack the archive in results/
    of a clone of dmlbench, and open a pull request.

    \b
    Examples:
      dmlbench submit --check
      dmlbench submit --results results/runs --output my-lab.tar.gz
    """
    from dmlbench.api.submission import check_submission, pack
    from dmlbench.errors import UserError

    if check and output:
        raise UserError("--check and --output exclude each other", hint="leave out one")
    if not check and not output:
        raise UserError("--output: is required", hint="for example --output my-lab.tar.gz, or --check to check only")
    found = check_submission(results)
    for problem in found.problems:
        echo(f"error: {problem}", err=True)
    for note in found.notes:
        echo(note)
    if found.problems:
        echo(f"{counted(len(found.problems), 'problem')}: nothing is packed", err=True)
        return 1
    if not output:
        echo(f"{counted(len(found.files), 'file')} can be submitted")
        return 0
    target = pack(results, found, output)
    echo(f"{counted(len(found.files), 'file')} in {target}; unpack it in results/ of a clone, and open a pull request")
    return 0
