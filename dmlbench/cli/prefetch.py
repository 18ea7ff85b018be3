"""`dmlbench prefetch`."""

from typing import Any

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
    set_option,
    skip_bad_option,
)
from dmlbench.cli.terminal import echo


@click.command("prefetch", cls=Command)
@click.argument("study", required=False, type=PATH)
@methods_option(required=False)
@datasets_option(required=False)
@protocol_option()
@set_option()
@claim_option("Load also what the methods of a claim need, e.g. psd:contrastive,triplet. Repeatable.")
@data_dir_option()
@methods_dir_option()
@skip_bad_option()
def command(**options: Any) -> None:  # noqa: ANN401 - click's options
    """Load the data and pretrained weights of a run, on a machine with internet for those without.

    It takes the arguments of `run` that say what is run. Data go to the data folder, weights to the caches of torch
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

    created(options["data_dir"])
    request = requested(options, (0,), claims_of(options))
    for name in request.datasets:
        fetch_dataset(name, "--datasets", request.data_dir)
    cells = plan(request, echo)
    for spec in {cell.dataset.name: cell.dataset for cell in cells}.values():
        prepare(spec, request.data_dir, echo)
    check_protocols(cells, download=True)
    models = [cell.protocol.model for cell in cells if has_download(cell.protocol.model)]
    for line in dict.fromkeys(f"weights {model.weights} of {model.backbone}: {kept_as(model)}" for model in models):
        echo(line)
    echo("ready: machines that see these folders run it without internet")
