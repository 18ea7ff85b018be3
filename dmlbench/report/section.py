"""What a page is made of: sections of parts, each with its figures and tables."""

from dataclasses import dataclass, field

from dmlbench.analysis.groups import Group
from dmlbench.report.pictures import Picture
from dmlbench.report.tables import Table
from dmlbench.report.verdict import Verdict


@dataclass(frozen=True)
class Part:
    """Figures and tables under one heading; a `folded` part is shown when it is asked for."""

    heading: str
    pictures: list[Picture] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    text: str = ""
    folded: bool = False


@dataclass(frozen=True)
class Section:
    """A page's section; `slug` is its anchor, `group` whose results it shows, where they are of one."""

    slug: str
    title: str
    facts: str
    parts: list[Part]
    group: Group | None = None
    verdicts: list[Verdict] = field(default_factory=list)

    @property
    def tables(self) -> list[Table]:
        """Every table of the section."""
        return [table for part in self.parts for table in part.tables]
