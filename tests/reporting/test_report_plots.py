"""Figures of cost, of the choice of the epoch, and over datasets."""

from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from matplotlib.markers import MarkerStyle

from dmlbench.analysis.groups import Group
from dmlbench.reporting.figures import (
    curve_plot,
    forest_plot,
    gain_curve_plot,
    optimism_plot,
    phases_plot,
    plane_plot,
    ranks_plot,
    selection_plot,
)
from dmlbench.reporting.figures.dots import _cliques
from dmlbench.reporting.style import INK, MARKERS, RC, Look, plotting
from tests.typed import NONE, methods, parts, shown

GROUP = Group("p", NONE, "d")
LOOK = Look.of(methods("ms", "triplet", "ms+psd", "ms+independent"))


def estimates(*methods, **changes):
    rows = []
    for place, name in enumerate(methods):
        base, _, modifier = name.partition("+")
        names = {"method": name, "base": base, "modifier": modifier, "to": base, "marks": ""}
        tests = {"n": 6, "p_t": 0.01, "p_bh": 0.02, "p_sign_flip": 0.03125, "verdict": "better"}
        row = names | tests | {"metric": "recall_at_1", "selection": "last", "mean": 0.01 * (place + 1)} | changes
        rows.append(row | {"low": row["mean"] - 0.005, "high": row["mean"] + 0.005})
    return shown(pd.DataFrame(rows))


def history(*bases):
    """Two seeds of every base, alone and with PSD, at two epochs."""
    rows = []
    for base in bases:
        plain, brace, rest = base.partition("{")
        for method in (base, f"{plain}+psd{brace}{rest}"):
            rows += [
                {"method": method, "seed": seed, "epoch": epoch} | {"test/recall_at_1": 0.3 + 0.1 * epoch + 0.01 * seed}
                for seed in range(2)
                for epoch in (0, 2)
            ]
    return shown(pd.DataFrame(rows))


def look_of(bases):
    return Look.of(methods(*bases, "ms+psd", "ms+psd{tuned}"))


def lines(axes, marker):
    return [line for line in axes.lines if line.get_marker() == marker]


def test_phases_are_stacked_to_the_whole_step():
    rows = [
        {"method": name, "base": "ms", "modifier": name.partition("+")[2], "phase": phase, "ms": ms, "n": 3}
        for name, times in (("ms", (1, 20, 30)), ("ms+psd", (1, 20, 30, 9)))
        for phase, ms in zip(("data", "forward", "backward", "teacher"), times, strict=False)
    ]
    plot = phases_plot(GROUP, shown(pd.DataFrame(rows)))
    ends = [bar.get_x() + bar.get_width() for bar in plot.figure.axes[0].patches]
    assert max(ends) == 60
    assert plot.data.loc[plot.data["phase"] == "teacher", "ms"].tolist() == [9]
    assert "teacher" in [text.get_text() for text in plot.figure.legends[0].get_texts()]


def test_the_plane_shows_gain_against_cost_of_the_methods_that_have_both():
    ratios = estimates("ms+psd").assign(mean=1.3, low=1.2, high=1.5, interleaved=False)
    plot = plane_plot(GROUP, "last", estimates("ms+psd", "triplet+psd"), ratios, LOOK)
    (mark,) = lines(plot.figure.axes[0], LOOK.signs(parts("ms+psd"))[2])
    assert (float(mark.get_xdata()[0]), float(mark.get_ydata()[0])) == pytest.approx((1.3, 1.0))
    assert plot.data["name"].tolist() == ["ms+psd"]
    assert plot.data["mean_cost"].tolist() == [1.3]
    assert "interleaved" not in plot.caption
    assert (
        "interleaved" in plane_plot(GROUP, "last", estimates("ms+psd"), ratios.assign(interleaved=True), LOOK).caption
    )


def test_tuned_methods_have_a_panel_of_their_own_and_the_same_signs():
    compared = estimates("ms+psd", "ms+psd{tuned}")
    ratios = compared.assign(mean=1.3, low=1.2, high=1.5, interleaved=False)
    figure = plane_plot(GROUP, "last", compared, ratios, LOOK).figure
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["files' values", "tuned"]
    gains = [float(lines(axes, LOOK.signs(parts("ms+psd"))[2])[0].get_ydata()[0]) for axes in figure.axes]
    assert gains == pytest.approx([1.0, 2.0])
    assert [[text.get_text() for text in axes.texts] for axes in figure.axes] == [["ms+psd"]] * 2


def test_tuned_methods_alone_have_one_panel_that_says_so():
    compared = estimates("ms+psd{tuned}")
    figure = plane_plot(
        GROUP, "last", compared, compared.assign(mean=1.3, low=1.2, high=1.5, interleaved=False), LOOK
    ).figure
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["tuned"]


@pytest.mark.parametrize(("bases", "columns"), [(["triplet", "ms"], 2), (["ms"], 1), (["triplet", "margin", "ms"], 3)])
def test_learning_curves_have_a_panel_per_base(bases, columns):
    figure = curve_plot(GROUP, history(*bases), look_of(bases)).figure
    assert [axes.get_title(loc="left") for axes in figure.axes] == bases
    assert len({round(axes.get_position().x0, 3) for axes in figure.axes}) == columns


def test_learning_curves_of_tuned_values_stand_beside_those_of_the_files():
    bases = ["triplet", "triplet{tuned}", "ms", "ms{tuned}"]
    figure = curve_plot(GROUP, history(*bases), look_of(bases)).figure
    found = {}
    for axes in figure.axes:
        place = axes.get_subplotspec()
        found[axes.get_title(loc="left")] = (place.rowspan.start, place.colspan.start)
    assert found == {"triplet": (0, 0), "triplet{tuned}": (0, 1), "ms": (1, 0), "ms{tuned}": (1, 1)}
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["base alone", "+psd"]


def test_a_far_curve_does_not_squash_the_others():
    names = ("ms", "ms+psd", "ms+obdsd", "ms+rkd", "triplet", "triplet+psd")
    rows = [
        {"method": name, "seed": seed, "epoch": epoch, "test/recall_at_1": level + epoch / 1000 + seed / 100}
        for place, name in enumerate(names)
        for seed in range(3)
        for epoch in range(9)
        for level in [0.2 if not epoch else 0.6 + place / 100]
    ]
    history = shown(pd.DataFrame(rows))
    look = Look.of(methods(*names))
    fallen = history.copy()
    fallen.loc[(history["method"] == "ms+obdsd") & (history["epoch"] > 0), "test/recall_at_1"] -= 0.55
    plot = curve_plot(GROUP, fallen, look)
    ms, triplet = (
        next(axes for axes in plot.figure.axes if axes.get_title(loc="left") == name) for name in ("ms", "triplet")
    )
    low, high = ms.get_ylim()
    assert 50 < low < 60
    assert high > 66
    assert [text.get_text() for text in ms.texts] == ["+obdsd 8.8 ▾"]  # the last epoch's mean
    assert not triplet.texts
    assert plot.caption.endswith("the untrained network at epoch 0, 21.0%; lines that end at an arrow's number.")
    slow = history.assign(**{"test/recall_at_1": 0.2 + 0.05 * history["epoch"]})
    whole = curve_plot(GROUP, slow, look)
    assert whole.figure.axes[0].get_ylim()[0] < 20  # a rise is no outlier
    assert "leaves out" not in whole.caption


def test_the_names_in_a_crowded_plane_lie_apart_and_within_it():
    names = [f"{base}+{name}" for base in ("ms", "triplet") for name in ("psd", "independent", "independent{ensemble}")]
    ratios = estimates(*names).assign(mean=np.linspace(1.2, 1.3, len(names)), low=1.2, high=1.5, interleaved=False)
    with plotting(RC):
        figure = plane_plot(GROUP, "last", estimates(*names), ratios, LOOK).figure
        figure.draw_without_rendering()
        boxes = [text.get_window_extent() for text in figure.axes[0].texts if text.get_text()]
        frame = figure.axes[0].get_window_extent()
    assert len(boxes) == len(names)
    assert all(frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 for box in boxes)
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))


def test_many_methods_have_a_panel_for_each_base():
    modified = ("psd", "obdsd", "dm2", "xbm", "rkd", "ema")
    names = [f"{base}+{name}" for base in ("ms", "triplet", "margin", "supcon", "softtriple") for name in modified]
    ratios = estimates(*names).assign(mean=1.3, low=1.2, high=1.5, interleaved=True)
    look = Look.of(methods(*names))
    axes = plane_plot(GROUP, "last", estimates(*names), ratios, look).figure.axes
    shown = {own.get_title(loc="left"): [text.get_text() for text in own.texts] for own in axes if own.get_visible()}
    assert set(shown) == {"ms", "triplet", "margin", "supcon", "softtriple"}
    assert all(sorted(words) == sorted(modified) for words in shown.values())
    few = plane_plot(GROUP, "last", estimates(*names[:12]), ratios, look).figure.axes
    assert [own.get_title(loc="left") for own in few] == [""]


def test_a_gain_that_is_far_out_is_an_arrow_with_its_number():
    names = [f"ms+{name}" for name in ("psd", "obdsd", "dm2", "xbm", "rkd", "ema")]
    compared = estimates(*names)
    compared.loc[compared["name"] == "ms+dm2", "mean"] = -0.33
    ratios = estimates(*names).assign(mean=np.linspace(1.2, 1.4, len(names)), low=1.2, high=1.5, interleaved=False)
    axes = plane_plot(GROUP, "last", compared, ratios, Look.of(methods(*names))).figure.axes[0]
    assert axes.get_ylim()[0] > -10
    assert "ms+dm2 −33.00" in [text.get_text() for text in axes.texts]


def test_gain_curves_have_a_panel_per_modifier_and_pairs_of_one_seed():
    rows = [
        {"name": f"{base}+psd", "seed": seed, "epoch": epoch, "value": 0.5 + 0.01 * epoch + shift, "value_to": 0.5}
        for base, shift in (("ms", 0.0), ("triplet", 0.001))
        for seed in (0, 1)
        for epoch in (0, 1, 2)
    ]
    names = pd.DataFrame([{"name": name} | parts(name) for name in ("ms+psd", "triplet+psd")])
    pairs = pd.DataFrame(rows).merge(names, on="name")
    plot = gain_curve_plot(GROUP, pairs, LOOK, "recall_at_1")
    (panel,) = [axes for axes in plot.figure.axes if axes.get_visible()]
    assert panel.get_title(loc="left") == "+psd"
    curves = [list(line.get_ydata()) for line in panel.lines if len(line.get_ydata()) == 3]
    assert sorted(curves) == [pytest.approx([0, 1, 2]), pytest.approx([0.1, 1.1, 2.1])]
    assert plot.data["n"].tolist() == [2] * 6


def test_selections_are_marks_on_one_line():
    rows = pd.concat([estimates("ms", selection=name, mean=mean) for name, mean in
                      (("last", 0.60), ("validation", 0.61), ("best_test", 0.63))])  # fmt: skip
    plot = selection_plot(GROUP, rows, LOOK)
    joined = plot.figure.axes[0].lines[0]
    assert list(joined.get_xdata()) == pytest.approx([60, 61, 63])
    assert plot.data["mean"].tolist() == pytest.approx([0.60, 0.61, 0.63])


def test_optimism_is_drawn_from_the_seeds():
    rows = [
        {"method": "ms", "seed": seed, "selection": name, "value": value}
        for seed in (0, 1)
        for name, value in (("last", 0.60), ("best_test", 0.61 + 0.01 * seed))
    ]
    values = shown(pd.DataFrame(rows))
    plot = optimism_plot(GROUP, estimates("ms"), values, LOOK)
    assert plot.data["best_test_minus_last"].tolist() == pytest.approx([0.01, 0.02])
    assert plot.label.startswith("How much of R@1 on p on d comes from choosing the epoch on the test classes")


def test_a_forest_has_a_row_per_dataset_and_one_for_all():
    found = ("cub", 0.01, "better"), ("cars", -0.02, "inconclusive")
    each = [estimates("ms+psd", dataset=name, mean=mean, verdict=verdict) for name, mean, verdict in found]
    pooled = estimates("ms+psd", mean=-0.005, verdict="inconclusive", datasets=2)
    plot = forest_plot("p", "p", pd.concat(each), pooled, LOOK)
    axes = plot.figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["ms+psd", "cub*", "cars", "2 datasets"]
    diamonds = [line for line in lines(axes, "D") if line.get_color() == INK]
    assert [float(line.get_xdata()[0]) for line in diamonds] == pytest.approx([-0.5])
    assert plot.data["dataset"].tolist() == ["cub", "cars", "2 datasets"]


def test_ranks_join_what_the_critical_difference_cannot_part():
    names = ("ms", "ms+psd", "triplet")
    means = estimates(*names).assign(rank=[1.1, 1.9, 3.0], iqm=0.6, datasets=8, n=48, friedman_p=0.01)
    plot = ranks_plot("p", "p", means, LOOK)
    bars = [line for line in plot.figure.axes[0].lines if line.get_linewidth() == 2.4]
    assert [list(bar.get_xdata()) for bar in bars] == [pytest.approx([1.07, 1.93]), pytest.approx([1.87, 3.03])]
    (one,) = [line for line in ranks_plot("p", "p", means.assign(friedman_p=0.2), LOOK).figure.axes[0].lines
              if line.get_linewidth() == 2.4]  # fmt: skip
    assert list(one.get_xdata()) == pytest.approx([1.07, 3.03])  # nothing is told apart
    assert "less than the critical difference of 1.17 apart" in plot.caption
    assert plot.data["rank"].tolist() == [1.1, 1.9, 3.0]


@pytest.mark.parametrize(
    ("ranks", "found"),
    [([1, 2, 3], []), ([1, 1.5, 3], [(1, 1.5)]), ([1, 1.5, 1.9, 2.4], [(1, 1.9), (1.5, 2.4)]), ([2, 2], [])],
)
def test_cliques_are_the_largest_runs(ranks, found):
    assert _cliques(np.array(ranks, float), 1.0) == found


def test_the_caption_of_curves_names_what_leaves_the_axis_and_comes_back():
    names = ("ms", "ms+psd", "triplet", "triplet+psd")

    def value(name, epoch):
        return 0.05 if (name, epoch) == ("ms+psd", 6) else 0.6 + names.index(name) / 100 + epoch / 1000

    rows = [
        {"method": name, "seed": seed, "epoch": epoch, "test/recall_at_1": value(name, epoch) + seed / 1000}
        for name in names for seed in range(3) for epoch in range(9)
    ]  # fmt: skip
    plot = curve_plot(Group("p", NONE, "birds"), shown(pd.DataFrame(rows)), Look.of(methods(*names)))
    assert plot.caption.endswith(" The axis leaves out what is far from the rest: some epochs of ms+psd.")


def test_no_marker_looks_like_another():
    """Of the area that two cover, they share less than a hexagon standing and one lying."""
    grid = np.stack(np.meshgrid(*[np.linspace(-0.6, 0.6, 41)] * 2), axis=-1).reshape(-1, 2)
    styles = [MarkerStyle(marker) for marker in MARKERS]
    inside = [style.get_path().transformed(style.get_transform()).contains_points(grid) for style in styles]
    assert max((one & other).sum() / (one | other).sum() for one, other in combinations(inside, 2)) < 0.865
