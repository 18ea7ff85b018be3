"""The README's and the manual's numbers are those of the reference results' reports, and these those of the results.

How the README says it is free: a test names what a passage is about, and the numbers that it must give. The manual has
macros in place of numbers: a test holds what these give against the results.
"""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest

from dmlbench import load_results
from dmlbench.analysis.claims import Effect, Judged, judge
from dmlbench.analysis.statistics import detectable, t_interval
from dmlbench.reporting.naming import named, percent, points
from dmlbench.reporting.page import render
from dmlbench.results.claims import declared_claims

ROOT = Path(__file__).parents[2]
REPORTS = ROOT / "reports"
BASES = ("contrastive", "triplet", "ms", "proxyanchor")
EVAL = "{teacher_mode=eval}"  # how the committed distillations on photographs were made
WORDS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
# A number, one of these words, or the star of a small p; not the digits of a name such as cub50 or R@1.
NUMBER = re.compile(rf"(?<![\w@.])[+−]?(?:\d[\d,]*)?\.?\d+(?!\w)|\b(?:{'|'.join(WORDS)})\b|\\\*")
# Where a passage ends: at an empty line, at the next item of a list, and at the next row of a table.
PASSAGES = re.compile(r"\n\n|\n(?=- |\|)")


class Readme:
    """The README's passages: paragraphs, items of lists, rows of tables."""

    def __init__(self) -> None:
        self.passages = PASSAGES.split((ROOT / "README.md").read_text())

    def gives(self, about: str | tuple[str, ...], numbers: str) -> bool:
        """Whether a passage that has all these names gives these numbers, one after the other."""
        names = (about,) if isinstance(about, str) else about
        own = (NUMBER.findall(passage) for passage in self.passages if all(name in passage for name in names))
        wanted = NUMBER.findall(numbers)
        return any(found[place : place + len(wanted)] == wanted for found in own for place in range(len(found)))


@pytest.fixture(scope="module")
def readme() -> Readme:
    return Readme()


def test_what_is_taken_for_a_number(readme: Readme) -> None:
    assert NUMBER.findall("no gain of `cub50` in R@1: −3.56\\* [−4.72, +2.40], p .172, 2,889 of 95%") == [
        "no", "−3.56", "\\*", "−4.72", "+2.40", ".172", "2,889", "95",
    ]  # fmt: skip
    assert not readme.gives("`ms`", "74.38 [73.23, 75.54]")


@pytest.fixture(scope="module")
def results() -> pd.DataFrame:
    return load_results(ROOT / "results" / "reference")


def mean(values: pd.Series) -> str:
    found = t_interval(values)
    return f"{percent(found.mean)} [{percent(found.low)}, {percent(found.high)}]"


def difference(results: pd.DataFrame, method: str, base: str) -> str:
    """Of two methods' R@1, seed by seed, in points."""
    own, others = (results[results["name"] == name].set_index("seed")["recall_at_1"] for name in (method, base))
    found = t_interval(own - others)
    return f"{points(found.mean)} [{points(found.low)}, {points(found.high)}]"


def averaged(results: pd.DataFrame, modifier: str, bases: tuple[str, ...]) -> str:
    """Of a modifier's differences to these bases, averaged over the bases of each seed, in points."""
    by_name = results.pivot_table(index="seed", columns="name", values="recall_at_1")
    found = t_interval(sum(by_name[f"{base}+{modifier}"] - by_name[base] for base in bases) / len(bases))
    return f"{points(found.mean)} [{points(found.low)}, {points(found.high)}]"


@pytest.fixture(scope="module")
def macros() -> ModuleType:
    """The functions that the manual's pages call."""
    spec = importlib.util.spec_from_file_location("macros", ROOT / "docs" / "macros.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def claims() -> dict[str, Judged]:
    """What is claimed of a modifier on omniglot-small, judged again from the cells."""
    results = load_results(ROOT / "results" / "reference")
    every = declared_claims([ROOT / "results" / "reference"])
    own = [declared for declared in every if declared.datasets == ("omniglot-small",)]
    return {declared.claim.modifier: judge(declared, results) for declared in own}


def effect(found: Effect) -> str:
    """As a cell of the README's table has it."""
    star = "\\*" if found.verdict in ("better", "worse") else ""
    return f"{points(found.estimate.mean)}{star} [{points(found.low)}, {points(found.high)}]"


def test_what_was_claimed(readme: Readme, results: pd.DataFrame, claims: dict[str, Judged]) -> None:
    last = named(results.query("dataset == 'omniglot-small' and selection == 'last' and network == 'mean'"))
    both = claims["psd"], claims["obdsd"]
    for place, base in enumerate(BASES):
        alone = mean(last[last["name"] == base]["recall_at_1"])
        shown = [effect(judged.bases[place]) for judged in both]
        assert all(judged.bases[place].name == base for judged in both)
        assert readme.gives(f"| `{base}` |", f"{alone} | {' | '.join(shown)}")
    assert readme.gives("| mean |", " | ".join(effect(judged.main) for judged in both))
    assert not any(judged.consistent for judged in both)
    power = [percent(detectable(judged.main.estimate.std, judged.main.estimate.n)) for judged in both]
    table = pd.read_csv(REPORTS / "omniglot-small" / "tables" / "claims.csv")
    each = table[table["modifier"].isin(("psd", "obdsd")) & table["base"].notna()]["detectable"]
    assert readme.gives("of such studies", " ".join([*power, percent(each.min()), percent(each.max())]))
    begun = [f"{judged.declared.begun} of the {len(judged.declared.cells)}" for judged in both]
    assert begun[0] == begun[1]
    assert readme.gives("had been seen", begun[0])


def test_cost(readme: Readme, macros: ModuleType) -> None:
    measured = pd.read_csv(REPORTS / "glyphs" / "tables" / "measured.csv").query("method == 'ms+psd'")
    latest = measured.sort_values("started")["mean"].iloc[-1]
    assert readme.gives("A step of `ms` with PSD", f"{latest:.2f}")
    assert macros.ratio("glyphs", "ms+psd") == f"{latest:.2f}"


def test_macros_give_what_the_results_say(results: pd.DataFrame, macros: ModuleType) -> None:
    last = named(results[(results["selection"] == "last") & (results["network"] == "mean")])
    glyphs, cars = (last[last["dataset"] == name] for name in ("glyphs", "cars98"))
    assert macros.mean("glyphs", "ms") == mean(glyphs[glyphs["name"] == "ms"]["recall_at_1"])
    assert macros.gain("glyphs", "ms+obdsd").replace("\\*", "") == difference(glyphs, "ms+obdsd", "ms")
    for modifier in ("psd", "obdsd"):
        assert difference(glyphs, f"ms+{modifier}", "ms") in macros.claim("glyphs", modifier)
        assert difference(glyphs, f"ms+{modifier}", "ms") in macros.claim_table("glyphs", modifier)
    omniglot = last[last["dataset"] == "omniglot-small"]
    for modifier in ("psd", "obdsd"):
        for base in BASES:
            shown = difference(omniglot, f"{base}+{modifier}", base)
            assert shown in macros.claim_table("omniglot-small", modifier)
        later = averaged(omniglot[omniglot["seed"] > 5], modifier, BASES)
        assert f"| 4 | {later} |" in macros.claims_again("omniglot-small", 6)
    own = difference(cars, f"triplet+psd{EVAL}", "triplet")
    assert macros.gain("photographs", f"triplet+psd{EVAL}", dataset="cars98") == own


def test_the_record_names_no_folder_of_one_machine() -> None:
    files = [path for kind in ("json", "yaml") for path in (ROOT / "results").rglob(f"*.{kind}")]
    found = [path.name for path in files if re.search(r"(?<![\w.])/(tmp|home|root|work|Users)/", path.read_text())]
    assert len(files) > 800
    assert not found


def test_a_number_without_its_row_is_an_error(macros: ModuleType) -> None:
    with pytest.raises(LookupError, match="2 rows"):  # one for each dataset
        macros.gain("photographs", f"triplet+psd{EVAL}")
    with pytest.raises(LookupError, match="no row"):
        macros.verdicts("glyphs", "better", ("obdsd",), dataset="cub")


def test_what_other_processors_are_held_against(results: pd.DataFrame, macros: ModuleType) -> None:
    last = named(results[(results["selection"] == "last") & (results["network"] == "mean")])
    for row in macros.rows("docs/data/other_processor.csv"):
        own = last[(last["dataset"] == row["data set"]) & (last["name"] == row["method"].strip("`"))]
        own = own[own["seed"] < int(row["seeds"])]
        assert row["AVX-512"] == percent(own["recall_at_1"].mean())


@pytest.mark.parametrize(
    ("name", "column", "chosen", "page"),
    [
        ("glyphs", "dataset", "glyphs", "results/glyphs"),
        ("resnet50-128", "protocol", "resnet50-128", "guides/overhead"),
        pytest.param("omniglot-small", "dataset", "omniglot-small", "results/omniglot-small", marks=pytest.mark.slow),
        pytest.param("photographs", "dataset", "cub50,cars98", "results/photographs", marks=pytest.mark.slow),
    ],
)
def test_the_committed_report_is_that_of_the_committed_results(
    name: str, column: str, chosen: str, page: str, tmp_path: Path
) -> None:
    command = f"dmlbench report --results results/reference --name {name} --only {column}={chosen}"
    assert command in (ROOT / "docs" / f"{page}.md").read_text()
    fresh = render(ROOT / "results" / "reference", name, tmp_path, {column: chosen.split(",")})
    committed = REPORTS / name
    assert (fresh / "report.md").read_text() == (committed / "report.md").read_text()
    names = [sorted(str(path.relative_to(root)) for path in root.rglob("*")) for root in (fresh, committed)]
    assert names[0] == names[1]
    # Drawings and the page that holds them may differ by the version of matplotlib.
    for path in (path for kind in ("csv", "tex") for path in fresh.rglob(f"*.{kind}")):
        assert path.read_text() == (committed / path.relative_to(fresh)).read_text(), path.name
