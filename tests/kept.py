"""Finished cells with kept embeddings, as `--keep embeddings` leaves them."""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from dmlbench.results.writer import CellWriter


def keep(folder: Path, embeddings, labels) -> Path:
    """Put embeddings into a finished cell's folder, known to its summary; the R@1 of the summary stays as it was."""
    tensors = {"embeddings": np.asarray(embeddings, dtype=np.float32), "labels": np.asarray(labels, dtype=np.int64)}
    save_file(tensors, folder / "embeddings.safetensors")
    return finish_again(folder)


def finish_again(folder: Path, **changes) -> Path:
    """Write the summary anew, with the digests of the files that are there now and some `changes`."""
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    rest = {key: value for key, value in summary.items() if key not in ("version", "files", "digest")}
    CellWriter(folder).finish(rest | changes)
    return folder


def angles(*degrees: float) -> np.ndarray:
    """Unit vectors in the plane, (N, 2): neighbours are found by hand from the differences of their angles."""
    radians = np.deg2rad(np.array(degrees, dtype=float))
    return np.stack([np.cos(radians), np.sin(radians)], axis=1)
