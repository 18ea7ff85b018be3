"""What kept embeddings add to a report: evidence query by query, classes confused, galleries, maps, and geometry."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from dmlbench.analysis.groups import DEFAULT, GROUP, METHOD, Against, Group, done, in_order, modifier_rank
from dmlbench.analysis.maps import embedding_map
from dmlbench.analysis.queries import (
    Measured,
    QueryPair,
    class_gains,
    confusions,
    gallery,
    measure_kept,
    query_evidence,
    query_pairs,
    query_record,
    retrieved,
)
from dmlbench.analysis.variance import over_test_classes
from dmlbench.data.catalogue import images_may_be_shown
from dmlbench.errors import OnDamaged, UserError, counted, warn
from dmlbench.reporting.figures import (
    class_gain_plot,
    confusion_plot,
    ends_of,
    gallery_panel,
    map_plot,
    retrieval_panel,
)
from dmlbench.reporting.figures.panels import Thumbnails, thumbnails
from dmlbench.reporting.naming import named
from dmlbench.reporting.style import Look, Plot
from dmlbench.results.frames import of_kept_embeddings
from dmlbench.results.store import read_spec
from dmlbench.runner.matrix import data_folder

MAPS, FIT = 12, 6  # panels that fit a page: of a map, and of figures with a row for every class or pair


@dataclass(frozen=True)
class Panels:
    """Which images a report shows, and where they are.

    Attributes:
        data_dir: The folder with the datasets; None where they are in the user's cache folder.
        asked: Whether the user asked for images: those of every dataset are shown, and have to be there. Else those
            whose licence lets anyone show them, where they are there.
    """

    data_dir: Path | None
    asked: bool = True

    @classmethod
    def of(cls, choice: bool | None, data_dir: Path | None) -> "Panels | None":
        """What a user chose: images (True), none (False), or nothing (None).

        Raises:
            UserError: where the folder that the user names is none.
        """
        if choice is False:
            return None
        try:
            return cls(data_folder(data_dir), asked=choice is True)
        except UserError:
            if choice or data_dir:
                raise
            return None  # the environment names a folder that is not there, and nobody asked for it

    def shows(self, folder: str) -> bool:
        """Whether the images of a cell's dataset are shown."""
        return self.asked or images_may_be_shown(read_spec(Path(folder)).dataset)


@dataclass(frozen=True)
class Queries:
    """All that kept embeddings say; empty where none were kept."""

    measured: dict[str, Measured]
    kept: pd.DataFrame  # a row per cell: the columns `GROUP` and `METHOD`, name, seed, folder; lowest seeds first
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
        kept = done(results)
        kept = of_kept_embeddings(kept[kept["folder"].isin(list(measured))]).drop_duplicates("folder")
        kept = named(kept[[*GROUP, *METHOD, "seed", "folder"]].sort_values("seed", kind="stable"))
        return cls(measured, kept, pairs, named(query_evidence(pairs)), query_record(pairs), over_classes)

    def check_images(self, panels: Panels | None) -> None:
        """Raise UserError where images are asked for and no embeddings were kept, or they are not there or others."""
        if panels is None or not panels.asked:
            return
        if self.kept.empty:
            raise UserError(
                "--panels: no cells kept their embeddings",
                hint="run them with --keep embeddings, or leave out --panels",
            )
        for folder in self.kept.drop_duplicates("dataset")["folder"]:
            thumbnails(Path(folder), panels.data_dir, [])

    def shows_private_images(self, panels: Panels | None) -> bool:
        """Whether images are shown that their licence does not let anyone show."""
        specs = [read_spec(Path(folder)).dataset for folder in self.kept["folder"]] if panels and panels.asked else []
        return not all(map(images_may_be_shown, specs))

    def plots(self, group: Group, look: Look, panels: Panels | None) -> list[Plot]:
        """Gains by class, classes confused, and where images are shown what methods retrieve.

        A method with a reference has the wins and losses of its lowest seed, one without some queries as they come.

        Raises:
            UserError: where images are asked for and not there, or others.
        """
        cells = self._with_one_split(group.of(self.kept))
        if cells.empty:
            return []
        folders = set(cells["folder"])
        pairs = [pair for pair in self.pairs if str(pair.folders[0]) in folders]
        gains, confused = named(class_gains(pairs)), named(confusions(pairs))
        compared, alone = self._examples(pairs, cells) if panels and panels.shows(cells["folder"].iloc[0]) else ([], [])
        images = self._images(cells, panels, _positions(gains, confused, [*compared, *alone]))
        plots = []
        for draw, rows in ((class_gain_plot, gains), (confusion_plot, confused)):
            parts = _that_fit(rows)
            drawn = [draw(group, _with_names(own, images), look, images) for own in parts]
            plots += [_numbered(plot, number, len(parts)) for number, plot in enumerate(drawn, 1)]
        if images:
            plots += [retrieval_panel(group, found, images) for found in compared]
            plots += [gallery_panel(group, found, images) for found in alone]
        return plots

    def map(self, group: Group) -> list[Plot]:
        """The map of the lowest seed of a group's methods: bases first, then modifiers in their order, up to `MAPS`."""
        first = self._with_one_split(group.of(self.kept)).drop_duplicates("name")
        ranks = [
            modifier_rank(row["modifier"], row["modifier_settings"], row["network"]) for row in first.to_dict("records")
        ]
        first = in_order(first.assign(rank=pd.Series(ranks, first.index, dtype=object)))
        chosen = first.iloc[sorted(range(len(first)), key=lambda place: first["rank"].iloc[place])[:MAPS]]
        maps = []
        for row in chosen.to_dict("records"):
            found = embedding_map(Path(row["folder"]))
            names = self.measured[row["folder"]].names_of(found["label"])
            own = {key: pd.Series([row[key]] * len(found), dtype=object) for key in (*METHOD, "name", "seed")}
            maps.append(_with_names(found.assign(class_name=names, **own), None))
        places = pd.concat(maps, ignore_index=True) if maps else pd.DataFrame()
        return [map_plot(group, places, len(first) - len(chosen))] if len(places) else []

    def _with_one_split(self, cells: pd.DataFrame) -> pd.DataFrame:
        """Cells with the images of the first: others have positions that mean other images."""
        if cells.empty:
            return cells
        first = self.measured[cells["folder"].iloc[0]]
        return cells[[self.measured[folder].shares_images(first) for folder in cells["folder"]]]

    def _examples(self, pairs: list[QueryPair], cells: pd.DataFrame) -> tuple[list[pd.DataFrame], list[pd.DataFrame]]:
        """What methods retrieve: of those with a reference, where the two differ; and of those without."""
        by_folder = {str(pair.folders[0]): pair for pair in pairs}
        is_compared = cells["folder"].isin(list(by_folder))
        first = in_order(cells[is_compared].drop_duplicates("name"))
        found = [retrieved(by_folder[folder], self.record) for folder in first["folder"]]
        alone = in_order(cells[~cells["name"].isin(set(first["name"]))].drop_duplicates("name"))
        galleries = [
            gallery(Path(row["folder"]), self.measured[row["folder"]]).assign(name=row["name"], seed=row["seed"])
            for row in alone.to_dict("records")
        ]
        return [named(own) for own in found if len(own)], [own for own in galleries if len(own)]

    def _images(self, cells: pd.DataFrame, panels: Panels | None, positions: Iterable[int]) -> Thumbnails | None:
        """The images at some positions of a group's test split; None where they are not shown."""
        if panels is None or not panels.shows(cells["folder"].iloc[0]):
            return None
        try:
            return thumbnails(Path(cells["folder"].iloc[0]), panels.data_dir, positions)
        except UserError:
            if panels.asked:
                raise
            return None


def _that_fit(rows: pd.DataFrame) -> list[pd.DataFrame]:
    """The rows of so many methods at a time as have panels on one page."""
    names = list(in_order(rows.drop_duplicates("name"))["name"]) if len(rows) else []
    return [rows[rows["name"].isin(names[at : at + FIT])] for at in range(0, len(names), FIT)]


def _numbered(plot: Plot, number: int, parts: int) -> Plot:
    if parts == 1:
        return plot
    return replace(plot, slug=f"{plot.slug}_{number}", caption=f"{plot.caption} Part {number} of {parts}.")


def _positions(gains: pd.DataFrame, confused: pd.DataFrame, examples: list[pd.DataFrame]) -> list[int]:
    """Of all images that the figures of these rows show."""
    shown = [ends_of(gains)["image"]] if len(gains) else []
    shown += [confused["image"], confused["other_image"]]
    shown += [own[column] for own in examples for column in ("query", "neighbour")]
    return [int(position) for column in shown for position in column]


def _with_names(rows: pd.DataFrame, images: Thumbnails | None) -> pd.DataFrame:
    """Rows whose classes all have a name: that of the embeddings, else of the images, else a number."""
    for label, name in ("label", "class_name"), ("other_label", "other_class_name"):
        if label in rows:
            names = [
                known or (images.class_names[number] if images else f"class {number}")
                for number, known in zip(rows[label], rows[name], strict=True)
            ]
            rows = rows.assign(**{name: names})
    return rows
