"""Pairs of classes that are confused most, beside the reference's."""

import itertools

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from dmlbench.analysis.groups import Group
from dmlbench.reporting.figures import confusion_plot
from dmlbench.reporting.figures.panels import Thumbnails
from dmlbench.reporting.style import PAPER, RC, Look, plotting
from tests.typed import NONE, methods, shown

GROUP = Group("p", NONE, "birds")
COUNTS = [(9.0, 12.5), (7.0, 0.0), (0.5, 3.0)]


def confused(*names, class_name="class {}"):
    rows = [
        {"method": name, "to": "triplet" if name == "ms" else "ms", "label": place, "other_label": place + 4}
        | {"class_name": class_name.format(place), "other_class_name": class_name.format(place + 4)}
        | {"image": 10 * place, "other_image": 10 * place + 1, "confused": own, "confused_to": other}
        | {"queries": 40, "seeds": 3}
        for name in names
        for place, (own, other) in enumerate(COUNTS)
    ]
    return shown(pd.DataFrame(rows))


def plot(*names, images=None, **words):
    return confusion_plot(GROUP, confused(*names, **words), Look.of(methods("ms", "triplet", *names)), images)


def test_a_row_has_a_full_dot_for_the_method_and_a_hollow_one_for_its_reference():
    (axes,) = plot("ms+psd").figure.axes
    dots = [line for line in axes.lines if line.get_marker() == "o"]
    full = {line.get_ydata()[0]: line.get_xdata()[0] for line in dots if line.get_markerfacecolor() != PAPER}
    hollow = {line.get_ydata()[0]: line.get_xdata()[0] for line in dots if line.get_markerfacecolor() == PAPER}
    assert full == {0: 9.0, 1: 7.0, 2: 0.5}
    assert hollow == {0: 12.5, 1: 0.0, 2: 3.0}
    joined = [sorted(line.get_xdata()) for line in axes.lines if line.get_marker() == "None"]
    assert joined == [sorted(pair) for pair in COUNTS]
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        "class 0\nclass 4", "class 1\nclass 5", "class 2\nclass 6",
    ]  # fmt: skip
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # the first on top


def test_a_dot_has_the_colour_of_its_base():
    found = plot("ms", "ms+psd").figure
    (ms, psd) = [{to_hex(line.get_color()) for line in axes.lines if line.get_marker() == "o"} for axes in found.axes]
    assert len(ms) == 2  # ms beside triplet
    assert len(psd) == 1  # a modifier beside its own base


@pytest.mark.parametrize("names", [("ms+psd",), ("ms", "ms+psd", "ms+obdsd")])
@pytest.mark.parametrize("class_name", ["{}", "Japanese_(katakana)/character{}_that_is_long"])
def test_images_are_of_the_two_classes_and_hide_no_name(names, class_name):
    pixels = {place: np.full((8, 8), place, dtype=np.uint8) for place in (0, 1, 10, 11, 20, 21)}
    found = plot(*names, images=Thumbnails(pixels, ()), class_name=class_name)
    with plotting(RC):
        found.figure.draw_without_rendering()
    for panel in (axes for axes in found.figure.axes if axes.get_visible()):
        assert [image.get_array().max() for image in panel.images] == [0, 1, 10, 11, 20, 21]
        boxes = [image.get_window_extent() for image in panel.images]
        boxes += [label.get_window_extent() for label in panel.get_yticklabels()]
        assert not any(one.overlaps(other) for one, other in itertools.combinations([*boxes, panel.bbox], 2))
        assert all(box.x0 >= 0 for box in boxes)


def test_the_data_are_what_is_drawn():
    data = plot("ms+psd", "ms+obdsd").data
    assert data["confused"].tolist() == [own for own, _ in COUNTS] * 2
    assert data["confused_to"].tolist() == [other for _, other in COUNTS] * 2
    assert set(data["to_name"]) == {"ms"}
    assert set(data["queries"]) == {40}


def test_a_class_name_is_a_name_and_no_formula():
    (axes,) = plot("ms+psd", class_name="$x_{}$\x1b").figure.axes
    label = axes.get_yticklabels()[0]
    assert label.get_text() == "$x_0$\\x1b\n$x_4$\\x1b"
    assert not label.get_parse_math()
