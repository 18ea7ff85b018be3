"""Embeddings that a user computed, read from files and scored as a cell's test classes are."""

import csv
import hashlib
import io
import json
import lzma
import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
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
BROKEN_ARCHIVE = (BadZipFile, zlib.error, lzma.LZMAError, struct.error, NotImplementedError, RuntimeError)
WRONG = (OSError, ValueError, KeyError, TypeError, EOFError, MemoryError, SafetensorError, *BROKEN_ARCHIVE)
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
    queries = _asked(where, told.get("queries"), arrays.get("queries"), len(embeddings))
    return Given(path, embeddings, classes, queries, sha256)


def _arrays(path: Path) -> tuple[Arrays, str]:
    """The arrays of a file by name, and its SHA-256."""
    if path.suffix not in (".npz", ".npy", ".safetensors"):
        raise UserError(f"--embeddings {path}: must be a {FORMATS} file", hint=KEYS)
    try:
        content = path.read_bytes()
        sha256 = hashlib.sha256(content).hexdigest()
        if path.suffix == ".safetensors":
            return _safetensors(path), sha256
        return ({"embeddings": _array(content)} if path.suffix == ".npy" else _archive(content)), sha256
    except FileNotFoundError:
        raise UserError(f"--embeddings {path}: no such file", hint=KEYS) from None
    except WRONG as error:
        raise UserError(f"--embeddings {path}: not a readable {path.suffix} file ({_why(error)})", hint=KEYS) from error


def _array(content: bytes) -> NDArray[Any]:
    """The array of a .npy file; raises ValueError where it is an archive of several."""
    found = np.load(io.BytesIO(content), allow_pickle=False)
    if not isinstance(found, np.ndarray):
        raise ValueError("an archive: its suffix is .npz")  # noqa: TRY004 - a file of another kind
    return found


def _archive(content: bytes) -> Arrays:
    """The arrays of a .npz file by name; raises ValueError where it is a single one."""
    found = np.load(io.BytesIO(content), allow_pickle=False)
    if isinstance(found, np.ndarray):
        raise ValueError("a single array: its suffix is .npy")  # noqa: TRY004 - a file of another kind
    return dict(found)


def _why(error: BaseException) -> str:
    """What a reader of files said, shortly."""
    return (str(error).splitlines() or [type(error).__name__])[0][:100]


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
        header = "of a CSV with one column the header is label: any other first line is a label"
        hint = header if where.endswith(".csv") and labels.shape == (count + 1,) else None
        raise UserError(f"{where}: has {said} for {count} embeddings", hint=hint)
    if labels.dtype.kind not in "iuUS":
        raise UserError(f"{where}: labels must be whole numbers or texts, not {labels.dtype}")
    return np.unique(labels, return_inverse=True)[1].astype(np.int64)


def _asked(where: str, told: NDArray[Any] | None, own: NDArray[Any] | None, count: int) -> NDArray[np.bool_] | None:
    """Which embeddings are queries, by their labels' file and their own; None where each searches all others."""
    if told is None:
        return None if own is None else _roles(where, own, count)
    if own is not None and not np.array_equal(told, own):
        raise UserError(f"{where}: says otherwise than the array `queries` of the embeddings", hint="leave one out")
    return _roles(where, told, count) if own is not None or told.any() else None


def _roles(where: str, queries: NDArray[Any], count: int) -> NDArray[np.bool_]:
    if queries.shape != (count,) or queries.dtype != np.bool_:
        raise UserError(f"{where}: queries must be {count} truth values, not {queries.dtype} of {queries.shape}")
    if queries.all() or not queries.any():
        raise UserError(f"{where}: {'all' if queries.any() else 'none'} are queries, so there is nothing to search")
    return queries.astype(np.bool_)


def _labels(path: Path) -> Arrays:
    """`labels` of a file, and `queries` where a CSV has the column `split`: none where all are of `test`."""
    try:
        if path.suffix == ".npy":
            return {"labels": _array(path.read_bytes())}
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"--labels {path}: no such file") from None
    except WRONG as error:
        raise UserError(f"--labels {path}: not readable ({_why(error)})", hint=f"a {LABELS} file") from error
    if path.suffix == ".csv":
        return _table(path, text)
    if path.suffix != ".txt":
        raise UserError(f"--labels {path}: must be a {LABELS} file")
    return {"labels": _named(path, ((number, line) for number, line in enumerate(text.splitlines(), start=1)))}


def _named(path: Path, numbered: Iterable[tuple[int, str]]) -> NDArray[np.str_]:
    """Labels of lines, as texts without the spaces around; raises UserError for an empty one."""
    labels = []
    for number, text in numbered:
        labels.append(text.strip())
        if not labels[-1]:
            raise UserError(f"--labels {path}: line {number}: has no label")
    return np.array(labels, dtype=str)


def _lines(path: Path, text: str) -> Iterator[tuple[int, list[str]]]:
    """Rows of a CSV with the numbers of their last lines; raises UserError where it is none or has empty lines."""
    reader = csv.reader(io.StringIO(text), strict=True)
    try:
        for row in reader:
            if not row:
                raise UserError(f"--labels {path}: line {reader.line_num}: is empty")
            yield reader.line_num, row
    except csv.Error as error:
        raise UserError(f"--labels {path}: line {reader.line_num}: not a CSV file ({_why(error)})") from error


def _table(path: Path, text: str) -> Arrays:
    """The columns `label` and, of queries and a gallery, `split`; a single column is the labels, without a header."""
    rows = list(_lines(path, text))
    header = [name.strip() for name in rows[0][1]] if rows else []
    if len(header) == 1:
        return {"labels": _named(path, ((line, row[0]) for line, row in (rows[1:] if header == ["label"] else rows)))}
    columns = _columns(path, header, rows)
    found: Arrays = {"labels": _named(path, columns["label"])}
    roles: Sequence[str] = [role.strip() for _, role in columns.get("split", ())]
    if unknown := [role for role in roles if role not in ROLES and role != "test"]:
        raise UserError(f"--labels {path}: split must be query or gallery, or test, not {unknown[0]!r}")
    if set(roles) & ROLES.keys() and "test" in roles:
        raise UserError(f"--labels {path}: split: has test next to query or gallery")
    return found | ({"queries": np.array([ROLES.get(role, False) for role in roles])} if roles else {})


def _columns(path: Path, header: list[str], rows: list[tuple[int, list[str]]]) -> dict[str, list[tuple[int, str]]]:
    """Cells of each column with their lines; raises UserError without labels, or where a row has other columns."""
    if "label" not in header:
        raise UserError(f"--labels {path}: line 1: has no column 'label', but {', '.join(header)[:200] or 'nothing'}")
    if twice := next((name for name in ("label", "split") if header.count(name) > 1), None):
        raise UserError(f"--labels {path}: line 1: has {header.count(twice)} columns {twice!r}")
    for number, (_, row) in enumerate(rows, start=1):
        if len(row) != len(header):
            raise UserError(f"--labels {path}: row {number}: has {len(row)} columns, not {len(header)}")
    return {name: [(line, row[place]) for line, row in rows[1:]] for place, name in enumerate(header)}
