"""Saved networks and embeddings from Python: `load_model`, `embed`, `evaluate`."""

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import dmlbench
from dmlbench.data.augment import evaluation_geometry, normalise
from dmlbench.evaluation import clustering_metrics, retrieval_metrics
from dmlbench.models.model import build_model, weights_of

PIXELS = np.random.default_rng(0).integers(0, 256, (3, 20, 24), dtype=np.uint8)


@pytest.fixture
def saved(store, make_cell):
    """The folder of a cell that kept the weights of two networks, and these."""
    cell = make_cell()
    store.plan([cell])
    torch.manual_seed(0)
    networks = [build_model(cell.protocol.model, cell.protocol.input).eval() for _ in range(2)]
    save_file(weights_of(networks), store.folder(cell) / "weights.safetensors")
    return store.folder(cell), networks, cell


def test_a_network_comes_back_as_it_was_saved(saved):
    folder, networks, _ = saved
    state = torch.get_rng_state()
    loaded = dmlbench.load_model(folder, network=2)
    assert torch.equal(torch.get_rng_state(), state)
    assert not loaded.training
    for name, tensor in networks[1].state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)
    with pytest.raises(dmlbench.UserError, match="network 3: valid are 1 to 2"):
        dmlbench.load_model(folder, network=3)


def test_images_are_embedded_as_the_protocol_evaluates_them(saved, tmp_path):
    folder, networks, cell = saved
    files = [tmp_path / f"{index}.png" for index in range(3)]
    for file, pixels in zip(files, PIXELS, strict=True):
        Image.fromarray(pixels).save(file)
    given = normalise(evaluation_geometry(torch.from_numpy(PIXELS)[:, None], cell.protocol.input), cell.protocol.input)
    with torch.no_grad():
        expected = networks[0](given)
    for images in (list(PIXELS), files, [Image.open(file) for file in files], list(torch.from_numpy(PIXELS)[:, None])):
        torch.testing.assert_close(dmlbench.embed(folder, images, device="cpu"), expected, atol=1e-5, rtol=0)
    second = dmlbench.embed(folder, files, model=dmlbench.load_model(folder, network=2), device="cpu")
    assert not torch.allclose(second, expected, atol=1e-3)


def test_what_is_no_image_is_named(saved, tmp_path):
    folder, *_ = saved
    (tmp_path / "text.png").write_text("no image")
    for wrong, message in (
        (tmp_path / "text.png", "text.png: not an image"),
        (tmp_path / "none.png", "none.png: not an image"),
        (np.zeros((3, 4), dtype=np.float32), "image 0: must be uint8"),
        (np.zeros((3, 4, 5), dtype=np.uint8), "image 0: must be uint8"),
    ):
        with pytest.raises(dmlbench.UserError, match=message):
            dmlbench.embed(folder, [wrong], device="cpu")


def test_no_images_at_all(saved):
    with pytest.raises(dmlbench.UserError, match="no images"):
        dmlbench.embed(saved[0], [], device="cpu")


def test_a_folder_without_weights_says_what_to_do(store, make_cell, tmp_path):
    with pytest.raises(dmlbench.UserError, match="not a cell's folder"):
        dmlbench.load_model(tmp_path)
    cell = make_cell()
    store.plan([cell])
    with pytest.raises(dmlbench.UserError, match="`dmlbench run --keep weights` leaves them"):
        dmlbench.load_model(store.folder(cell))


def test_embeddings_are_scored_as_a_cell_is():
    rows = np.random.default_rng(1).normal(size=(60, 8))
    labels = np.arange(60) % 6
    found = dmlbench.evaluate(rows, labels, ks=(1, 10), seed=3)
    expected = retrieval_metrics(rows, labels, ks=(1, 10)) | clustering_metrics(rows, labels, seed=3)
    assert {name: found[name] for name in expected} == {name: float(value) for name, value in expected.items()}
    assert "nmi" not in dmlbench.evaluate(rows, labels, clustering=False)
    with pytest.raises(ValueError, match="finite"):
        dmlbench.evaluate(rows * np.nan, labels)
