"""A section for everything that `dmlbench overhead` measured: one machine, one protocol, one kind of image."""

from collections import Counter
from collections.abc import Collection

from dmlbench.analysis.groups import without_paths
from dmlbench.analysis.measured import (
    agreements,
    doubts,
    measured_overhead,
    measured_phases,
    measurement_slug,
    places,
)
from dmlbench.measurement import SYNTHETIC, Measurement
from dmlbench.report.content import Material
from dmlbench.report.figures import Place, overhead_plot, phases_plot, turns
from dmlbench.report.rerun import for_readers
from dmlbench.report.section import Part, Section
from dmlbench.report.sources import code_state
from dmlbench.report.tables.measured import measured_table
from dmlbench.wording import counted


def cost_sections(material: Material) -> list[Section]:
    """The latest measurement of the same methods in the same place, beside what earlier ones say."""
    each = places(material.measurements)
    titles = Counter(own[-1].title for own in each)
    return [_section(material, own[-1], alone=titles[own[-1].title] == 1) for own in each]


def _section(material: Material, latest: Measurement, *, alone: bool) -> Section:
    parts = (f"machine {latest.environment.get('machine')}", f"protocol {latest.protocol_hash[:6]}", *latest.methods)
    which = "" if alone else f" ({', '.join(parts)})"
    place = Place(without_paths(latest.title) + which, measurement_slug(latest))
    costs, phases = measured_overhead(latest), measured_phases(latest)
    modified = costs[costs["modifier"] != ""]
    clock = turns(latest.processes)
    plots = [overhead_plot(place, modified, material.look, clock)] if len(modified) else []
    found = agreements(material.measurements[: material.measurements.index(latest)], latest)
    images = "random pixels" if latest.dataset == SYNTHETIC else f"images of {latest.dataset}"
    libraries = ", ".join(
        f"{name} {latest.environment[name]}" for name in ("torch", "cuda") if name in latest.environment
    )
    threads = counted(latest.cpu_threads, "CPU thread")
    facts = (
        f"Measured on {latest.started[:10]} on {images}; {latest.environment.get('system', '')}, {threads}, "
        f"{libraries}; dmlbench {code_state(latest.code, latest.environment)}. Command: {for_readers(latest.command)}"
    )
    pictures = material.drawn(*plots, phases_plot(place, phases, clock))
    notes = [*doubts(latest), *_other_code(latest, material.codes)]
    table = measured_table(place.title, place.slug, latest, costs, found=found, notes=notes)
    return Section(place.slug, f"Cost of a step: {place.title}", facts, [Part("", pictures, [table])])


def _other_code(latest: Measurement, codes: Collection[str]) -> list[str]:
    """A warning where no result of the report was made by the training code that was measured."""
    if not codes or latest.code.get("digest") in codes:
        return []
    return [f"The results of this report were made by other training code: {', '.join(sorted(codes))}."]
