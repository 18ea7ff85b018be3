"""What a page shows beyond single groups: several datasets of one protocol, and published figures beside ours."""

import pandas as pd

from dmlbench.analysis.comparisons import to_base
from dmlbench.analysis.estimates import UNTRAINED, selections_of, verdict_selection
from dmlbench.analysis.groups import slug, without_paths
from dmlbench.analysis.order import in_order
from dmlbench.report.content import Material
from dmlbench.report.figures import forest_plot, ranks_plot
from dmlbench.report.numbers import METRIC, Numbers
from dmlbench.report.section import Part, Section
from dmlbench.report.tables import over_datasets_table, pooled_table, reproduction_table
from dmlbench.report.tables.datasets import can_rank

KEYS = ["protocol", "variant"]


def protocol_sections(material: Material) -> list[Section]:
    """A section for every protocol, with its settings, that has results of several datasets."""
    numbers = material.numbers
    many = numbers.accuracy.groupby(KEYS)["dataset"].nunique()
    return [_protocol_section(material, str(protocol), str(variant))
            for protocol, variant in many.index[many > 1]]  # fmt: skip


def reproduction_section(numbers: Numbers) -> list[Section]:
    """Published figures beside ours, for the methods and datasets of the report."""
    if numbers.results.empty:
        return []
    if numbers.reproduction.empty:
        facts = "The method files hold no published figure for these methods on these datasets."
        return [Section("reproduction", "Published and reproduced", facts, [])]
    facts = (
        "Figures that papers report for a method and dataset of this report. They are compared where the protocol is "
        "the same; published figures are usually those of the best test epoch, so ours are, too."
    )
    return [
        Section(
            "reproduction",
            "Published and reproduced",
            facts,
            [Part("", [], [reproduction_table(numbers.reproduction)])],
        )
    ]


def _protocol_section(material: Material, protocol: str, variant: str) -> Section:
    numbers = material.numbers
    title = protocol + (f", {without_paths(variant)}" if variant else "")
    name = "_".join(slug(part) for part in (protocol, variant) if part)

    def mine(frame: pd.DataFrame) -> pd.DataFrame:
        own = frame[(frame["protocol"] == protocol) & (frame["variant"] == variant) & (frame["metric"] == METRIC)]
        return own[own["selection"] == chosen]

    own = numbers.accuracy[(numbers.accuracy["protocol"] == protocol) & (numbers.accuracy["variant"] == variant)]
    chosen = verdict_selection(selections_of(own))
    pooled, means = mine(numbers.pooled), mine(numbers.over_datasets)
    methods = list(in_order(own[own["method"] != UNTRAINED].drop_duplicates("method"))["method"])
    parts = []
    if len(pooled):
        against_base, each = to_base(pooled[pooled["n"] > 0]), to_base(mine(numbers.comparisons))
        plots = [forest_plot(title, name, each, against_base, material.look)] if len(against_base) else []
        parts.append(Part("Difference to the base", material.drawn(*plots), [pooled_table(title, name, pooled)]))
    if len(means):
        ranks = [ranks_plot(title, name, means, material.look)] if can_rank(means) else []
        parts.append(Part("All methods", material.drawn(*ranks), [over_datasets_table(title, name, means, methods)]))
    datasets = sorted(own["dataset"].unique())
    return Section(f"over-{name}", f"{title} over {len(datasets)} datasets", f"{', '.join(datasets)}.", parts)
