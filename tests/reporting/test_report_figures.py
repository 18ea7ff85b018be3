import numpy as np
import pandas as pd
import pytest

from dmlbench.analysis.groups import BASES, MODIFIERS, Group
from dmlbench.reporting.figures import accuracy_plot, difference_plot, overhead_plot
from dmlbench.reporting.pictures import inline, save
from dmlbench.reporting.style import PALETTE, Look, limits_of, row_canvas
from tests.typed import NONE, methods, parts, shown

GROUP = Group("p", NONE, "d")
LOOK = Look.of(methods("ms", "triplet", "ms+psd"))


def estimates(*methods, n=3):
    rows = [
        {"method": name, "base": name.partition("+")[0], "modifier": name.partition("+")[2], "metric": "recall_at_1"}
        | {
            "mean": 0.6,
            "low": 0.59 if n > 1 else np.nan,
            "high": 0.61 if n > 1 else np.nan,
            "n": n,
            "selection": "last",
            "to": name.partition("+")[0],
            "verdict": "inconclusive",
            "all_low": 0.58,
            "all_high": 0.62,
        }
        for name in methods
    ]
    return shown(pd.DataFrame(rows))


def values(*methods):
    rows = [
        {"method": name, "to": name.partition("+")[0], "seed": seed, "value": value, "value_to": 0.59}
        for name in methods
        for seed, value in enumerate((0.59, 0.6, 0.61))
    ]
    return shown(pd.DataFrame(rows))


def accuracy(*methods, untrained=0.3, n=3):
    shown = (estimates(*methods, n=n), values(*methods))
    return accuracy_plot(GROUP, "last", *shown, untrained=untrained, look=LOOK, limits=(0.58, 0.62))


def labels(plot):
    return [label.get_text() for label in plot.figure.axes[0].get_yticklabels()]


def test_the_untrained_network_has_a_row_and_off_the_axis_a_number():
    plot = accuracy("ms", "ms+psd")
    assert labels(plot) == ["ms", "ms+psd", "untrained"]
    assert "30.00, off the axis" in plot.figure.axes[0].texts[0].get_text()


def test_an_axis_grows_for_an_untrained_network_that_squashes_nothing():
    plot = accuracy("ms", untrained=0.565)  # the axis of 4 points would be 5.5
    (axes,) = plot.figure.axes
    assert not list(axes.texts)
    assert axes.get_xlim()[0] < 56.5


def test_a_mean_is_off_the_axis_only_where_it_would_squash_the_others():
    means = np.array([0.60, 0.601, 0.602, 0.603, 0.604, 0.59])
    shown = pd.DataFrame({"mean": means, "low": means - 0.01, "high": means + 0.01})
    low, high = limits_of(shown, shown["mean"])
    assert low < 0.58
    assert high > 0.614
    shown.loc[5] -= 0.2
    low, high = limits_of(shown, shown["mean"])
    assert 0.58 < low < 0.59


def test_the_untrained_network_is_a_line_where_it_lies_on_the_axis():
    plot = accuracy("ms", untrained=0.595)
    assert not list(plot.figure.axes[0].texts)
    assert any(list(line.get_xdata()) == [59.5, 59.5] for line in plot.figure.axes[0].lines)


def test_without_an_untrained_network():
    assert labels(accuracy("ms", untrained=np.nan)) == ["ms"]


def test_one_seed_draws_no_interval():
    assert len(accuracy("ms", n=2).figure.axes[0].containers) == 1
    assert not accuracy("ms", n=1).figure.axes[0].containers


def test_differences_are_drawn_in_points_around_zero():
    rows = estimates("ms+psd").assign(mean=0.01, low=-0.002, high=0.022)
    plot = difference_plot(GROUP, "last", rows, values("ms+psd"), look=LOOK, limits=(-0.01, 0.03))
    axes = plot.figure.axes[0]
    assert axes.get_xlim() == pytest.approx((-1, 3))
    assert plot.label == "Difference in R@1 to ms on p on d; last epoch."


def test_the_star_of_a_verdict_stands_on_no_line_of_its_own():
    long = "triplet+independent{member 1}{tuned}"
    names = ["triplet+independent{ensemble}*", "triplet+dm2{ensemble}*", "ms+obdsd", long]
    _, axes = row_canvas(names, ["title"])
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == [
        "triplet+independent\n{ensemble}*",
        "triplet+dm2{ensemble}*",
        "ms+obdsd",
        "triplet+independent\n{member 1}{tuned}",
    ]


def test_overhead_bars_start_at_one():
    ratios = estimates("ms+psd").assign(mean=1.3, low=1.2, high=1.4, step_ms=52.0, step_ms_to=40.0)
    (bar,) = overhead_plot(GROUP, ratios, LOOK).figure.axes[0].patches
    assert (bar.get_x(), bar.get_width()) == pytest.approx((1, 0.3))


def test_known_names_keep_their_signs_in_every_report():
    names, modified = [*BASES, "new", "other"], [f"ms+{name}" for name in (*MODIFIERS[1:], "mine")]
    alone, all_of_them = Look.of(methods("ms+obdsd")), Look.of(methods(*names, *modified))
    assert alone.signs(parts("ms+obdsd")) == all_of_them.signs(parts("ms+obdsd"))
    assert len({all_of_them.colour(parts(name)) for name in names}) == len(PALETTE)
    assert all_of_them.signs(parts("ms+dm2{ensemble}"))[2] == all_of_them.signs(parts("ms+dm2"))[2]
    assert all_of_them.signs(parts("ms+dm2{ensemble}")) != all_of_them.signs(parts("ms+dm2"))  # hollow
    for signs in (all_of_them.signs, all_of_them.hatch, all_of_them.line):
        assert len({signs(parts(name)) for name in ("ms", *modified[:-1])}) == len(MODIFIERS)


def test_a_modifier_with_settings_looks_like_its_plain_one_unless_both_are_there():
    plain = Look.of(methods("ms", "ms+psd", "ms+obdsd"))
    own = ["ms+psd{teacher_mode=eval}", "ms+obdsd{teacher_mode=eval}"]
    alone = Look.of(methods("ms", *own, "ms+s2sd", "ms+dm2"))
    assert [alone.signs(parts(name)) for name in own] == [plain.signs(parts(name)) for name in ("ms+psd", "ms+obdsd")]
    everything = ["ms", *(f"ms+{name}" for name in MODIFIERS[1:6]), *own, "ms+mine"]
    both = Look.of(methods(*everything))
    assert len({both.signs(parts(name)) for name in everything}) == len(everything)


def test_tuned_values_give_a_method_no_look_of_its_own():
    names = ["ms+psd", "ms+dm2{ensemble}"]
    look = Look.of(methods("ms", *names, *(f"{name}{{tuned}}" for name in names)))
    for name in names:
        for signs in (look.signs, look.line, look.hatch):
            assert signs(parts(f"{name}{{tuned}}")) == signs(parts(name))


def test_limits_show_everything_with_a_margin():
    low, high = limits_of(estimates("ms"), pd.Series([0.5, 0.7]), include=[0.0])
    assert low < 0
    assert high > 0.7
    assert limits_of(estimates("ms", n=1), pd.Series([0.6])) == pytest.approx((0.595, 0.605))


def test_saving_twice_gives_the_same_bytes(tmp_path):
    contents = []
    for place in ("a", "b"):
        (tmp_path / place).mkdir()
        save(accuracy("ms"), tmp_path / place)
        contents.append([path.read_bytes() for path in sorted((tmp_path / place).iterdir())])
    assert contents[0] == contents[1]
    assert b"<dc:date>" not in contents[0][1]


def test_inlined_figures_share_no_identifier():
    content = '<g id="a" clip-path="url(#c)"><use xlink:href="#a"/></g>'
    svg = f'<?xml?><svg width="1pt" height="2pt" viewBox="0 0 1 2">{content}</svg>'
    found = inline(svg, "x", 'say "hi"')
    assert found == (
        '<svg role="img" aria-label="say &#34;hi&#34;" aria-details="data-x" viewBox="0 0 1 2">'
        '<g id="x-a" clip-path="url(#x-c)">'
        '<use xlink:href="#x-a"/></g></svg>'
    )
