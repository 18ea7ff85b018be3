"""Published figures beside ours: compared where the protocol is the same, and not compared where it is not."""

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import asdict
from typing import Any

import pandas as pd

from dmlbench.analysis.estimates import MARKED
from dmlbench.analysis.groups import GROUP, Group, without_paths
from dmlbench.analysis.statistics import Estimate, welch_difference
from dmlbench.results.frames import MEAN
from dmlbench.specs.method import OTHER_NMI, MethodFile, PublishedFigure, not_known
from dmlbench.specs.method_loading import Folder, load_file
from dmlbench.specs.registry import REPLACED, own_folder, shipped_files

OURS = ["mean", "low", "high", "n"]
THEIRS = ["published", "published_std", "published_seeds", "published_protocol", "published_selection", "source"]
DIFFERENCE = ["difference", "difference_low", "difference_high"]
COLUMNS = [*GROUP, *MARKED, "metric", "selection", *OURS, *THEIRS, *DIFFERENCE, "not_comparable"]
NONE: Mapping[Group, str] = {}
OF_METRIC = {"nmi": ("nmi_revisiting", "nmi")}
WITHOUT_EFFECT = "evaluation.nmi_revisiting="  # on what is trained
SELECTION = {"best-test": "best_test", "last": "last", "validation": "validation", "unknown": "best_test"}


def reproduction(accuracy: pd.DataFrame, other_images: Mapping[Group, str] = NONE) -> pd.DataFrame:
    """Every figure that was published for a method and dataset that we have results of, beside ours.

    Ours is taken at the same choice of the epoch as theirs. Their standard deviations are population ones (Roth et
    al. 2020) and enter Welch's interval as sample ones; where none is published, theirs counts as exact.

    Args:
        accuracy: As `estimates.accuracy` returns it.
        other_images: Why groups were not trained on the published images, whatever their dataset is called.

    Returns:
        Columns `GROUP`, `MARKED`, metric, selection; `OURS`; `THEIRS`, as fractions; `DIFFERENCE`, ours minus theirs
        with its 95% interval; `not_comparable`, the reason why there is no difference, or "".
    """
    names = ("dataset", "method", "metric", "selection")
    ours: dict[tuple[Hashable, ...], list[Mapping[Hashable, Any]]] = {}
    for row in accuracy[_of_files(accuracy)].to_dict("records"):
        ours.setdefault(tuple(row[name] for name in names), []).append(row)
    rows = [
        _row(own, figure, other_images)
        for method, figure in _figures()
        for metric in OF_METRIC.get(figure.metric, (figure.metric,))
        for own in ours.get((figure.dataset, method, metric, SELECTION[figure.selection]), [])
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def _of_files(accuracy: pd.DataFrame) -> pd.Series:
    """Which rows are of the method that the files describe: papers publish no other, and no single network's."""
    changed = accuracy["base_settings"].astype(bool) | accuracy["modifier_settings"].astype(bool)
    return (accuracy["network"] == MEAN) & ~changed & ~accuracy["tuned"].astype(bool)


def _figures() -> Iterator[tuple[str, PublishedFigure]]:
    """Every published figure of the shipped method files, with the method's name."""
    for name, path in shipped_files().items():
        file = load_file(path, Folder(own_folder()))
        modifier = isinstance(file, MethodFile) and file.kind != "loss"
        for figure in file.published:
            if isinstance(file, MethodFile) and not file.computes(figure):
                continue
            yield (f"{figure.base}+{name}" if modifier else name), figure


def _row(own: Mapping[Hashable, Any], figure: PublishedFigure, other_images: Mapping[Group, str]) -> dict[str, object]:
    spread = (figure.std or float("nan")) / 100
    theirs = {
        "published": figure.value / 100,
        "published_std": spread,
        "published_seeds": figure.seeds or float("nan"),
        "published_protocol": figure.protocol,
        "published_selection": figure.selection,
        "source": figure.source,
    }
    seeds = figure.seeds or 1
    group = Group(own["protocol"], own["overrides"], own["dataset"])
    reason = other_images.get(group) or _why_not(own, figure)
    found = dict.fromkeys(DIFFERENCE, float("nan"))
    if not reason:
        estimate = Estimate(own["mean"], own["low"], own["high"], own["n"], own["std"])
        sample_std = spread * (seeds / max(seeds - 1, 1)) ** 0.5
        difference = asdict(welch_difference(estimate, figure.value / 100, sample_std, seeds))
        found = dict(zip(DIFFERENCE, (difference[name] for name in ("mean", "low", "high")), strict=True))
    return (
        {key: own[key] for key in (*GROUP, *MARKED, "metric", "selection", *OURS)}
        | theirs
        | found
        | {"not_comparable": reason}
    )


def _why_not(own: Mapping[Hashable, Any], figure: PublishedFigure) -> str:
    """Why ours and theirs are not to be compared; empty where they are."""
    if own["protocol"] != figure.protocol:
        return f"protocol {figure.protocol}, ours {own['protocol']}"
    if changed := [setting for setting in own["overrides"].pairs if not setting.startswith(WITHOUT_EFFECT)]:
        return f"our protocol was changed: {without_paths(', '.join(changed))}"
    if own["metric"] == "nmi":
        return OTHER_NMI
    if REPLACED.partition("{")[0] in own["marks"]:
        return "the user's own method file"
    return not_known(figure)
