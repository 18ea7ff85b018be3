import base64
import io
import itertools

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from PIL import Image

from dmlbench.analysis.groups import Group
from dmlbench.data.images import load_dataset, load_of_cell
from dmlbench.errors import UserError
from dmlbench.reporting.figures.panels import (
    COLOURS,
    LARGEST_SIDE,
    RIGHT,
    WRONG,
    Thumbnails,
    gallery_panel,
    retrieval_panel,
    thumbnail,
    thumbnails,
)
from dmlbench.reporting.pictures import EMBEDDED, save, with_palettes
from dmlbench.specs.cell import Cell
from tests.reporting.fake_results import make_cell, method, protocol, write_cell
from tests.typed import NONE, shown

GROUP = Group("p", NONE, "birds")
NAMES = ("031.Black_billed_Cuckoo", "Japanese_(katakana)/character08", "c" * 70, "x")
NOISE = np.random.default_rng(0).integers(0, 256, (3, 90, 120), dtype=np.uint8)


def examples(*outcomes, by="ms+psd", k=5):
    """A query per outcome, of the class of its number; the loser finds no neighbour of it, the winner all."""
    rows = []
    for query, outcome in enumerate(outcomes):
        for name in ("ms", by):
            right = (outcome == "won") == (name == by)
            rows += [
                {
                    "outcome": outcome,
                    "query": query,
                    "label": query,
                    "wins": 4,
                    "losses": 1,
                    "seeds": 5,
                    "by": "method" if name == by else "reference",
                }
                | {"rank": rank, "neighbour": 10 + rank, "neighbour_label": query if right else 3, "correct": right}
                for rank in range(1, k + 1)
            ]
    return shown(pd.DataFrame(rows).assign(protocol="p", overrides=NONE, dataset="birds", method=by, to="ms", seed=2))


def images(side=28):
    pixels = {place: np.full((side, side), place, np.uint8) for place in range(30)}
    return Thumbnails(pixels, NAMES)


def texts(plot):
    return [text.get_text() for text in plot.figure.axes[0].texts]


def misplaced(figure):
    """Texts that overlap one another or leave the figure."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    boxes = [(text.get_text(), text.get_window_extent(renderer)) for text in figure.axes[0].texts]
    both = [(a, b) for (a, one), (b, other) in itertools.combinations(boxes, 2) if one.overlaps(other)]
    page = figure.bbox
    return both + [a for a, one in boxes if one.x1 > page.x1 or one.y0 < page.y0 or one.y1 > page.y1]


def test_frames_tell_the_classes_apart_by_colour_and_by_line():
    plot = retrieval_panel(GROUP, examples("won", "won", "lost"), images())
    _, _, *frames = plot.figure.axes[0].patches  # two are the key
    solid = [frame for frame in frames if frame.get_linestyle() in ("-", "solid")]
    assert len(frames) == 3 * 2 * 5
    assert len(solid) == 3 * 5
    assert {to_hex(frame.get_edgecolor()) for frame in solid} == {RIGHT}
    assert {to_hex(frame.get_edgecolor()) for frame in frames if frame not in solid} == {WRONG}


def test_each_query_stands_beside_what_both_found():
    plot = retrieval_panel(GROUP, examples("won", "lost", k=3), images())
    shown = [int(image.get_array().flat[0]) for image in plot.figure.axes[0].images]
    assert shown == [0, 11, 12, 13, 11, 12, 13, 1, 11, 12, 13, 11, 12, 13]
    lefts = [image.get_extent()[0] for image in plot.figure.axes[0].images[:7]]
    assert lefts == sorted(lefts)
    assert {"query", "ms: 3 nearest", "ms+psd: 3 nearest"} <= set(texts(plot))
    assert {"won: ms misses, ms+psd hits", "lost: ms hits, ms+psd misses"} <= set(texts(plot))


def test_classes_are_named_in_the_words_and_in_the_data():
    plot = retrieval_panel(GROUP, examples("won", "lost"), images())
    data = plot.data
    assert "031.Black billed Cuckoo" in texts(plot)
    assert "Japanese (katakana)/\ncharacter08" in texts(plot)
    assert data["class_name"].unique().tolist() == list(NAMES[:2])
    assert set(data["neighbour_class"]) == {NAMES[0], NAMES[1], NAMES[3]}
    assert plot.slug == "panel_p_birds_ms-psd-06634e_seed2"


@pytest.mark.parametrize("by", ["ms+psd", "ms+" + "very_long_name" * 4 + "{lambda=10, tau=0.5, omega=0.99}"])
@pytest.mark.parametrize("k", [2, 5, 10])
def test_words_have_room(by, k):
    plot = retrieval_panel(GROUP, examples("won", "won", "won", "lost", by=by, k=k), images())
    assert misplaced(plot.figure) == []
    right = max(patch.get_x() + patch.get_width() for patch in plot.figure.axes[0].patches)
    assert right < plot.figure.get_figwidth()


def found(*hits, method="ms", k=5):
    """A query per hit or miss, of the class of its number; a hit finds its class first and last."""
    rows = [
        {"method": method, "seed": 2, "query": query, "label": query, "hit": hit, "rank": rank, "neighbour": 10 + rank}
        | {"neighbour_label": query if right else 3, "correct": right, "similarity": 1 - rank / 10}
        | {"hits": 1234, "queries": 2000}
        for query, hit in enumerate(hits)
        for rank in range(1, k + 1)
        for right in [hit and rank in (1, k)]
    ]
    return shown(pd.DataFrame(rows).assign(protocol="p", overrides=NONE, dataset="birds"))


def test_a_gallery_has_the_neighbours_of_one_method():
    plot = gallery_panel(GROUP, found(True, False, True), images())
    shown = [int(image.get_array().flat[0]) for image in plot.figure.axes[0].images]
    assert shown == [0, 11, 12, 13, 14, 15, 1, 11, 12, 13, 14, 15, 2, 11, 12, 13, 14, 15]
    _, _, *frames = plot.figure.axes[0].patches  # two are the key
    solid = [frame.get_linestyle() in ("-", "solid") for frame in frames]
    assert solid == [True, False, False, False, True] + [False] * 5 + [True, False, False, False, True]
    assert {"query", "ms: 5 nearest", "Hits: 1,234 of all 2,000 queries, 2 of these 3"} <= set(texts(plot))
    assert [text for text in texts(plot) if text in ("hit", "miss")] == ["hit", "miss", "hit"]
    assert plot.slug == "gallery_p_birds_ms_seed2"


@pytest.mark.parametrize("method", ["ms", "ms+" + "very_long_name" * 4 + "{lambda=10, tau=0.5, omega=0.99}"])
@pytest.mark.parametrize("k", [2, 5])
def test_words_of_a_gallery_have_room(method, k):
    plot = gallery_panel(GROUP, found(True, False, True, False, method=method, k=k), images())
    assert misplaced(plot.figure) == []
    right = max(patch.get_x() + patch.get_width() for patch in plot.figure.axes[0].patches)
    assert right < plot.figure.get_figwidth()


def test_wins_alone():
    plot = retrieval_panel(GROUP, examples("won"), images())
    assert not any(text.startswith("lost") for text in texts(plot))
    assert set(plot.data["outcome"]) == {"won"}


def test_a_saved_panel_holds_every_thumbnail_as_it_is(tmp_path):
    panel = examples("won", k=2)
    photo = thumbnail(NOISE)
    plot = retrieval_panel(GROUP, panel, Thumbnails(images().pixels | {11: photo}, NAMES))
    save(plot, tmp_path)
    lighter = (tmp_path / f"{plot.slug}.svg").read_text(encoding="utf-8")
    buffer = io.StringIO()
    plot.figure.savefig(buffer, format="svg")
    found = [np.asarray(opened(part).convert("RGB")) for part in EMBEDDED.findall(buffer.getvalue())]
    assert len(found) == 1 + 2 * 2
    assert sum(np.array_equal(picture, photo) for picture in found) == 2
    assert len(lighter) < 0.6 * len(buffer.getvalue())
    for before, after in zip(found, EMBEDDED.findall(lighter), strict=True):
        assert np.array_equal(before, np.asarray(opened(after).convert("RGB")))


@pytest.mark.parametrize("alpha", [200, 255])
def test_images_that_no_palette_holds_stay_as_they_are(alpha):
    many = np.full((40, 40, 4), alpha, np.uint8)
    many[..., :3] = np.random.default_rng(0).integers(0, 256, (40, 40, 3)) if alpha == 255 else 7
    buffer = io.BytesIO()
    Image.fromarray(many).save(buffer, "PNG")
    svg = f'<image xlink:href="data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"/>'
    assert with_palettes(svg) == svg


def opened(encoded):
    return Image.open(io.BytesIO(base64.b64decode(encoded)))


def test_a_photograph_is_cut_to_its_central_square():
    image = np.zeros((3, 8, 12), np.uint8)
    image[0, :, 2:10] = 200
    found = thumbnail(image)
    assert found.shape == (8, 8, 3)
    assert (found == (200, 0, 0)).all()


def test_a_large_photograph_becomes_small_and_has_few_colours():
    found = thumbnail(NOISE)
    assert found.shape == (LARGEST_SIDE, LARGEST_SIDE, 3)
    assert len(np.unique(found.reshape(-1, 3), axis=0)) <= COLOURS


def test_grey_images_stay_grey_and_small_ones_as_they_are():
    glyph = np.arange(28 * 28, dtype=np.uint8).reshape(1, 28, 28)
    assert np.array_equal(thumbnail(glyph), glyph[0])
    assert np.array_equal(thumbnail(np.repeat(glyph, 3, axis=0)), glyph[0])


def write(root, spec, fingerprint):
    data = spec.model_dump() | {"fingerprint": fingerprint}
    return write_cell(root / "runs", Cell(method("ms"), spec, protocol(), 0), dataset=data)


def test_thumbnails_of_the_very_images(tmp_path, birds):
    whole = load_dataset(birds)
    found = thumbnails(write(tmp_path, birds, whole.fingerprint), None, [3, 1, 3])
    assert found.class_names == ("c", "d")
    assert sorted(found.pixels) == [1, 3]
    for place, pixels in found.pixels.items():
        assert pixels.shape == (20, 20, 3)
        assert (pixels == whole.test.images[place][:, 0, 0].numpy()).all()


def test_thumbnails_are_of_the_split_that_the_seed_tested(tmp_path, birds):
    whole = load_dataset(birds)
    data, found = birds.model_dump() | {"fingerprint": whole.fingerprint}, set()
    varied = protocol().model_copy(update={"training": protocol().training.model_copy(update={"vary": "split"})})
    for seed in range(6):
        cell = Cell(method("ms"), birds, varied, seed)
        folder = write_cell(tmp_path / "runs", cell, dataset=data)
        shown, test = thumbnails(folder, None, [0]), load_of_cell(cell).test
        assert shown.class_names == test.class_names
        assert (shown.pixels[0] == test.images[0][:, 0, 0].numpy()).all()
        found.add(shown.class_names)
    assert len(found) > 1


def test_other_images_than_the_cells_are_refused(tmp_path, birds):
    folder = write(tmp_path, birds, "f00dfeed12345678")
    with pytest.raises(UserError, match=r"ran on other images of birds \(fingerprint f00dfeed1234, now [0-9a-f]{12}\)"):
        thumbnails(folder, None, [0])


def test_images_that_are_not_there(tmp_path):
    folder = write_cell(tmp_path, make_cell("ms", 0, "omniglot-small"))
    with pytest.raises(UserError, match="omniglot"):
        thumbnails(folder, tmp_path / "nowhere", [0])
