"""Embedding geometry: how it goes with R@1, and where embeddings are kept its spectrum and nearest similarities."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from dmlbench.analysis.groups import METHOD, Group, in_order, method_name
from dmlbench.analysis.queries import Measured
from dmlbench.errors import counted
from dmlbench.reporting.style import (
    LINE,
    MANY,
    MUTED,
    PAGE,
    RC,
    Limits,
    Look,
    Plot,
    by_panel,
    cut_limits,
    edges,
    legend_columns,
    legend_rows,
    modifier_handles,
    plotting,
    wrapped,
    write_panel_title,
    write_title,
)
from dmlbench.results.frames import ENSEMBLE, MEAN, of_kept_embeddings

METRICS = {
    "spectral_decay": "spectral decay (0: all directions used alike)",
    "intra_over_inter": "distance within / between classes",
}
RECALL = "recall_at_1"
SHOWN = [*METHOD, "name", "base_name", "modifier_name"]
TOGETHER = 6  # methods that are still distinguishable in one panel
BINS = 36
SMALL = 6.5  # points of the numbers beyond an axis
CHARACTERS = 26  # that fit side by side below a panel of curves
CLOSEST = 1e-6  # a cosine distance that the axis still shows: equal images have 0, which no logarithm takes
PANELS = {
    "singular value": ("rank of the singular value", "share of all (%)"),
    "nearest positive": ("cosine to the nearest positive", "queries (%)"),
    "nearest negative": ("cosine to the nearest negative", "queries (%)"),
}


def geometry_plot(group: Group, values: pd.DataFrame, look: Look) -> Plot:
    """R@1 against spectral decay and against the ratio of distances within and between classes, after the last epoch.

    Args:
        group: What all methods share.
        values: Rows of `estimates.seed_values` of this group, with both metrics and R@1 of at least one cell.
        look: Colours and markers.

    Returns:
        The figure; its data has one row per method and seed, none of single networks of several.
    """
    last = values[(values["selection"] == "last") & values["metric"].isin([RECALL, *METRICS])]
    # Single networks of several have rows in every table, and here no sign of their own.
    last = last[last["network"].isin([MEAN, ENSEMBLE])]
    wide = last.pivot_table(values="value", index=[*SHOWN, "seed"], columns="metric").reset_index().dropna()
    data = in_order(wide).rename_axis(columns=None).reset_index(drop=True)
    methods = data.drop_duplicates("name")
    with plotting(RC):
        lines = wrapped([group.title, "last epoch; large: mean over seeds, small: seeds"], PAGE)
        parts = by_panel(data)
        of_bases = len(methods) > MANY
        legend = modifier_handles(methods, look, marks=True) if of_bases else _handles(methods, look, lines=False)
        height = 0.6 + 1.6 * len(parts) + LINE * (len(lines) + legend_rows(legend, PAGE))
        figure = Figure(figsize=(PAGE, height))
        write_title(figure, lines)
        grid = figure.subplots(
            len(parts), len(METRICS), sharex="col", sharey=True, squeeze=False, gridspec_kw={"wspace": 0.06}
        )
        cut = {metric: _cut(data, metric) for metric in (*METRICS, RECALL)}
        for panels, (title, part) in zip(grid, parts.items(), strict=True):
            write_panel_title(panels[0], title)
            _scatter_row(panels, methods, part, look, cut)
        for panels, part in zip(grid, parts.values(), strict=True):  # when all is drawn, and no axis moves
            for axes, metric in zip(panels, METRICS, strict=True):
                _write_beyond(axes, [_mark(own, metric, cut) for _, own in part.groupby("name", sort=False)])
        for axes, words in zip(grid[-1], METRICS.values(), strict=True):
            axes.set_xlabel(words)
        _legend(figure, legend)
    return Plot(
        figure,
        f"geometry_{group.slug}",
        f"R@1 against embedding geometry on {group.title}, last epoch. Left: spectral decay, the divergence of the "
        "uniform distribution to the singular values; right: mean cosine distance within classes over that between "
        f"class centroids. Large marks: means over seeds; small: seeds.{_beyond_words(data, cut)}",
        data,
    )


Cut = Mapping[str, Limits | None]  # by metric the ends of an axis that leaves out what is far; None where none is


def _cut(data: pd.DataFrame, metric: str) -> Limits | None:
    """Where the axis of a metric ends, so that what is far out does not squash the rest."""
    own = data.groupby("name", sort=False)[metric]
    return cut_limits(pd.DataFrame({"mean": own.mean(), "low": own.min(), "high": own.max()}), data[metric])


def _beyond_words(data: pd.DataFrame, cut: Cut) -> str:
    means = data.groupby("name", sort=False)[list(cut)].mean()
    left_out = {name for metric, ends in cut.items() if ends for name in means.index[~means[metric].between(*ends)]}
    count = len(left_out)
    return f" Arrows: {counted(count, 'method')} beyond an axis, at its end, with the number." if count else ""


def embedding_plot(group: Group, cells: pd.DataFrame, measured: dict[str, Measured], look: Look) -> Plot | None:
    """Singular values, and how near each query's nearest positive and negative are, after the last epoch.

    Up to six methods share their panels; more are drawn in a row of panels per base.

    Args:
        group: What all methods share.
        cells: Results of this group, named; those that were not measured are left out.
        measured: As `queries.measure_kept` returns it, with at least one cell of the group.
        look: Colours and line styles.

    Returns:
        The figure, None where embeddings are of no row that is left; its data are the curves, one row per method,
        quantity (the keys of `PANELS`) and point.
    """
    kept = of_kept_embeddings(cells[cells["folder"].isin(list(measured))]).drop_duplicates("folder")
    if kept.empty:
        return None
    kept = in_order(kept)
    methods = kept.drop_duplicates("name")
    of = {name: [measured[folder] for folder in own["folder"]] for name, own in kept.groupby("name", sort=False)}
    data = _curves(methods, {str(name): cells for name, cells in of.items()})
    # A tuned method has the signs of its plain one: panels by base tell the two apart.
    together = len(methods) <= TOGETHER and not methods["tuned"].any()
    rows = [methods] if together else [own for _, own in methods.groupby("base_name", sort=False)]
    with plotting(RC):
        lines = wrapped([group.title, "test embeddings of the last epoch, mean over seeds"], PAGE)
        legend = _handles(methods, look, lines=True) if together else modifier_handles(methods, look)
        figure = Figure(figsize=(PAGE, 0.2 + 1.75 * len(rows) + LINE * (len(lines) + legend_rows(legend, PAGE))))
        write_title(figure, lines)
        grid = figure.subplots(len(rows), len(PANELS), sharex="col", sharey="col", squeeze=False)
        for line, own in zip(grid, rows, strict=True):
            _draw_row(line, own, data, look)
            write_panel_title(line[0], "" if together else own["base_name"].iloc[0])
        _scale(grid[-1], data)
        _legend(figure, legend)
    return Plot(
        figure,
        f"embeddings_{group.slug}",
        f"Test embeddings on {group.title} after the last epoch, mean over seeds. Left: singular values, largest "
        "first, as shares of their sum; middle and right: distribution of the cosine similarity of every query to the "
        "nearest image of its own class and to the nearest of any other, on an axis that spreads what is close to 1 "
        "and ends with all that is closer.",
        data,
    )


def _curves(methods: pd.DataFrame, of: dict[str, list[Measured]]) -> pd.DataFrame:
    """Points of all curves: a method's mean over seeds, of all its seeds alike."""
    everything = [cell for cells in of.values() for cell in cells]
    edges = _edges(everything)
    frames = []
    for row in methods[SHOWN].to_dict("records"):
        cells = of[row["name"]]
        shares = np.mean([cell.spectrum for cell in cells], axis=0)
        found = {"singular value": (np.arange(1, len(shares) + 1), 100 * shares)}
        for side in ("positive", "negative"):
            counted = [_shares(getattr(cell.nearest, side), cell.nearest.queries, edges) for cell in cells]
            found[f"nearest {side}"] = (1 - np.sqrt(edges[1:] * edges[:-1]), 100 * np.mean(counted, axis=0))
        for quantity, (x, y) in found.items():
            frames.append(pd.DataFrame(row | {"quantity": quantity, "seeds": len(cells)} | {"x": x, "y": y}))
    return pd.concat(frames, ignore_index=True)


def _edges(cells: Sequence[Measured]) -> np.ndarray:
    """Ends of the bins of cosine distance, the same for all: even steps of its logarithm, as most are near 0."""
    both = [side[cell.nearest.queries] for cell in cells for side in (cell.nearest.positive, cell.nearest.negative)]
    low, high = np.quantile(_distances(np.concatenate(both)), [0.001, 1])
    return np.geomspace(0.9 * low, 1.1 * high, BINS + 1)


def _shares(similarities: np.ndarray, queries: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Share of the queries in each bin of distance; those closer than the first bin are in it."""
    counts, _ = np.histogram(np.maximum(_distances(similarities[queries]), edges[0]), edges)
    return np.asarray(counts / queries.sum())


def _distances(similarities: np.ndarray) -> np.ndarray:
    """Cosine distances, bounded so that their logarithm can be drawn."""
    distances: np.ndarray = np.clip(1 - similarities, CLOSEST, 2)
    return distances


def _draw_row(line: Sequence[Axes], methods: pd.DataFrame, data: pd.DataFrame, look: Look) -> None:
    for axes, (quantity, (_, words)) in zip(line, PANELS.items(), strict=True):
        for row in methods[SHOWN].to_dict("records"):
            own = data[(data["name"] == row["name"]) & (data["quantity"] == quantity)]
            style = {"color": look.colour(row), "linestyle": look.line(row)}
            axes.plot(own["x"], own["y"], linewidth=1.1, **style)
        axes.grid()
        axes.set_ylabel(words)


def _scale(axes: Sequence[Axes], data: pd.DataFrame) -> None:
    """Set the scales of a row of panels, which all rows share; both distributions have the same, to be compared."""
    axes[0].set_yscale("log")
    axes[0].yaxis.set_major_formatter("{x:g}")
    axes[0].xaxis.set_major_locator(MaxNLocator(5, integer=True))
    shares = data[data["quantity"] != "singular value"]
    low, high = shares["x"].min(), shares["x"].max()
    ticks = _ticks(low, high)
    for one, (words, _) in zip(axes, PANELS.values(), strict=True):
        one.set_xlabel(words)
    for one in axes[1:]:
        # Ten times closer to 1 is one step: 0, 0.9, 0.99.
        one.set_xscale("function", functions=(lambda x: -np.log(np.maximum(1 - x, 1e-9)), lambda y: 1 - np.exp(-y)))
        one.set(xlim=(low, high), ylim=(0, 1.06 * shares["y"].max()))
        one.set_xticks(ticks, [f"{tick:.7g}" for tick in ticks])


def _ticks(low: float, high: float) -> list[float]:
    """Similarities to name on an axis from `low` to `high`, as many round distances to 1 as there is room for."""
    ticks: list[float] = []
    for digits, every in ((1, 2, 5), 1), ((1, 3), 1), ((1,), 1), ((1,), 2), ((1,), 3):
        distances = [digit * 10.0**power for power in range(-6, 1) for digit in digits][::-every]
        ticks = [1 - distance for distance in distances if low <= 1 - distance <= high]
        positions = np.log(1 - np.array([low, *ticks, high]))
        shares = np.diff(positions[1:-1]) / (positions[-1] - positions[0])
        names = [len(f"{tick:.7g}") for tick in ticks]
        if all(CHARACTERS * share > max(names) + 1 for share in shares):
            break
    return ticks


def _scatter_row(panels: Sequence[Axes], methods: pd.DataFrame, data: pd.DataFrame, look: Look, cut: Cut) -> None:
    for axes, metric in zip(panels, METRICS, strict=True):
        if ends := cut[metric]:
            axes.set_xlim(*ends)
        if ends := cut[RECALL]:
            axes.set_ylim(100 * ends[0], 100 * ends[1])
        for name, own in data.groupby("name", sort=False):
            signs = look.signs(methods[methods["name"] == name].iloc[0])
            _scatter(axes, own[metric], 100 * own[RECALL], _mark(own, metric, cut), signs)
        axes.grid()
        axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10], min_n_ticks=4))
    panels[0].set_ylabel("R@1 (%)")
    panels[0].yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10], min_n_ticks=4))


@dataclass(frozen=True)
class _Mark:
    """Where a method's mean is drawn, R@1 in percent, and the numbers that are beyond an axis, with arrows."""

    x: float
    y: float
    words: str


def _mark(own: pd.DataFrame, metric: str, cut: Cut) -> _Mark:
    mean, recall = float(own[metric].mean()), float(own[RECALL].mean())
    x, y = (
        float(np.clip(value, *ends)) if (ends := cut[name]) else value
        for name, value in ((metric, mean), (RECALL, recall))
    )
    words = [f"{mean:.2f} {'▸' if mean > x else '◂'}"] if mean != x else []
    words += [f"{100 * recall:.1f}% {'▴' if recall > y else '▾'}"] if recall != y else []
    return _Mark(x, 100 * y, "  ".join(words))


def _scatter(axes: Axes, x: pd.Series, y: pd.Series, mark: _Mark, signs: tuple[str, str, str]) -> None:
    colour, face, marker = signs
    axes.plot(
        x, y, marker=marker, color=colour, markerfacecolor=colour, alpha=0.45, markersize=2.6, markeredgewidth=0,
        linestyle="none", zorder=2,
    )  # fmt: skip
    axes.plot(
        mark.x, mark.y, zorder=3, color=colour, marker=marker, markersize=6, clip_on=not mark.words,
        **edges(colour, face),
    )  # fmt: skip


def _write_beyond(axes: Axes, marks: Sequence[_Mark]) -> None:
    """Write the numbers of marks beyond an axis next to them, where they hide the fewest other marks."""
    axes.get_xlim(), axes.get_ylim()  # asked for, they are up to date
    to_points = (axes.transData - axes.figure.dpi_scale_trans).transform([(mark.x, mark.y) for mark in marks]) * 72
    low, high = axes.bbox.transformed(axes.figure.dpi_scale_trans.inverted()).get_points() * 72
    hidden = to_points.copy()
    for mark, place in zip(marks, to_points, strict=True):
        if not mark.words:
            continue
        size = np.array([0.6 * SMALL * len(mark.words), SMALL])
        right = place[0] > (low[0] + high[0]) / 2
        side = -size[0] - 5 if right else 5
        starts = place + [(side, height - SMALL / 2) for height in (0, 9, -9, 18, -18, 27)]
        inside = [start for start in starts if start[1] >= low[1] and start[1] + size[1] <= high[1]]
        over = [((hidden > start - 3) & (hidden < start + size + 3)).all(axis=1).sum() for start in inside]
        best = inside[int(np.argmin(over))]
        axes.annotate(
            mark.words, (mark.x, mark.y), best - place + (size[0] * right, 0), textcoords="offset points",
            ha="right" if right else "left", va="bottom", fontsize=SMALL, color=MUTED,
        )  # fmt: skip
        hidden = np.concatenate([hidden, np.linspace(best, best + size, 5)])


def _handles(methods: pd.DataFrame, look: Look, *, lines: bool) -> list[Line2D]:
    handles = []
    for row in methods[SHOWN].to_dict("records"):
        colour, face, marker = look.signs(row)
        label = method_name(row, tuned=False)
        handles.append(
            Line2D([], [], color=colour, linestyle=look.line(row), label=label)
            if lines
            else Line2D([], [], color=colour, linestyle="none", label=label, marker=marker, markersize=6,
                        **edges(colour, face))
        )  # fmt: skip
    return list({str(handle.get_label()): handle for handle in handles}.values())


def _legend(figure: Figure, handles: list[Line2D]) -> None:
    figure.legend(handles=handles, loc="outside lower center", ncols=legend_columns(handles, PAGE), handlelength=2.8)
