"""What kept embeddings add to a report: evidence query by query, retrieval panels, and the embeddings' geometry."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from dmlbench.analysis.groups import DEFAULT, Against, Group, in_order, method_name
from dmlbench.analysis.queries import (
    PAIRED,
    Measured,
    QueryPair,
    class_gains,
    measure_kept,
    query_evidence,
    query_pairs,
    query_record,
    retrieved,
)
from dmlbench.analysis.variance import over_test_classes
from dmlbench.errors import OnDamaged, UserError, counted, warn
from dmlbench.reporting.figures import class_gain_plot, ends_of, retrieval_panel
from dmlbench.reporting.figures.panels import thumbnails
from dmlbench.reporting.naming import named
from dmlbench.reporting.style import Look, Plot


@dataclass(frozen=True)
class Panels:
    """Where the images of retrieval panels are; None where they are in the user's cache folder."""

    data_dir: Path | None


@dataclass(frozen=True)
class Queries:
    """All that kept embeddings say; empty where none were kept."""

    measured: dict[str, Measured]
    pairs: list[QueryPair]
    evidence: pd.DataFrame
    record: pd.DataFrame
    over_classes: pd.DataFrame

    @classmethod
    def of(
        cls,
        results: pd.DataFrame,
        tell: Callable[[str], None],
        damaged: OnDamaged = warn,
        against: Against = DEFAULT,
    ) -> "Queries":
        """Measure them; `tell` takes a line if there are any, because a large set takes seconds per cell."""
        measured = measure_kept(results, damaged)
        if measured:
            tell(f"comparing query by query: {counted(len(measured), 'cell')} kept their embeddings")
        pairs = query_pairs(results, measured, against)
        over_classes = named(over_test_classes(results, measured))
        return cls(measured, pairs, named(query_evidence(pairs)), query_record(pairs), over_classes)

    def check_images(self, panels: Panels | None) -> None:
        """Raise UserError where panels are asked for and have no queries, or their images are not there or others."""
        if panels is None:
            return
        if not self.pairs:
            raise UserError(
                "--panels: no method and reference of one seed kept their embeddings",
                hint="run them with --keep embeddings, or leave out --panels",
            )
        for folder in {pair.group.dataset: pair.folders[0] for pair in self.pairs}.values():
            thumbnails(folder, panels.data_dir, [])

    def by_class(self, group: Group, look: Look, panels: Panels | None) -> list[Plot]:
        """The gain on each test class of a group's methods; where panels are asked for, with an image of the ends."""
        found = class_gains([pair for pair in self.pairs if pair.group == group])
        if found.empty:
            return []
        rows = named(found)
        images = None
        if panels:
            folder = next(pair.folders[0] for pair in self.pairs if pair.group == group)
            images = thumbnails(folder, panels.data_dir, ends_of(rows)["image"].astype(int))
        return [class_gain_plot(group, rows, look, images)]

    def panels(self, group: Group, panels: Panels) -> list[Plot]:
        """For every method of a group with a reference its lowest seed's wins and losses, with their images.

        Raises:
            UserError: where the images are not there, or are others.
        """
        first: dict[str, QueryPair] = {}
        for pair in self.pairs:
            if pair.group == group:
                first.setdefault(method_name(pair.row), pair)
        rows = named(pd.DataFrame([pair.row for pair in first.values()], columns=PAIRED))
        mine = {name: first[name] for name in in_order(rows)["name"]}
        examples = [named(found) for pair in mine.values() if len(found := retrieved(pair, self.record))]
        if not examples:
            return []
        shown = pd.concat(examples)
        images = thumbnails(
            next(iter(mine.values())).folders[0], panels.data_dir, [*shown["query"], *shown["neighbour"]]
        )
        return [retrieval_panel(group, found, images) for found in examples]
