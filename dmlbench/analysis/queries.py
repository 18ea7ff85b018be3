"""Query by query: which test images a modified method retrieves better than its base, and how sure that is.

Two methods see the same queries, so their R@1 is compared on each one. The interval over test classes answers
another question than the one over seeds: how far the difference would move with other classes of the same kind.

Examples to look at: queries that a method wins or loses against its base, with what each retrieved; and of a method
without a reference some queries with what it retrieved.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dmlbench.analysis.embeddings import (
    Booleans,
    Embeddings,
    Floats,
    Integers,
    Nearest,
    load_embeddings,
    nearest,
    neighbours,
    reload_embeddings,
    spectrum,
)
from dmlbench.analysis.groups import DEFAULT, GROUP, METHOD, OTHER, Against, Group, done, paired
from dmlbench.analysis.statistics import Estimate
from dmlbench.errors import Damaged, OnDamaged, UserError, attempt, warn
from dmlbench.results.frames import of_kept_embeddings
from dmlbench.results.store import read_spec, read_summary

PAIRED = [*GROUP, *METHOD, *OTHER, "seed"]
EVIDENCE = ["difference", "low", "high", "classes", "queries", "won", "lost", "both", "neither"]
RECORD = ["query", "label", "wins", "losses", "seeds"]
COUNTS_AT_ONCE = 2**22  # 32 MB of drawn class counts


@dataclass(frozen=True)
class Measured:
    """What is drawn from one cell's kept embeddings, without the embeddings.

    Attributes:
        labels: (N,) int64.
        nearest: Similarities to the nearest positives and negatives.
        spectrum: (min(N, D),) float64, singular values, descending, of sum 1.
        fingerprint: Of the dataset: equal ones mean equal images in equal order, where the split is one.
        class_names: One per label; empty where the embeddings do not say.
    """

    labels: Integers
    nearest: Nearest
    spectrum: Floats
    fingerprint: str
    class_names: tuple[str, ...] = ()

    def names_of(self, labels: Iterable[int]) -> list[str]:
        """The names of some classes; empty where they are not known."""
        return [self.class_names[label] if self.class_names else "" for label in labels]

    def first_images(self, labels: Iterable[int]) -> list[int]:
        """The positions of the first images of some classes."""
        return [int(np.argmax(self.labels == label)) for label in labels]

    def shares_images(self, other: "Measured") -> bool:
        """Whether a position means the same image in both: of one dataset, and one split of its classes."""
        named = self.class_names and other.class_names
        return self.fingerprint == other.fingerprint and (not named or self.class_names == other.class_names)


@dataclass(frozen=True)
class QueryPair:
    """A method and its reference in one seed, on the same images.

    Attributes:
        group: What both share.
        row: The columns `PAIRED` of a table.
        folders: Of the method's cell and of the reference's.
        method: What was measured of the method.
        reference: What was measured of its reference.
    """

    group: Group
    row: Mapping[str, Any]
    folders: tuple[Path, Path]
    method: Measured
    reference: Measured

    @property
    def won(self) -> Booleans:
        """(N,): the reference misses and the method hits."""
        return self.method.nearest.hits & ~self.reference.nearest.hits

    @property
    def lost(self) -> Booleans:
        """(N,): the reference hits and the method misses."""
        return self.reference.nearest.hits & ~self.method.nearest.hits


def measure_kept(results: pd.DataFrame, damaged: OnDamaged = warn) -> dict[str, Measured]:
    """Measure the kept embeddings of every finished cell, one cell in memory at a time.

    Args:
        results: As `load_results` returns them.
        damaged: Takes the embeddings that cannot be read; the rest of their results is kept [default: a warning].

    Returns:
        By folder; cells without embeddings are left out.
    """
    found = {}
    for folder in done(results)["folder"].unique():
        if (summary := read_summary(Path(folder))) is None:
            continue
        embeddings = attempt(partial(load_embeddings, summary=summary), Path(folder))
        if isinstance(embeddings, Damaged):
            damaged(embeddings)
        elif embeddings is not None:
            data = summary.dataset.fingerprint if summary.dataset else ""
            if (cell := read_spec(Path(folder))).protocol.training.vary == "split":
                data += f" split by seed {cell.seed}"  # other classes are tested
            found[folder] = Measured(
                embeddings.labels, nearest(embeddings), spectrum(embeddings), data, _class_names(embeddings)
            )
    return found


def _class_names(embeddings: Embeddings) -> tuple[str, ...]:
    """The name of every class by its label; none where a label has no image to say it."""
    names = dict(zip(embeddings.labels.tolist(), embeddings.class_names, strict=False))
    return tuple(names[label] for label in range(len(names))) if sorted(names) == list(range(len(names))) else ()


def query_pairs(results: pd.DataFrame, measured: dict[str, Measured], against: Against = DEFAULT) -> list[QueryPair]:
    """Every method and its reference of the same seed, where both kept their embeddings.

    As in the tables of differences, two runs that did not start from the same weights, with the same images, on the
    same kind of device, are no pair.

    Raises:
        UserError: where the two name the same dataset and label its images differently.
    """
    last = done(results)
    last = last[(last["selection"] == "last") & last["folder"].isin(list(measured))]
    last = of_kept_embeddings(last)
    pairs = paired(last, [], ["folder", "origin"], against)
    pairs = pairs[pairs["origin"] == pairs["origin_to"]].sort_values(PAIRED, kind="stable")
    found = []
    for row in pairs.to_dict("records"):
        method, reference = measured[row["folder"]], measured[row["folder_to"]]
        if method.fingerprint != reference.fingerprint:
            continue
        if not np.array_equal(method.labels, reference.labels):
            raise UserError(
                f"{row['folder']} and {row['folder_to']}: embeddings of one dataset with different labels",
                hint="delete the embeddings that were not written by these runs",
            )
        own, folders = {key: row[key] for key in PAIRED}, (Path(row["folder"]), Path(row["folder_to"]))
        found.append(QueryPair(Group(*(row[key] for key in GROUP)), own, folders, method, reference))
    return found


def query_evidence(pairs: Sequence[QueryPair]) -> pd.DataFrame:
    """Difference in R@1 of every pair, with its 95% interval over test classes, and the queries behind it.

    Returns:
        One row per pair: the columns `PAIRED`; `difference`, `low`, `high` as fractions; the number of `classes` with
        two images or more, of `queries` in them, and of queries that are `won` (the reference misses, the method hits),
        `lost`, right in `both` and in `neither`.
    """
    rows = []
    for pair in pairs:
        reference = pair.reference
        queries, hits, others = reference.nearest.queries, pair.method.nearest.hits, reference.nearest.hits
        estimate = class_bootstrap(hits[queries], others[queries], reference.labels[queries])
        counts = {
            "classes": estimate.n,
            "queries": queries.sum(),
            "won": pair.won.sum(),
            "lost": pair.lost.sum(),
            "both": (hits & others).sum(),
            "neither": (queries & ~hits & ~others).sum(),
        }
        bounds = {"difference": estimate.mean, "low": estimate.low, "high": estimate.high}
        rows.append({**pair.row} | bounds | {name: int(count) for name, count in counts.items()})
    return pd.DataFrame(rows, columns=[*PAIRED, *EVIDENCE])


def class_gains(pairs: Sequence[QueryPair]) -> pd.DataFrame:
    """Difference in R@1 of every method to its reference on each test class, averaged over seeds.

    Returns:
        One row per group, method and class with queries: the columns `PAIRED` without seed; `label`, the class's
        number, and its `class_name`, empty where the embeddings do not say; `image`, the position of its first query;
        `gain`, a fraction; `queries` of the class and `seeds`.
        Classes of a method are ordered by their gain.
    """
    keys, frames = PAIRED[:-1], []
    for method, same in _by_method(pairs).items():
        first = same[0].reference
        gain = np.mean([pair.won.astype(float) - pair.lost for pair in same], axis=0)
        (position,) = np.nonzero(first.nearest.queries)
        rows = pd.DataFrame({"label": first.labels[position], "image": position, "gain": gain[position]})
        found = rows.groupby("label", as_index=False).agg(
            image=("image", "first"), gain=("gain", "mean"), queries=("image", "size")
        )
        found = found.assign(class_name=first.names_of(found["label"]))
        found = found.sort_values(["gain", "label"], kind="stable")
        frames.append(found.assign(seeds=len(same), **dict(zip(keys, method, strict=True))))
    columns = [*keys, "label", "class_name", "image", "gain", "queries", "seeds"]
    return pd.concat(frames, ignore_index=True)[columns] if frames else pd.DataFrame(columns=columns)


def _by_method(pairs: Sequence[QueryPair]) -> dict[tuple[Any, ...], list[QueryPair]]:
    """Pairs of every group and method by their `PAIRED` without seed: those that have the images of the first."""
    found: dict[tuple[Any, ...], list[QueryPair]] = {}
    for pair in pairs:
        found.setdefault(tuple(pair.row[key] for key in PAIRED[:-1]), []).append(pair)
    return {
        method: [pair for pair in own if pair.reference.shares_images(own[0].reference)]
        for method, own in found.items()
    }


CONFUSED = [
    "label", "other_label", "class_name", "other_class_name", "image", "other_image", "confused", "confused_to",
    "queries", "seeds",
]  # fmt: skip


def confusions(pairs: Sequence[QueryPair], each: int = 8) -> pd.DataFrame:
    """Pairs of test classes that a method or its reference confuses most often: a query finds the other class first.

    Both directions count together: which of two classes that look alike is asked for, and which is found, is one fact.

    Args:
        pairs: Methods and their references.
        each: How many pairs of classes a method has: those with the most queries by the method or by its reference,
            whichever has more, then by their labels; fewer where fewer are confused.

    Returns:
        One row per group, method and pair of classes: the columns `PAIRED` without seed; `label` and `other_label`,
        the smaller first, with their names, empty where the embeddings do not say, and the positions of their first
        images, `image` and `other_image`; `confused` and `confused_to`, how many queries of the two have their nearest
        neighbour in the other one, of the method and of its reference, mean over `seeds`; and their `queries`.
    """
    keys, frames = PAIRED[:-1], []
    for method, same in _by_method(pairs).items():
        first = same[0].reference
        counts = [
            pd.concat([_confused(getattr(pair, side)) for pair in same], axis="columns").fillna(0).sum(axis="columns")
            for side in ("method", "reference")
        ]
        both = (pd.concat(counts, axis="columns", keys=["confused", "confused_to"]).fillna(0) / len(same)).reset_index()
        most = both[["confused", "confused_to"]].max(axis="columns")
        found = both.iloc[np.lexsort((both["other_label"], both["label"], -most))[:each]]
        asked = np.bincount(first.labels[first.nearest.queries], minlength=first.labels.max() + 1)
        labels = [found[column].to_numpy(int) for column in ("label", "other_label")]
        names: dict[str, Any] = {"class_name": first.names_of(labels[0]), "other_class_name": first.names_of(labels[1])}
        names |= {"image": first.first_images(labels[0]), "other_image": first.first_images(labels[1])}
        found = found.assign(**names, queries=asked[labels[0]] + asked[labels[1]])
        frames.append(found.assign(seeds=len(same), **dict(zip(keys, method, strict=True))))
    columns = [*keys, *CONFUSED]
    return pd.concat(frames, ignore_index=True)[columns] if frames else pd.DataFrame(columns=columns)


def _confused(measured: Measured) -> pd.Series:
    """Missed queries of one seed by their class and the one they find, the smaller label first."""
    near = measured.nearest
    missed = near.queries & ~near.hits
    two = np.sort([measured.labels[missed], near.negative_label[missed]], axis=0)
    return pd.DataFrame(two.T, columns=["label", "other_label"]).value_counts()


def query_record(pairs: Sequence[QueryPair]) -> pd.DataFrame:
    """In how many seeds a method wins and loses each query against its reference, the most consistent wins first.

    Returns:
        One row per group, method and query that is won or lost in any seed: the columns `PAIRED` without seed;
        `query`, its position in the test split; `label`, its class's number; `wins` and `losses` of `seeds`. Ordered
        by wins minus losses, so that the end holds the most consistent losses. Seeds with other images than the
        method's first pair are left out: their positions mean other queries.
    """
    keys, frames = PAIRED[:-1], []
    for method, same in _by_method(pairs).items():
        wins, losses = (np.sum(part, axis=0) for part in ([p.won for p in same], [p.lost for p in same]))
        (shown,) = (wins + losses).nonzero()
        record = {
            "query": shown,
            "label": same[0].reference.labels[shown],
            "wins": wins[shown],
            "losses": losses[shown],
        }
        frame = pd.DataFrame(record | {"seeds": len(same)}).assign(**dict(zip(keys, method, strict=True)))
        best_first = np.lexsort((shown, losses[shown] - wins[shown]))
        frames.append(frame.iloc[best_first])
    columns = [*keys, *RECORD]
    return pd.concat(frames, ignore_index=True)[columns] if frames else pd.DataFrame(columns=columns)


def class_bootstrap(
    treated: Booleans | Floats,
    control: Booleans | Floats,
    labels: Integers,
    *,
    resamples: int = 10_000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Estimate:
    """Paired difference in R@1 with its percentile interval over test classes.

    Queries of one class are retrieved well or badly together, so whole classes are drawn, with replacement, and all
    their queries with them (the cluster bootstrap: Davison and Hinkley 1997, "Bootstrap Methods and their
    Application", section 3.8; Efron 1979 for the percentiles). Own lines instead of `scipy.stats.bootstrap`: counts
    per class are drawn in blocks, and a whole matrix of indices would take a gigabyte for 11,316 classes.

    Args:
        treated: (Q,) whether the method hits each query, or how often over seeds, a fraction.
        control: (Q,) that of its reference.
        labels: (Q,) classes of the queries.
        resamples: How often to draw.
        seed: Of the draws; methods compared on the same classes share them.
        confidence: Coverage, between 0 and 1; with few classes the true one is lower.

    Returns:
        The mean difference over queries, treated minus control, as a fraction; `n` counts classes, `std` is that of
        the draws. One class has neither interval nor `std`.
    """
    difference = treated.astype(float) - control.astype(float)
    _, index = np.unique(labels, return_inverse=True)
    sums, sizes = np.bincount(index, difference), np.bincount(index)
    classes, mean = len(sums), float(difference.mean())
    if classes < 2:
        return Estimate(mean, float("nan"), float("nan"), classes)
    rng, at_once = np.random.default_rng(seed), max(1, COUNTS_AT_ONCE // classes)
    means = []
    for begin in range(0, resamples, at_once):
        counts = rng.multinomial(classes, np.full(classes, 1 / classes), size=min(at_once, resamples - begin))
        means.append((counts @ sums) / (counts @ sizes))
    drawn = np.concatenate(means)
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Estimate(mean, float(low), float(high), classes, float(drawn.std()))


CHOSEN = ["outcome", "query", "label", "wins", "losses", "seeds"]
RETRIEVED = [*CHOSEN, "by", "rank", "neighbour", "neighbour_label", "similarity", "correct"]


def retrieved(pair: QueryPair, record: pd.DataFrame, *, each: int = 5, k: int = 5) -> pd.DataFrame:
    """What the method and its reference found for the queries it wins and loses most consistently over seeds.

    Args:
        pair: The seed to show.
        record: As `query_record` returns it for all seeds; rows of other methods and groups are ignored.
        each: How many won and how many lost queries, fewer where there are not as many: in order of wins minus losses
            over seeds, then of a fixed shuffle of the split; one of each class before a second one of any.
        k: Neighbours of each.

    Returns:
        One row per query, retriever and rank: the columns `PAIRED`; `outcome` ("won" or "lost") of `query` in this
        seed, its class's number `label`, its `wins` and `losses` in all `seeds`; `by`, `method` or `reference`;
        `rank` from 1, the position of the `neighbour`, its `neighbour_label`, its `similarity`, and whether it is
        `correct`: of the query's class. No rows where the two hit and miss the same queries.

    Raises:
        UserError: where embeddings that were there are gone or damaged.
    """
    chosen = pd.concat([_chosen(pair, record, outcome, each) for outcome in ("won", "lost")])
    queries = chosen["query"].to_numpy(np.int64)
    frames = []
    for folder, column in zip(pair.folders[::-1], ("reference", "method"), strict=True):
        own = _neighbours_of(folder, queries, k).assign(by=column)
        frames.append(own.join(chosen.reset_index(drop=True), on="example"))
    table = pd.concat(frames).sort_values("example", kind="stable", ignore_index=True)
    table["correct"] = table["neighbour_label"] == table["label"]
    return table.assign(**pair.row)[[*PAIRED, *RETRIEVED]]


SHOWN = ["query", "label", "hit", "rank", "neighbour", "neighbour_label", "similarity", "correct", "hits", "queries"]


def gallery(folder: Path, measured: Measured, *, count: int = 10, k: int = 5) -> pd.DataFrame:
    """What one cell found for some queries, hits and misses as they come: in order of a fixed shuffle of the split.

    Args:
        folder: The cell's.
        measured: What was measured of it.
        count: How many queries, fewer where there are not as many: one of each class before a second one of any.
        k: Neighbours of each.

    Returns:
        One row per query and rank: the position of the `query`, its class's number `label`, whether it is a `hit`;
        `rank` from 1, the position of the `neighbour`, its `neighbour_label`, its `similarity`, and whether it is
        `correct`: of the query's class; how many `hits` there are among all `queries` of the cell.

    Raises:
        UserError: where embeddings that were there are gone or damaged.
    """
    near, labels = measured.nearest, measured.labels
    turn = np.random.default_rng(0).permutation(len(labels))
    shuffled = turn[near.queries[turn]]
    chosen = shuffled[_one_of_each_first(labels[shuffled].tolist())[:count]]
    found = _neighbours_of(folder, chosen, k)
    query = chosen[found["example"].to_numpy(int)]
    found = found.assign(query=query, label=labels[query], hit=near.hits[query])
    found["correct"] = found["neighbour_label"] == found["label"]
    return found.assign(hits=int(near.hits.sum()), queries=int(near.queries.sum()))[SHOWN]


def _neighbours_of(folder: Path, queries: Integers, k: int) -> pd.DataFrame:
    """A row per query and rank; `example` is the query's place among those asked for."""
    embeddings = reload_embeddings(folder)
    found, similarities = neighbours(embeddings, queries, k)
    shape = found.shape
    rows = {
        "example": np.repeat(np.arange(len(queries)), shape[1]),
        "rank": np.tile(np.arange(1, shape[1] + 1), shape[0]),
        "neighbour": found.ravel(),
        "neighbour_label": embeddings.labels[found].ravel(),
        "similarity": similarities.ravel(),
    }
    return pd.DataFrame(rows)


def _chosen(pair: QueryPair, record: pd.DataFrame, outcome: str, count: int) -> pd.DataFrame:
    """Up to `count` rows of the record whose query has this outcome in this seed, of different classes first."""
    for key in PAIRED[:-1]:
        record = record[record[key] == pair.row[key]]
    won = outcome == "won"
    record = record[(pair.won if won else pair.lost)[record["query"].to_numpy(int)]]
    margin = record["wins"] - record["losses"]
    # Most queries tie. By position alone all would come from the first classes.
    turn = np.random.default_rng(0).permutation(len(pair.won))[record["query"].to_numpy(int)]
    ordered = record.iloc[np.lexsort((turn, -margin if won else margin))]
    spread = _one_of_each_first(ordered["label"].tolist())
    return ordered.iloc[spread[:count]].assign(outcome=outcome)[CHOSEN]


def _one_of_each_first(labels: Sequence[int]) -> list[int]:
    """Positions, stably reordered: the first of every label, then the second of every label, and so on."""
    seen: dict[int, int] = {}
    turns = []
    for label in labels:
        turns.append(seen.get(label, 0))
        seen[label] = turns[-1] + 1
    return sorted(range(len(labels)), key=turns.__getitem__)
