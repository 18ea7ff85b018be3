"""Maps of embeddings: which images they show, and that near ones stay near."""

import numpy as np
import pytest

from dmlbench.analysis import maps
from dmlbench.analysis.embeddings import reload_embeddings
from dmlbench.analysis.maps import CLASSES, IMAGES, embedding_map, mapped_images, project
from dmlbench.errors import UserError
from tests.kept import keep
from tests.reporting.fake_results import make_cell, write_cell


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def clustered(classes=10, each=20, spread=0.3):
    rng, labels = np.random.default_rng(0), np.arange(classes * each) // each
    return unit(rng.normal(size=(classes, 16))[labels] + spread * rng.normal(size=(len(labels), 16))), labels


def test_classes_and_images_are_evenly_spread_and_the_same_for_every_method():
    labels = np.repeat(np.arange(101), 60)
    chosen = mapped_images(labels)
    assert len(chosen) == CLASSES * IMAGES
    assert np.unique(labels[chosen], return_counts=True)[1].tolist() == [IMAGES] * CLASSES
    assert set(np.diff(np.unique(labels[chosen]))) <= {11, 12}
    assert labels[chosen].min() == 0
    assert labels[chosen].max() == 100
    assert set(np.diff(chosen[labels[chosen] == 0])) <= {3, 4}


def test_small_test_sets_are_shown_whole_without_classes_of_one_image():
    assert mapped_images(np.array([0, 0, 1, 2, 2, 2])).tolist() == [0, 1, 3, 4, 5]
    assert len(mapped_images(np.arange(5))) == 0


def test_near_images_stay_near_and_the_map_is_always_the_same():
    vectors, labels = clustered()
    placed = project(vectors)
    distances = np.linalg.norm(placed[:, None] - placed, axis=2) + np.diag(np.full(len(labels), np.inf))
    assert (labels[distances.argmin(axis=1)] == labels).mean() > 0.95
    assert np.array_equal(placed, project(vectors))


@pytest.mark.parametrize(
    "vectors",
    [np.tile([[0.6, 0.8]], (12, 1)), np.zeros((12, 3)), np.ones((12, 1)), unit(np.eye(12)[:, :2] + 1e-3)],
    ids=["collapsed", "zero", "one dimension", "two places"],
)
def test_embeddings_without_directions_have_a_map(vectors):
    assert np.isfinite(project(vectors)).all()


def test_a_cells_map_is_of_its_kept_embeddings(tmp_path):
    vectors, labels = clustered(4, 6)
    folder = keep(write_cell(tmp_path, make_cell("ms", 0)), vectors, labels)
    found = embedding_map(folder)
    assert found["image"].tolist() == list(range(24))
    assert found["label"].tolist() == labels.tolist()
    assert np.array_equal(found[["x", "y"]].to_numpy(), project(reload_embeddings(folder).vectors))


def test_too_few_images_have_no_map(tmp_path):
    few = maps.FEWEST - 1
    folder = keep(write_cell(tmp_path, make_cell("ms", 0)), clustered(1, few)[0], np.zeros(few, int))
    assert embedding_map(folder).empty
    (folder / "embeddings.safetensors").unlink()
    with pytest.raises(UserError, match="have gone"):
        embedding_map(folder)
