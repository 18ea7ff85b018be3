"""The README's numbers are those of the reference results' reports, and these are those of the results.

How the README says it is free: a test names what a passage is about, and the numbers that it must give.
"""

import re
from pathlib import Path

import pandas as pd
import pytest

from dmlbench import load_results
from dmlbench.analysis.statistics import detectable, t_interval
from dmlbench.reporting.naming import named, p_value, percent, points
from dmlbench.reporting.page import render
from dmlbench.specs.tuned import default_path, read_tuned

ROOT = Path(__file__).parents[2]
REPORTS = ROOT / "reports"
BASES = ("contrastive", "triplet", "margin", "ms", "proxyanchor")
EVAL = "{teacher_mode=eval}"  # how the committed results of distillations on other sets than glyphs were made
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
    assert not readme.gives("`ms`", "74.12 [73.01, 75.25]")


@pytest.fixture(scope="module")
def results() -> pd.DataFrame:
    return load_results(ROOT / "results" / "reference")


def rows(report: str, title: str) -> list[list[str]]:
    """Cells of the first table of a report whose title begins so."""
    table = (REPORTS / report / "report.md").read_text().partition(f"**{title}")[2]
    lines = table.partition("\n\n")[2].partition("\n\n")[0].splitlines()[2:]
    return [[cell.strip().replace("\\", "") for cell in row.split("|")[1:-1]] for row in lines]


def evidence_of(report: str, title: str = "Evidence in R@1") -> dict[tuple[str, str], tuple[str, str, str]]:
    """Difference (with a star where the verdict is better or worse), p and sign-flip p by method and reference."""
    found = {}
    for method, to, _, difference, verdict, _, p, flip, *_ in rows(report, title):
        star = "\\*" if verdict.endswith(("better", "worse")) else ""
        found[method, to] = (difference.replace(" [", f"{star} [", 1), p, flip)
    return found


def numbers(report: str, table: str, **chosen: str) -> pd.DataFrame:
    frame = pd.read_csv(REPORTS / report / "tables" / f"{table}.csv", keep_default_na=False, na_values=[""])
    for column, value in ({"metric": "recall_at_1"} | chosen).items():
        frame = frame[frame[column] == value]
    return frame


def difference(row: pd.Series) -> str:
    return f"{points(row['mean'])} [{points(row['low'])}, {points(row['high'])}]"


def mean(values: pd.Series) -> str:
    found = t_interval(values)
    return f"{percent(found.mean)} [{percent(found.low)}, {percent(found.high)}]"


def test_glyphs(readme: Readme, results: pd.DataFrame) -> None:
    last = named(results[(results["dataset"] == "glyphs") & (results["selection"] == "last")])
    methods = ("ms", "ms+obdsd", f"ms+obdsd{EVAL}")
    assert last.groupby("name").size().to_dict() == dict.fromkeys(methods, 6)
    assert len(set(last["kind"])) == 1
    evidence = {method: row for (method, to), row in evidence_of("glyphs").items() if to == "ms"}
    for method in methods:
        own = last[last["name"] == method]
        found = [mean(own[metric]) for metric in ("recall_at_1", "map_at_r", "nmi")]
        compared = evidence[method][0].replace("\\*", "") if method in evidence else ""
        assert readme.gives(f"| `{method}` |", f"{found[0]} | {compared} | {found[1]} | {found[2]}")
    row = evidence["ms+obdsd"]
    assert readme.gives("sign-flip", f"{row[1]} {row[2]}")


def test_all_bases(readme: Readme, results: pd.DataFrame) -> None:
    found = {pair: shown for pair, (shown, *_) in evidence_of("omniglot-small").items()}  # the first: of the last epoch
    mine = results.query("dataset == 'omniglot-small' and selection == 'last'")
    assert readme.gives("`omniglot-small`", f"{mine['folder'].nunique()}")
    assert readme.gives(("`omniglot-small`", "Hochberg"), f"{len(found)}")
    assert len(set(mine["kind"])) == 1
    for base in BASES:
        alone = mean(mine[(mine["method"] == base) & ~mine["tuned"]]["recall_at_1"])
        row = " | ".join(found[f"{base}+{name}{EVAL}", base] for name in ("psd", "obdsd"))
        assert readme.gives(f"| `{base}` |", f"{alone} | {row}")
    assert readme.gives("`triplet+dm2{ensemble}`", found["triplet+dm2{ensemble}", "triplet"])
    assert readme.gives("S2SD", found["ms+s2sd", "ms"])


def test_corrected_p_of_all_bases(readme: Readme) -> None:
    found = evidence_of("omniglot-small")
    contrastive, triplet = (found[f"{base}+psd{EVAL}", base][1] for base in ("contrastive", "triplet"))
    assert readme.gives(("PSD", "contrastive", "triplet"), f"{contrastive} {triplet}")


def test_how_many_differences_of_all_bases_hold(readme: Readme) -> None:
    pairs = [(f"{base}+{name}{EVAL}", base) for base in BASES for name in ("psd", "obdsd")]
    counts = []
    for selection in ("last", "best_test"):
        own = numbers("omniglot-small", "comparisons", selection=selection).set_index(["method", "to"]).loc[pairs]
        counts += [WORDS[int((own["verdict"] == verdict).sum())] for verdict in ("better", "worse")]
    assert readme.gives(("gains", "losses", "best test epoch"), f"ten, {', '.join(counts)}")


def test_by_how_little_the_trials_chose(readme: Readme) -> None:
    entries = read_tuned(default_path(ROOT / "results" / "reference")).entries
    queries = [round((entry.recall_at_1 - (entry.runner_up or 0)) * (entry.queries or 0), 1) for entry in entries]
    by_none, by_one = sum(won == 0 for won in queries), sum(0 < won <= 1 for won in queries)
    assert readme.gives(("{tuned}", "query"), f"{len(entries)}, {by_none}, no, {by_one}, one, 540")
    assert {entry.queries for entry in entries} == {540}
    shown = {row[0]: row[2] for row in rows("omniglot-small", "Tuned values beside")}
    assert shown[f"triplet+obdsd{EVAL}{{tuned}}"] == "0.19 points, 1 of 540 queries"


def test_cohorts_beside_their_controls(readme: Readme) -> None:
    found = evidence_of("omniglot-small")
    own = {base: found[f"{base}+dm2{{ensemble}}", f"{base}+independent{{ensemble}}"] for base in ("triplet", "ms")}
    shown, p, _ = own["triplet"]
    assert readme.gives(("DM²", "control"), shown)
    assert readme.gives(("DM²", "control"), p)
    assert readme.gives(("DM²", "Multi-Similarity"), own["ms"][0])


def test_step_times_of_all_bases(readme: Readme) -> None:
    costs = pd.read_csv(REPORTS / "omniglot-small" / "tables" / "overhead.csv")
    costs = costs[costs["modifier"].str.fullmatch(r"(psd|obdsd)\{teacher_mode=eval\}(\{tuned\})?")]
    tuned = costs["method"].str.endswith("{tuned}")
    assert len(costs) == 20
    assert set(costs[tuned]["n"]) == {4}
    for ratios in (costs[tuned], costs[~tuned]):
        assert readme.gives(("cost of PSD and OBD-SD", "tuned"), spread(ratios))


def spread(costs: pd.DataFrame) -> str:
    """The smallest and the largest ratio of step times."""
    return f"{costs['mean'].min():.2f} to {costs['mean'].max():.2f}"


def test_photographs(readme: Readme, results: pd.DataFrame) -> None:
    mine = results.query("protocol == 'mobilenetv1-112'")
    last = mine[mine["selection"] == "last"]
    assert last.groupby(["dataset", "method"]).size().tolist() == [3] * 12
    assert len(set(last["kind"])) == 1
    for dataset in ("cub50", "cars98"):
        evidence = evidence_of("photographs", f"Evidence in R@1 on mobilenetv1-112 on {dataset}; last epoch")
        found = {pair: shown for pair, (shown, *_) in evidence.items()}
        untrained = mine[(mine["dataset"] == dataset) & (mine["selection"] == "untrained")]
        starts = untrained.groupby("seed")["recall_at_1"].mean()
        for base in ("triplet", "ms"):
            alone = last[(last["dataset"] == dataset) & (last["method"] == base)].set_index("seed")["recall_at_1"]
            row = " | ".join(found[f"{base}+{name}{EVAL}", base] for name in ("psd", "obdsd"))
            assert readme.gives(f"| `{base}` | {dataset} |", f"{percent(starts.mean())} | {mean(alone)} | {row}")
            if dataset == "cub50":
                assert readme.gives(("untrained", base), shown(alone - starts))


def shown(differences: pd.Series) -> str:
    found = t_interval(differences)
    return f"{points(found.mean)} [{points(found.low)}, {points(found.high)}]"


def test_what_photographs_can_tell(readme: Readme) -> None:
    compared = numbers("photographs", "comparisons", selection="last")
    own = compared[compared["primary"] & compared["modifier"].notna()]
    assert set(compared["family"]) == {7}
    assert set(compared["n"]) == {3}
    times = detectable(1.0, 3)
    least, most = (100 * times * f(own["std"]) for f in (min, max))
    assert readme.gives(("standard deviation", "points"), f"{times:.1f}")
    assert readme.gives(("standard deviation", "points"), f"{least:.0f} {most:.0f}")
    starred = own[own["verdict"] != "inconclusive"]
    assert list(starred["method"]) == [f"ms+obdsd{EVAL}"]
    assert list(starred["dataset"]) == ["cars98"]
    assert readme.gives("`ms+obdsd` on cars98", p_value(starred["p_bh"].iloc[0]))
    pooled = numbers("photographs", "pooled", selection="last", method=f"ms+obdsd{EVAL}", to="ms").iloc[0]
    assert readme.gives(("`ms+obdsd`", "cars98"), f"{difference(pooled)}, {p_value(pooled['p_bh'])}")


def test_photographs_at_the_best_test_epoch(readme: Readme) -> None:
    best = numbers("photographs", "comparisons", selection="best_test", dataset="cub50")
    best = best[best["primary"] & best["modifier"].notna()]
    gain = {row["method"].removesuffix(EVAL): points(row["mean"]) for _, row in best.iterrows()}
    assert readme.gives(("best test epoch", "cub50"), f"{gain['ms+psd']}, {gain['ms+obdsd']}, {gain['triplet+obdsd']}")


def test_step_times_of_photographs(readme: Readme) -> None:
    costs = pd.read_csv(REPORTS / "photographs" / "tables" / "overhead.csv")
    for dataset in ("cars98", "cub50"):
        assert readme.gives(("step", dataset), spread(costs[(costs["dataset"] == dataset) & costs["modifier"].notna()]))


@pytest.mark.parametrize(
    ("name", "datasets"),
    [
        ("glyphs", "glyphs"),
        pytest.param("omniglot-small", "omniglot-small", marks=pytest.mark.slow),
        pytest.param("photographs", "cub50,cars98", marks=pytest.mark.slow),
    ],
)
def test_the_committed_report_is_that_of_the_committed_results(name: str, datasets: str, tmp_path: Path) -> None:
    command = f"dmlbench report --results results/reference --name {name} --only dataset={datasets}"
    assert command in (ROOT / "README.md").read_text()
    fresh = render(ROOT / "results" / "reference", name, tmp_path, {"dataset": datasets.split(",")})
    committed = REPORTS / name
    assert (fresh / "report.md").read_text() == (committed / "report.md").read_text()
    names = [sorted(str(path.relative_to(root)) for path in root.rglob("*")) for root in (fresh, committed)]
    assert names[0] == names[1]
    # Drawings and the page that holds them may differ by the version of matplotlib.
    for path in (path for kind in ("csv", "tex") for path in fresh.rglob(f"*.{kind}")):
        assert path.read_text() == (committed / path.relative_to(fresh)).read_text(), path.name
