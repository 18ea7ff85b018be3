"""Maps of embeddings as figures."""

import numpy as np
import pandas as pd

from dmlbench.analysis.groups import Group
from dmlbench.reporting.figures import map_plot
from dmlbench.reporting.pictures import save
from dmlbench.reporting.style import INK, MUTED
from tests.typed import NONE, shown

GROUP = Group("p", NONE, "birds")
NAMES = ("ms", "ms+psd", "triplet", "triplet+psd")


def places(*names, classes=10, each=4, seed=0):
    rng, count = np.random.default_rng(0), classes * each
    rows = [
        pd.DataFrame(
            {"image": np.arange(count), "label": 7 * (np.arange(count) // each), "method": name, "seed": seed}
        ).assign(x=rng.normal(size=count), y=rng.normal(size=count))
        for name in names
    ]
    found = shown(pd.concat(rows, ignore_index=True))
    return found.assign(class_name=[f"class $\x1b{label}" for label in found["label"]])


def test_every_panel_has_the_same_letters_for_the_same_classes():
    own = places(*NAMES)
    figure = map_plot(GROUP, own, 0).figure
    panels = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title(loc="left") for axes in panels] == ["triplet", "triplet+psd", "ms", "ms+psd"]
    for axes in panels:
        drawn = own[own["name"] == axes.get_title(loc="left")]
        assert len(axes.lines) == 10
        for line, (_, part) in zip(axes.lines, drawn.groupby("label"), strict=True):
            assert line.get_xdata().tolist() == part["x"].tolist()
            assert line.get_ydata().tolist() == part["y"].tolist()
    signs = [[line.get_marker().vertices.shape for line in axes.lines] for axes in panels]
    assert all(own == signs[0] for own in signs)
    assert {line.get_color() for axes in panels for line in axes.lines} == {INK, MUTED}  # no colour of a base
    assert [text.get_text() for text in figure.legends[0].get_texts()][1] == "class $\\x1b7"


def test_no_two_letters_are_the_same():
    (axes,) = map_plot(GROUP, places("ms"), 0).figure.axes[:1]
    outlines = {line.get_marker().vertices.tobytes() for line in axes.lines}
    assert len(outlines) == 10


def test_the_caption_says_what_it_is_not_and_what_is_left_out():
    caption = map_plot(GROUP, places("ms"), 0).caption
    assert "seed 0: an illustration, no finding" in caption
    assert "40 images of 10 classes" in caption
    assert "distances between groups, their sizes and their places mean nothing" in caption
    assert "without one" not in caption
    both = pd.concat([places("ms"), places("ms+psd", seed=3)], ignore_index=True)
    more = map_plot(GROUP, both, 28).caption
    assert "each method's lowest seed" in more
    assert more.endswith("bases first, then to modifiers in their order; without one: 28 methods.")


def test_a_map_of_few_is_saved_with_its_data(tmp_path):
    picture = save(map_plot(GROUP, places("ms", classes=2), 0), tmp_path)
    assert picture.slug == "map_p_birds"
    data = pd.read_csv(tmp_path / "map_p_birds.csv")
    assert data.columns.tolist() == ["method", "seed", "label", "class_name", "image", "x", "y"]
    assert len(data) == 8
