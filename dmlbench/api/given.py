"""Embeddings that a user computed, read from files and scored as a cell's test classes are."""

import csv
import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from dmlbench.errors import UserError

FORMATS = ".npz, .npy or .safetensors"
LABELS = ".npy, .csv or .txt"
KEYS = "a file holds the arrays `embeddings` (N x D) and `labels` (N), and `queries` (N) where some search the others"
WRONG = (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile, SafetensorError, csv.Error)
ROLES = {"query": True, "gallery": False}
Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Given:
    """Embeddings of one set of test images.

    Attributes:
        path: Their file.
        embeddings: (N, D) float32 or float64, finite.
        labels: (N,) int64; classes that were named by texts are numbered in their order.
        queries: (N,) which are queries, that search among the others; None where each searches all others.
        sha256: Of the file of embeddings.
    """

    path: Path
    embeddings: NDArray[np.floating[Any]]
    labels: NDArray[np.int64]
    queries: NDArray[np.bool_] | None
    sha256: str

    @property
    def sides(self) -> tuple[tuple[NDArray[Any], NDArray[Any]], tuple[NDArray[Any], NDArray[Any]] | None]:
        """Queries and their labels, and the gallery and its; None for the gallery where each is both."""
        if self.queries is None:
            return (self.embeddings, self.labels), None
        asking = self.queries
        return (self.embeddings[asking], self.labels[asking]), (self.embeddings[~asking], self.labels[~asking])


def read_given(path: Path, labels: Path | None = None) -> Given:
    """Read embeddings, and their labels from a file of their own or from the same.

    Raises:
        UserError: for a file that is none or holds something else, with what it should hold.
    """
    arrays, sha256 = _arrays(path)
    if "embeddings" not in arrays and len(arrays) == 1:
        arrays = {"embeddings": next(iter(arrays.values()))}
    if "embeddings" not in arrays:
        found = ", ".join(sorted(arrays)[:5]) or "nothing"
        raise UserError(f"--embeddings {path}: holds no array `embeddings`, but {found}", hint=KEYS)
    embeddings = _checked(path, arrays["embeddings"])
    told = _labels(labels) if labels else {key: arrays[key] for key in ("labels", "queries") if key in arrays}
    if "labels" not in told:
        hint = f"--labels FILE ({LABELS}) names them; or {KEYS}"
        raise UserError(f"--embeddings {path}: holds no labels", hint=hint)
    where = f"--labels {labels}" if labels else f"--embeddings {path}"
    classes = _numbered(where, told["labels"], len(embeddings))
    queries = told.get("queries", arrays.get("queries"))
    return Given(
        path, embeddings, classes, None if queries is None else _roles(where, queries, len(embeddings)), sha256
    )


def _arrays(path: Path) -> tuple[Arrays, str]:
    """The arrays of a file by name, and its SHA-256."""
    if path.suffix not in (".npz", ".npy", ".safetensors"):
        raise UserError(f"--embeddings {path}: must be a {FORMATS} file", hint=KEYS)
    try:
        content = path.read_bytes()
        sha256 = hashlib.sha256(content).hexdigest()
        if path.suffix == ".safetensors":
            return _safetensors(path), sha256
        found = np.load(io.BytesIO(content), allow_pickle=False)
        return ({"embeddings": found} if path.suffix == ".npy" else dict(found)), sha256
    except FileNotFoundError:
        raise UserError(f"--embeddings {path}: no such file", hint=KEYS) from None
    except WRONG as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:100]
        raise UserError(f"--embeddings {path}: not a readable {path.suffix} file ({reason})", hint=KEYS) from error


def _safetensors(path: Path) -> Arrays:
    """Tensors as arrays; labels also from the metadata `labels`, a JSON list."""
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        told = (file.metadata() or {}).get("labels")
    if told is not None and "labels" not in tensors:
        tensors["labels"] = np.array(json.loads(told))
    half = {name for name, own in tensors.items() if own.dtype is torch.bfloat16}
    # NumPy has no bfloat16: what is refused afterwards must be read first.
    return {name: np.asarray(own.half() if name in half else own) for name, own in tensors.items()}


def _checked(path: Path, embeddings: NDArray[Any]) -> NDArray[np.floating[Any]]:
    """Embeddings as they must be; raises UserError with what they are."""
    where = f"--embeddings {path}"
    if embeddings.ndim != 2 or 0 in embeddings.shape:
        raise UserError(f"{where}: must have the shape (N, D), not {embeddings.shape}")
    if embeddings.dtype == np.float16:
        hint = "save them as float32: rounded similarities tie, and a tie counts against a method"
        raise UserError(f"{where}: has 16 bits a number", hint=hint)
    if not np.issubdtype(embeddings.dtype, np.floating):
        raise UserError(f"{where}: must hold floating-point numbers, not {embeddings.dtype}")
    if broken := int((~np.isfinite(embeddings)).any(axis=1).sum()):
        raise UserError(f"{where}: has NaN or infinity in {broken} of {len(embeddings)} rows")
    return embeddings


def _numbered(where: str, labels: NDArray[Any], count: int) -> NDArray[np.int64]:
    if labels.shape != (count,):
        said = f"{len(labels)} labels" if labels.ndim == 1 else f"labels of the shape {labels.shape}"
        raise UserError(f"{where}: has {said} for {count} embeddings")
    if labels.dtype.kind not in "iuUS":
        raise UserError(f"{where}: labels must be whole numbers or texts, not {labels.dtype}")
    return np.unique(labels, return_inverse=True)[1].astype(np.int64)


def _roles(where: str, queries: NDArray[Any], count: int) -> NDArray[np.bool_]:
    if queries.shape != (count,) or queries.dtype != np.bool_:
        raise UserError(f"{where}: queries must be {count} truth values, not {queries.dtype} of {queries.shape}")
    if queries.all() or not queries.any():
        raise UserError(f"{where}: {'all' if queries.any() else 'none'} are queries, so there is nothing to search")
    return queries.astype(np.bool_)


def _labels(path: Path) -> Arrays:
    """`labels` of a file, and `queries` where a CSV has the column `split`."""
    try:
        if path.suffix == ".npy":
            return {"labels": np.load(path, allow_pickle=False)}
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"--labels {path}: no such file") from None
    except WRONG as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:100]
        raise UserError(f"--labels {path}: not readable ({reason})", hint=f"a {LABELS} file") from error
    if path.suffix == ".csv":
        return _table(path, text)
    if path.suffix != ".txt":
        raise UserError(f"--labels {path}: must be a {LABELS} file")
    return {"labels": np.array([line.strip() for line in text.splitlines()], dtype=str)}


def _table(path: Path, text: str) -> Arrays:
    """The columns `label` and, of queries and a gallery, `split`; a single column is the labels, without a header."""
    rows = [row for row in csv.reader(io.StringIO(text)) if row]
    header = [name.strip() for name in rows[0]] if rows else []
    if len(header) == 1:
        return {"labels": np.array([row[0].strip() for row in (rows[1:] if header == ["label"] else rows)], dtype=str)}
    if "label" not in header:
        raise UserError(f"--labels {path}: line 1: has no column 'label', but {', '.join(header)[:200] or 'nothing'}")
    for number, row in enumerate(rows, start=1):
        if len(row) != len(header):
            raise UserError(f"--labels {path}: row {number}: has {len(row)} columns, not {len(header)}")
    columns = (
        dict(zip(header, zip(*rows[1:], strict=True), strict=True)) if len(rows) > 1 else dict.fromkeys(header, ())
    )
    found: Arrays = {"labels": np.array([label.strip() for label in columns["label"]], dtype=str)}
    roles: Sequence[str] = [role.strip() for role in columns.get("split", ())]
    if unknown := [role for role in roles if role not in ROLES and role != "test"]:
        raise UserError(f"--labels {path}: split must be query or gallery, or test, not {unknown[0]!r}")
    if set(roles) & ROLES.keys():
        if "test" in roles:
            raise UserError(f"--labels {path}: split: has test next to query or gallery")
        found["queries"] = np.array([ROLES[role] for role in roles])
    return found
