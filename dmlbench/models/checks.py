"""Whether the networks of cells can be built: asked before a run, and by `--dry-run`, which downloads nothing."""

from collections.abc import Sequence

from dmlbench.specs.cell import Cell, ProtocolSpec, digest, protocol_identity


def check_networks(cells: Sequence[Cell], *, download: bool) -> list[str]:
    """Build every network once: a misspelt backbone or weights that do not fit are one error, not one a cell.

    Args:
        cells: Whose networks.
        download: Whether weights that a library knows by name are downloaded where they are missing.

    Returns:
        What is still to be downloaded, in words.

    Raises:
        UserError: for a backbone, arguments, weights or a size of images that a run would refuse.
    """
    missing = []
    for protocol in {digest(protocol_identity(cell.protocol)): cell.protocol for cell in cells}.values():
        if _can_fail(protocol):
            from dmlbench.models.model import build_model
            from dmlbench.models.pretrained import to_download

            build_model(protocol.model, protocol.input, download=download)
            missing.append(to_download(protocol.model))
    return list(dict.fromkeys(filter(None, missing)))


def _can_fail(protocol: ProtocolSpec) -> bool:
    """A plain conv4 cannot and is spared: it would be the only reason to import torch where cells are planned."""
    model = protocol.model
    return bool(model.backbone != "conv4" or model.kwargs or model.weights or protocol.input.size < 16)
