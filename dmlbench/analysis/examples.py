"""Examples to look at: queries that a method wins or loses against its base, with what each retrieved."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dmlbench.analysis.embeddings import Embeddings, load_embeddings, neighbours
from dmlbench.analysis.queries import PLACE, QueryPair
from dmlbench.errors import UserError
from dmlbench.store import read_summary

CHOSEN = ["outcome", "query", "label", "wins", "losses", "seeds"]
RETRIEVED = [*CHOSEN, "by", "rank", "neighbour", "neighbour_label", "similarity", "correct"]


def retrieved(pair: QueryPair, record: pd.DataFrame, *, each: int = 5, k: int = 5) -> pd.DataFrame:
    """What the method and its base found for the queries it wins and loses most consistently over seeds.

    Args:
        pair: The seed to show.
        record: As `query_record` returns it for all seeds; rows of other methods and groups are ignored.
        each: How many won and how many lost queries, fewer where there are not as many: in order of wins minus losses
            over seeds, then of a fixed shuffle of the split; one of each class before a second one of any.
        k: Neighbours of each.

    Returns:
        One row per query, retriever and rank: the columns `PLACE`; `outcome` ("won" or "lost") of `query` in this
        seed, its class's number `label`, its `wins` and `losses` in all `seeds`; `by`, the method or the base;
        `rank` from 1, the position of the `neighbour`, its `neighbour_label`, its `similarity`, and whether it is
        `correct`: of the query's class. No rows where the two hit and miss the same queries.

    Raises:
        UserError: where embeddings that were there are gone or damaged.
    """
    chosen = pd.concat([_chosen(pair, record, outcome, each) for outcome in ("won", "lost")])
    queries = chosen["query"].to_numpy(np.int64)
    frames = []
    for folder, column in zip(pair.folders[::-1], ("base", "method"), strict=True):
        embeddings = _reload(folder)
        found, similarities = neighbours(embeddings, queries, k)
        shape = found.shape
        rows: dict[str, Any] = {
            "place": np.repeat(np.arange(len(queries)), shape[1]),
            "rank": np.tile(np.arange(1, shape[1] + 1), shape[0]),
            "neighbour": found.ravel(),
            "neighbour_label": embeddings.labels[found].ravel(),
            "similarity": similarities.ravel(),
        }
        own = pd.DataFrame(rows).assign(by=pair.place[column])
        frames.append(own.join(chosen.reset_index(drop=True), on="place"))
    table = pd.concat(frames).sort_values("place", kind="stable", ignore_index=True)
    table["correct"] = table["neighbour_label"] == table["label"]
    return table.assign(**pair.place)[[*PLACE, *RETRIEVED]]


def _chosen(pair: QueryPair, record: pd.DataFrame, outcome: str, count: int) -> pd.DataFrame:
    """Up to `count` rows of the record whose query has this outcome in this seed, of different classes first."""
    for key in PLACE[:-1]:
        record = record[record[key] == pair.place[key]]
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


def _reload(folder: Path) -> Embeddings:
    embeddings = load_embeddings(folder, read_summary(folder) or {})
    if embeddings is None:
        raise UserError(f"{folder}: its embeddings have gone while they were read", hint="try again")
    return embeddings
