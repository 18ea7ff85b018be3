"""Embeddings that a user computed: every format, and one clear line for what cannot be scored."""

import json
import re
import zipfile

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_tensors

import dmlbench
from dmlbench.api.given import read_given
from dmlbench.errors import UserError
from tests.evaluation.naive_retrieval import naive_retrieval

KS = (1, 2, 4, 8)


@pytest.fixture
def rows():
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.repeat(np.arange(8), 5))
    return (rng.normal(size=(8, 6))[labels] + rng.normal(size=(40, 6))).astype(np.float32), labels


def as_npz(folder, **arrays):
    path = folder / "mine.npz"
    np.savez(path, **arrays)
    return path


def test_every_format_gives_the_metrics_of_evaluate(rows, tmp_path):
    embeddings, labels = rows
    expected = dmlbench.evaluate(embeddings, labels)
    assert {name: expected[name] for name in ("recall_at_1", "map_at_r")} == pytest.approx(
        {
            name: value
            for name, value in naive_retrieval(embeddings, labels, KS).items()
            if name in ("recall_at_1", "map_at_r")
        }
    )
    save_file({"embeddings": embeddings, "labels": labels}, tmp_path / "a.safetensors")
    save_file({"embeddings": embeddings}, tmp_path / "b.safetensors", metadata={"labels": json.dumps(labels.tolist())})
    np.save(tmp_path / "c.npy", embeddings)
    np.save(tmp_path / "labels.npy", labels)
    names = [f"class {label:02d}" for label in labels]
    (tmp_path / "labels.txt").write_text("\n".join(names) + "\n")
    (tmp_path / "labels.csv").write_text("image,label\n" + "\n".join(f"{n}.jpg,{name}" for n, name in enumerate(names)))
    (tmp_path / "one.csv").write_text("\ufefflabel\n" + "\n".join(names))
    (tmp_path / "bare.csv").write_text("\n".join(names))
    together = [
        as_npz(tmp_path, embeddings=embeddings, labels=labels),
        tmp_path / "a.safetensors",
        tmp_path / "b.safetensors",
    ]
    for path in together:
        assert dmlbench.evaluate_file(path) == expected
    for labelled in ("labels.npy", "labels.txt", "labels.csv", "one.csv", "bare.csv"):
        assert dmlbench.evaluate_file(tmp_path / "c.npy", tmp_path / labelled) == expected
    assert dmlbench.evaluate_file(together[0], ks=(1, 3)).keys() - expected.keys() == {"recall_at_3"}
    assert read_given(as_npz(tmp_path, features=embeddings), tmp_path / "labels.npy").labels.tolist() == labels.tolist()


def test_queries_search_the_gallery(rows, tmp_path):
    """Roles are an array of the file, or a column of the CSV; clusters and geometry are of both together."""
    embeddings, labels = rows
    asks = np.arange(40) % 3 == 0
    expected = naive_retrieval(embeddings[asks], labels[asks], KS, gallery=(embeddings[~asks], labels[~asks]))
    found = dmlbench.evaluate_file(as_npz(tmp_path, embeddings=embeddings, labels=labels, queries=asks))
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-9)
    roles = "\n".join(f"{label},{'query' if ask else 'gallery'}" for label, ask in zip(labels, asks, strict=True))
    (tmp_path / "labels.csv").write_text(f"label,split\n{roles}\n")
    assert dmlbench.evaluate_file(as_npz(tmp_path, embeddings=embeddings), tmp_path / "labels.csv") == found
    order = np.argsort(~asks, kind="stable")  # the queries first, as `evaluate` has them
    whole = dmlbench.evaluate(embeddings[order], labels[order])
    assert found["nmi"] == whole["nmi"]
    assert found["spectral_decay"] == pytest.approx(whole["spectral_decay"])


GOOD = np.eye(4, dtype=np.float32)
LABELS = np.array([0, 0, 1, 1])


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"embeddings": GOOD}, r"mine\.npz: holds no labels; labels FILE \(\.npy, \.csv or \.txt\) names them"),
        ({"labels": LABELS, "x": LABELS}, "holds no array `embeddings`, but labels, x"),
        ({"embeddings": GOOD[0], "labels": LABELS}, r"must have the shape \(N, D\), not \(4,\)"),
        ({"embeddings": GOOD[:0], "labels": LABELS}, r"must have the shape \(N, D\), not \(0, 4\)"),
        ({"embeddings": GOOD, "labels": LABELS[:3]}, "has 3 labels for 4 embeddings"),
        ({"embeddings": GOOD, "labels": GOOD}, r"has labels of the shape \(4, 4\) for 4 embeddings"),
        ({"embeddings": GOOD, "labels": LABELS.astype(float)}, "must be whole numbers or texts, not float64"),
        ({"embeddings": GOOD.astype(np.float16), "labels": LABELS}, "has 16 bits a number; save them as float32"),
        ({"embeddings": GOOD.astype(int), "labels": LABELS}, "must hold floating-point numbers, not int64"),
        ({"embeddings": GOOD.astype(complex), "labels": LABELS}, "must hold floating-point numbers, not complex128"),
        ({"embeddings": np.where(GOOD > 0, np.nan, GOOD), "labels": LABELS}, "has NaN or infinity in 4 of 4 rows"),
        ({"embeddings": np.where(GOOD > 0, np.inf, GOOD), "labels": LABELS}, "has NaN or infinity in 4 of 4 rows"),
        ({"embeddings": GOOD, "labels": np.arange(4)}, "no class has two of the 4 embeddings"),
        ({"embeddings": GOOD, "labels": LABELS, "queries": LABELS}, "queries must be 4 truth values, not int64"),
        ({"embeddings": GOOD, "labels": LABELS, "queries": LABELS > 5}, "none are queries"),
        ({"embeddings": GOOD, "labels": LABELS, "queries": LABELS > -1}, "all are queries"),
        ({"embeddings": GOOD, "labels": LABELS, "queries": LABELS > 0}, "no query's class is in the gallery"),
        (
            {"embeddings": GOOD, "labels": np.array([{}] * 4, dtype=object)},
            r"not a readable \.npz file \(Object arrays",
        ),
    ],
)
def test_one_clear_line(tmp_path, arrays, message):
    with pytest.raises(UserError, match=message) as caught:
        dmlbench.evaluate_file(as_npz(tmp_path, **arrays))
    assert "\n" not in str(caught.value)


def test_half_precision_of_torch_is_refused_too(tmp_path):
    for kind in (torch.bfloat16, torch.float16):
        save_tensors(
            {"embeddings": torch.eye(4, dtype=kind), "labels": torch.tensor(LABELS)}, tmp_path / "x.safetensors"
        )
        with pytest.raises(UserError, match="has 16 bits a number"):
            dmlbench.evaluate_file(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("l.txt", "a\nb\nc", "has 3 labels for 4 embeddings"),
        ("l.csv", "image,class\na,b", "line 1: has no column 'label', but image, class"),
        ("l.csv", "label,split\na,query\nb", "row 3: has 1 columns, not 2"),
        (
            "l.csv",
            "label,split\na,query\na,val\nb,query\nb,gallery",
            "split must be query or gallery, or test, not 'val'",
        ),
        ("l.csv", "label,split\na,query\na,test\nb,query\nb,gallery", "has test next to query or gallery"),
        ("l.csv", "", "has 0 labels for 4 embeddings|has no column 'label'"),
        (
            "l.csv",
            'image,label\na.jpg,"a\nb.jpg,a\nc.jpg,b\nd.jpg,b',
            "line 5: not a CSV file .unexpected end of data.",
        ),
        ("l.csv", "label\n" + '"' + "a\n" * 80000, "not a CSV file .field larger than"),
        ("l.csv", "image,label\nx,a\n\ny,a\nz,b", "line 3: is empty"),
        ("l.csv", "label\na\n\nb\nb", "line 3: is empty"),
        ("l.csv", "image,label\nw,a\nx, \ny,b\nz,b", "line 3: has no label"),
        ("l.txt", "a\n\nb\nb", "line 2: has no label"),
        ("l.csv", "label,label\na,a\na,a\nb,b\nb,b", "line 1: has 2 columns 'label'"),
        ("l.csv", "class\na\na\nb\nb", "has 5 labels for 4 embeddings; of a CSV with one column the header is label"),
        ("l.json", "[]", r"must be a \.npy, \.csv or \.txt file"),
        ("l.npy", "x", "not readable"),
        ("absent/l.txt", None, "no such file"),
    ],
)
def test_labels_that_are_none(tmp_path, name, text, message):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=f"labels .*(?:{message})") as caught:
        dmlbench.evaluate_file(as_npz(tmp_path, embeddings=GOOD), tmp_path / name)
    assert "\n" not in str(caught.value)


def damaged_inside(path):
    """An archive whose compressed bytes are damaged, and nothing else: as a disk or a transfer does it."""
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        first = archive.infolist()[0]
        start = first.header_offset + 30 + len(first.filename) + 20
    content[start : start + 40] = b"\xff" * 40
    return bytes(content)


def test_roles_that_contradict_each_other(tmp_path):
    """A CSV that says `test`, or other roles than the array of the embeddings' file."""
    queries = np.array([True, False, True, False])
    path = as_npz(tmp_path, embeddings=GOOD, queries=queries)
    for roles, message in (
        ("test,test,test,test", "says otherwise"),
        ("query,gallery,gallery,query", "says otherwise"),
    ):
        rows = "".join(f"{label},{role}\n" for label, role in zip(LABELS, roles.split(","), strict=True))
        (tmp_path / "l.csv").write_text("label,split\n" + rows)
        with pytest.raises(UserError, match=rf"labels .*l\.csv: {message} than the array `queries`") as caught:
            read_given(path, tmp_path / "l.csv")
        assert "\n" not in str(caught.value)
    rows = "".join(f"{n},{r}\n" for n, r in zip(LABELS, ("query", "gallery") * 2, strict=True))
    (tmp_path / "l.csv").write_text("label,split\n" + rows)
    assert read_given(path, tmp_path / "l.csv").queries.tolist() == queries.tolist()
    (tmp_path / "l.csv").write_text("label,split\n" + "".join(f"{label},test\n" for label in LABELS))
    assert read_given(as_npz(tmp_path, embeddings=GOOD), tmp_path / "l.csv").queries is None


def test_files_that_are_none(tmp_path):
    archive, array = as_npz(tmp_path, embeddings=GOOD, labels=LABELS), tmp_path / "one.npy"
    np.save(array, np.ones((4, 2), dtype=np.float32))
    np.savez_compressed(tmp_path / "compressed.npz", embeddings=np.random.default_rng(0).normal(size=(40, 40)))
    damaged = damaged_inside(tmp_path / "compressed.npz")
    for name, content, message in (
        ("x.npz", b"PK", "not a readable .npz file"),
        ("x.safetensors", b"\0" * 20, "not a readable .safetensors file"),
        ("x.npy", b"\x93NUMPY", "not a readable .npy file"),
        ("archive.npy", archive.read_bytes(), "not a readable .npy file (an archive: its suffix is .npz)"),
        ("array.npz", array.read_bytes(), "not a readable .npz file (a single array: its suffix is .npy)"),
        ("cut.npz", damaged, "not a readable .npz file"),
        ("x.pt", b"", "must be a .npz, .npy or .safetensors file"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=re.escape(message)) as caught:
            dmlbench.evaluate_file(tmp_path / name)
        assert "\n" not in str(caught.value)
    archive.rename(tmp_path / "labels.npy")
    with pytest.raises(UserError, match=r"labels\.npy: not readable \(an archive: its suffix is \.npz\)"):
        dmlbench.evaluate_file(array, tmp_path / "labels.npy")
    with pytest.raises(UserError, match="no such file"):
        dmlbench.evaluate_file(tmp_path / "absent.npz")


def test_evaluate_takes_a_gallery_of_tensors(rows):
    embeddings, labels = (torch.from_numpy(own) for own in rows)
    asks = torch.arange(40) % 3 == 0
    found = dmlbench.evaluate(embeddings[asks], labels[asks], gallery=(embeddings[~asks], labels[~asks]))
    expected = naive_retrieval(embeddings[asks], labels[asks], KS, gallery=(embeddings[~asks], labels[~asks]))
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-9)
    assert {"nmi", "spectral_decay"} <= found.keys()
