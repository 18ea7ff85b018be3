import itertools

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from dmlbench.analysis.embeddings import Embeddings, Nearest, nearest, spectrum
from dmlbench.analysis.groups import Group
from dmlbench.analysis.queries import Measured
from dmlbench.reporting.figures.geometry import TOGETHER, embedding_plot, geometry_plot
from dmlbench.reporting.pictures import save
from dmlbench.reporting.style import PAPER, RC, Look, plotting
from tests.kept import angles
from tests.typed import NONE, methods, shown

GROUP = Group("p", NONE, "d")
METHODS = ("ms", "ms+psd", "triplet")
MANY = tuple(f"{base}{modifier}" for base in ("ms", "triplet", "margin") for modifier in ("", "+psd", "+obdsd"))
METRICS = {"recall_at_1": 0.7, "spectral_decay": 0.5, "intra_over_inter": 0.4}


def look(names):
    return Look.of(methods(*names))


def values(names, *, seeds=2):
    """Methods 0.1 apart in every metric, seeds 0.01."""
    rows = [
        {"method": name, "seed": seed, "metric": metric, "value": level + place / 10 + seed / 100, "selection": "last"}
        for place, name in enumerate(names)
        for seed in range(seeds)
        for metric, level in METRICS.items()
    ]
    return shown(pd.DataFrame(rows))


def random_cell(seed=0, spread=0.5):
    rng, labels = np.random.default_rng(seed), np.arange(60) // 6
    vectors = rng.normal(size=(10, 8))[labels] + spread * rng.normal(size=(60, 8))
    return measured(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), labels)


def measured(vectors, labels):
    embeddings = Embeddings(np.asarray(vectors, float), np.asarray(labels))
    return Measured(embeddings.labels, nearest(embeddings), spectrum(embeddings), "f")


def drawn(cells):
    """The figure and its data for cells by method, one or more seeds each."""
    rows = [
        {"method": name, "networks": 1, "folder": f"{name}/{seed}"}
        for name, seeds in cells.items()
        for seed, _ in enumerate(seeds)
    ]
    found = {f"{name}/{seed}": cell for name, seeds in cells.items() for seed, cell in enumerate(seeds)}
    return embedding_plot(GROUP, shown(pd.DataFrame(rows)), found, look(cells))


def crowded(figure):
    """Pairs of texts that overlap once the figure is laid out."""
    with plotting(RC):
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
    axes = [(one, axis) for one in figure.axes for axis in (one.xaxis, one.yaxis)]
    texts = [axis.label for _, axis in axes] + [tick.label1 for _, axis in axes for tick in axis._update_ticks()]
    texts += [one._left_title for one in figure.axes] + [figure._suptitle]
    texts += [text for legend in figure.legends for text in legend.get_texts()]
    texts = [text for text in texts if text.get_visible()]
    boxes = [(text.get_text(), text.get_window_extent(canvas.get_renderer())) for text in texts if text.get_text()]
    boxes = [(words, box) for words, box in boxes if box.width]
    return [(a, b) for (a, one), (b, other) in itertools.combinations(boxes, 2) if one.overlaps(other)]


def marks(axes, *, size):
    return [line for line in axes.lines if line.get_markersize() == pytest.approx(size)]


def test_means_and_seeds_against_both_metrics():
    plot = geometry_plot(GROUP, values(METHODS), look(METHODS))
    data = plot.data
    assert len(data) == len(METHODS) * 2
    left, right = plot.figure.axes
    ms = next(line for line in marks(left, size=6) if line.get_marker() == "o" and line.get_xdata()[0] < 0.6)
    assert (ms.get_xdata()[0], ms.get_ydata()[0]) == pytest.approx((0.505, 70.5))
    assert sorted(len(line.get_xdata()) for line in marks(right, size=2.6)) == [2, 2, 2]
    assert sorted(line.get_xdata()[0] for line in marks(right, size=6)) == pytest.approx([0.405, 0.505, 0.605])


def test_a_far_method_is_at_the_end_of_the_axis_with_its_number():
    frame = values(MANY)
    frame["value"] = 0.5 + (frame["value"] % 1) / 50 + frame["method"].map(MANY.index) / 100
    fallen = frame["method"] == "ms+obdsd"
    frame.loc[fallen & (frame["metric"] == "recall_at_1"), "value"] = 0.05
    frame.loc[fallen & (frame["metric"] == "intra_over_inter"), "value"] = 3.0
    plot = geometry_plot(GROUP, frame, look(MANY))
    left, right = plot.figure.axes
    assert [text.get_text() for text in left.texts] == ["5.0% ▾"]
    assert [text.get_text() for text in right.texts] == ["3.00 ▸  5.0% ▾"]
    for axes, size in itertools.product((left, right), (6, 2.6)):
        lows, highs = (np.array(ends) for ends in zip(axes.get_xlim(), axes.get_ylim(), strict=True))
        points = np.concatenate([np.transpose(line.get_data()) for line in marks(axes, size=size)])
        within = ((points >= lows - 1e-9) & (points <= highs + 1e-9)).all(axis=1)
        assert within.sum() == (9 if size == 6 else 2 * 8)  # all means, those of seeds but for the far ones
    assert plot.caption.endswith("Arrows: 1 method beyond an axis, at its end, with the number.")
    assert crowded(plot.figure) == []
    assert plot.data["intra_over_inter"].max() == 3.0


def test_axes_that_nothing_squashes_show_all():
    plot = geometry_plot(GROUP, values(METHODS), look(METHODS))
    assert not any(axes.texts for axes in plot.figure.axes)
    assert "Arrows" not in plot.caption


def test_numbers_of_several_far_methods_lie_apart():
    frame = values(MANY)
    frame["value"] = 0.5 + frame["method"].map(MANY.index) / 100
    for name in ("ms+obdsd", "margin+psd"):
        frame.loc[(frame["method"] == name) & (frame["metric"] == "recall_at_1"), "value"] = 0.05
        frame.loc[(frame["method"] == name) & (frame["metric"] != "recall_at_1"), "value"] = 3.0
    figure = geometry_plot(GROUP, frame, look(MANY)).figure
    with plotting(RC):
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
    for axes in figure.axes:
        one, other = (text.get_window_extent(canvas.get_renderer()) for text in axes.texts)
        assert not one.overlaps(other)
        assert axes.get_window_extent().y0 <= min(one.y0, other.y0)


def test_only_the_last_epoch_counts_and_cells_without_a_metric_are_left_out():
    frame = values(METHODS)
    frame = frame[~((frame["method"] == "triplet") & (frame["metric"] == "spectral_decay"))]
    other = values(METHODS).assign(selection="best_test", value=9.0)
    data = geometry_plot(GROUP, pd.concat([frame, other]), look(METHODS)).data
    assert set(data["name"]) == {"ms", "ms+psd"}
    assert data["recall_at_1"].max() < 1


def test_an_ensemble_is_hollow_and_single_networks_are_left_out():
    names = ("ms", *(f"ms+dm2{readout}" for readout in ("", "{ensemble}", "{member 1}", "{member 2}")))
    plot = geometry_plot(GROUP, values(names), look(names))
    assert set(plot.data["name"]) == {"ms", "ms+dm2", "ms+dm2{ensemble}"}
    faces = [line.get_markerfacecolor() for line in marks(plot.figure.axes[0], size=6)]
    assert [face == PAPER for face in faces] == [False, False, True]


def test_tuned_methods_have_a_row_of_their_own_and_the_same_signs():
    names = ("ms", "ms+psd", "ms{tuned}", "ms+psd{tuned}")
    figure = geometry_plot(GROUP, values(names), look(names)).figure
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["files' values", "", "tuned", ""]
    signs = [[(line.get_marker(), line.get_color()) for line in marks(axes, size=6)] for axes in figure.axes]
    assert signs[0] == signs[2]
    assert len(set(signs[0])) == 2
    means = [[line.get_ydata()[0] for line in marks(axes, size=6)] for axes in figure.axes[::2]]
    assert means == [pytest.approx([70.5, 80.5]), pytest.approx([90.5, 100.5])]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["ms", "ms+psd"]
    assert crowded(figure) == []


def test_curves_of_embeddings_tell_tuned_values_from_the_files():
    figure = drawn({name: [random_cell(place)] for place, name in enumerate(("ms", "ms{tuned}"))}).figure
    assert [axes.get_title(loc="left") for axes in figure.axes[::3]] == ["ms", "ms{tuned}"]


@pytest.mark.parametrize("names", [("ms",), METHODS, MANY, [f"ms+{'long' * n}" for n in range(1, 10)]])
def test_nothing_overlaps_in_the_scatter(names):
    plot = geometry_plot(GROUP, values(names), look(names))
    assert crowded(plot.figure) == []


@pytest.mark.parametrize("names", [("ms",), METHODS, MANY])
@pytest.mark.parametrize("spread", [0.001, 0.02, 0.5, 3.0])
def test_nothing_overlaps_in_the_curves(names, spread):
    plot = drawn({name: [random_cell(place, spread)] for place, name in enumerate(names)})
    assert crowded(plot.figure) == []


def test_curves_are_shares_of_all():
    cells = {name: [random_cell(seed), random_cell(seed + 9)] for seed, name in enumerate(METHODS)}
    data = drawn(cells).data
    assert set(data["seeds"]) == {2}
    sums = data.groupby(["method", "quantity"])["y"].sum()
    assert len(sums) == 9
    assert sums.to_numpy() == pytest.approx(100)
    expected = 100 * (cells["ms"][0].spectrum + cells["ms"][1].spectrum) / 2
    curve = data[(data["method"] == "ms") & (data["quantity"] == "singular value")]
    assert curve["y"].to_numpy() == pytest.approx(expected)
    assert curve["x"].tolist() == list(range(1, 9))


def test_a_distribution_lies_where_its_similarities_are():
    # Every query has a positive 20 degrees away and a negative at 40: all in one bin each.
    cell = measured(angles(0, 20, 60, 80), [0, 0, 1, 1])
    data = drawn({"ms": [cell], "ms+psd": [random_cell()]}).data
    for side, degrees in ("positive", [20]), ("negative", [40, 60]):
        own = data[(data["method"] == "ms") & (data["quantity"] == f"nearest {side}") & (data["y"] > 0)]
        distances, found = 1 - np.cos(np.deg2rad(degrees)), (1 - own["x"]).to_numpy()[::-1]
        assert sorted(found) == pytest.approx(distances, rel=0.25)
        assert own["y"].to_numpy() == pytest.approx(100 / len(degrees))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("vectors", [angles(7, 7, 7, 7), np.zeros((4, 2)), angles(0, 180, 90, 270)])
def test_collapsed_zero_and_opposite_embeddings_are_drawn(tmp_path, vectors):
    plot = drawn({"ms": [measured(vectors, [0, 0, 1, 1])]})
    data = plot.data
    save(plot, tmp_path)
    assert np.isfinite(data[["x", "y"]].to_numpy()).all()
    sums = data.groupby("quantity")["y"].sum()
    assert sums.to_numpy() == pytest.approx(100)


def test_the_few_that_are_closer_than_the_axis_shows_are_counted_at_its_end():
    positive = np.full(3000, 0.9)
    positive[0] = 1 - 1e-5
    cell = Measured(np.zeros(3000, int), Nearest(positive, np.full(3000, 0.5), np.ones(3000, int)), np.ones(1), "f")
    data = drawn({"ms": [cell]}).data
    own = data[data["quantity"] == "nearest positive"]
    assert own["y"].sum() == pytest.approx(100)
    assert own.loc[own["x"].idxmax(), "y"] >= 100 / 3000


def test_queries_alone_in_their_class_are_in_no_distribution():
    with_single = measured(angles(0, 20, 60, 80, 170), [0, 0, 1, 1, 2])
    data = drawn({"ms": [with_single]}).data
    assert data.groupby("quantity")["y"].sum().to_numpy() == pytest.approx(100)


def test_few_methods_share_a_row_and_many_have_one_per_base():
    together = MANY[:TOGETHER]
    plot = drawn({name: [random_cell(place)] for place, name in enumerate(together)})
    assert len(plot.figure.axes) == 3
    assert len(plot.figure.axes[0].lines) == TOGETHER
    assert {text.get_text() for text in plot.figure.legends[0].get_texts()} == set(together)
    plot = drawn({name: [random_cell(place)] for place, name in enumerate(MANY)})
    assert len(plot.figure.axes) == 3 * 3
    assert [len(axes.lines) for axes in plot.figure.axes] == [3] * 9
    assert [text.get_text() for text in plot.figure.legends[0].get_texts()] == ["base alone", "+psd", "+obdsd"]


def test_cells_without_embeddings_are_left_out():
    rows = shown(pd.DataFrame({"method": ["ms", "ms+psd"], "networks": 1, "folder": ["a", "b"]}))
    data = embedding_plot(GROUP, rows, {"a": random_cell()}, look(METHODS)).data
    assert set(data["name"]) == {"ms"}
