"""The gain by test class."""

import itertools

import numpy as np
import pandas as pd
import pytest

from dmlbench.analysis.groups import Group
from dmlbench.reporting.figures import class_gain_plot, ends_of
from dmlbench.reporting.figures.panels import Thumbnails
from dmlbench.reporting.style import RC, Look, plotting
from tests.typed import NONE, methods, shown

GROUP = Group("p", NONE, "birds")
GAINS = [-0.4, -0.3, -0.2, -0.1, 0.0, 0.1, 0.2]


def gains(*names):
    rows = [
        {"method": name, "label": label, "image": 10 * label, "gain": gain, "queries": 20, "seeds": 6, "to": "ms"}
        | {"class_name": "abcdefg"[label]}
        for name in names
        for label, gain in enumerate(GAINS)
    ]
    return shown(pd.DataFrame(rows))


def plot(images=None, names=("ms+psd",)):
    return class_gain_plot(GROUP, gains(*names), Look.of(methods("ms", *names)), images)


def test_classes_are_sorted_bars_with_names_at_the_ends():
    found = plot()
    (axes,) = found.figure.axes
    assert [round(bar.get_height()) for bar in axes.patches] == [-40, -30, -20, -10, 0, 10, 20]
    assert [text.get_text() for text in axes.texts] == [
        "a −40.00\nb −30.00\nc −20.00",
        "f +10.00\ng +20.00",
    ]
    assert axes.get_xlabel() == "7 test classes: 4 lose, 2 gain"


def test_the_ends_are_the_rows_that_images_are_wanted_of():
    assert ends_of(gains("ms+psd"))["image"].tolist() == [0, 10, 20, 50, 60]


@pytest.mark.parametrize("names", [("ms+psd",), ("ms+psd", "ms+obdsd", "ms+dm2")])
def test_images_are_those_of_the_classes_and_hide_nothing(names):
    pixels = {image: np.full((8, 8), image, dtype=np.uint8) for image in (0, 10, 20, 50, 60)}
    found = plot(Thumbnails(pixels, tuple("abcdefg")), names)
    with plotting(RC):
        found.figure.draw_without_rendering()
    for panel in (axes for axes in found.figure.axes if axes.get_visible()):
        assert [image.get_array().max() for image in panel.images] == [0, 10, 20, 50, 60]
        boxes = [image.get_window_extent() for image in panel.images] + [panel.xaxis.label.get_window_extent()]
        assert not any(one.overlaps(other) for one, other in itertools.combinations([*boxes, panel.bbox], 2))
        assert all(box.y0 >= 0 and box.x1 <= found.figure.bbox.x1 for box in boxes)
    assert found.data["class_name"].tolist() == list("abcdefg") * len(names)


def test_several_methods_have_a_panel_each():
    found = plot(names=("ms+psd", "ms+obdsd", "ms+dm2"))
    assert [axes.get_title(loc="left") for axes in found.figure.axes if axes.get_visible()] == [
        "ms+psd", "ms+obdsd", "ms+dm2",
    ]  # fmt: skip
