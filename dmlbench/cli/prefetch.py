"""`dmlbench prefetch`."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from dmlbench.cli.options import (
    PATH,
    Command,
    claim_option,
    data_dir_option,
    datasets_option,
    methods_dir_option,
    methods_option,
    protocol_option,
    results_option,
    set_option,
    skip_bad_option,
    tuned_option,
    vary_option,
)
from dmlbench.cli.terminal import echo

if TYPE_CHECKING:
    from dmlbench.runner.matrix import Request


@click.command("prefetch", cls=Command)
@click.argument("study", required=False, type=PATH)
@methods_option(required=False)
@datasets_option(required=False)
@protocol_option()
@set_option()
@vary_option()
@claim_option("Load also what the methods of a claim need, e.g. psd:contrastive,triplet. Repeatable.")
@tuned_option()
@data_dir_option()
@methods_dir_option()
@results_option("Folder for results, where --tuned without FILE looks.")
@skip_bad_option()
def command(**options: Any) -> None:  # noqa: ANN401 - click's options
    """Load the data and pretrained weights of a run, on a machine with internet for those without.

    It takes the arguments of `run` that say what is run, but seeds: all seeds need the same. Names and settings are
    checked before anything is loaded. Data go to the data folder, weights to the caches of torch
    (TORCH_HOME) and Hugging Face (HF_HOME); machines that share these folders need no internet.

    \b
    Examples:
      dmlbench prefetch --methods ms,ms+obdsd --datasets cub --data-dir data
      dmlbench prefetch study.yaml
    """
    from dmlbench.cli.data import created, fetch_dataset
    from dmlbench.cli.run import claims_of, requested
    from dmlbench.data.ready import prepare
    from dmlbench.models.pretrained import has_download, kept_as
    from dmlbench.runner.matrix import check_protocols, plan

    _check(requested(options | {"data_dir": None}, (0,), claims_of(options)))  # before the folder is made
    created(options["data_dir"])
    request = requested(options, (0,), claims_of(options))
    for name in request.datasets:
        fetch_dataset(name, "--datasets", request.data_dir)
    cells = plan(request, echo)
    for spec in {cell.dataset.name: cell.dataset for cell in cells}.values():
        prepare(spec, request.data_dir, echo)
    for line in check_protocols(cells, download=False):
        echo(f"loading: {line}")
    check_protocols(cells, download=True)
    models = [cell.protocol.model for cell in cells if has_download(cell.protocol.model)]
    for line in dict.fromkeys(f"weights {model.weights} of {model.backbone}: {kept_as(model)}" for model in models):
        echo(line)
    echo("ready: machines that see these folders run it without internet")


def _check(request: "Request") -> None:
    """Raise UserError for what a run would refuse, as far as that is known without data and weights."""
    from dmlbench.runner.matrix import check_protocols, plan

    # Which images are left out is known of images that are there, and tuned values hold for these data.
    known = replace(request, skip_bad=False, tuned=None) if request.skip_bad else request
    check_protocols(plan(known), download=False)
