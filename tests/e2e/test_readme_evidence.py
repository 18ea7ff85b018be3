"""What the README says of the reference results is what their reports say, and these are those of the results."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t

from dmlbench import load_results
from dmlbench.analysis.statistics import holm, t_interval
from dmlbench.report.naming import named, p_value, percent, points
from dmlbench.report.page import render
from dmlbench.specs.tuned import default_path, read_tuned

ROOT = Path(__file__).parents[2]
REPORTS = ROOT / "reports"
BASES = ("contrastive", "triplet", "margin", "ms", "proxyanchor")
EVAL = "{teacher_mode=eval}"  # how the committed results of distillations on other sets than glyphs were made
WORDS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@pytest.fixture(scope="module")
def text() -> str:
    """The README, of which the lines' ends are no part."""
    return " ".join((ROOT / "README.md").read_text().split())


@pytest.fixture(scope="module")
def results() -> pd.DataFrame:
    return load_results(ROOT / "results" / "reference")


def rows(report: str, title: str) -> list[list[str]]:
    """Cells of the first table of a report whose title begins so."""
    table = (REPORTS / report / "report.md").read_text().partition(f"**{title}")[2]
    lines = table.partition("\n\n")[2].partition("\n\n")[0].splitlines()[2:]
    return [[cell.strip().replace("\\", "") for cell in row.split("|")[1:-1]] for row in lines]


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


def test_glyphs(text: str, results: pd.DataFrame) -> None:
    last = named(results[(results["dataset"] == "glyphs") & (results["selection"] == "last")])
    methods = ("ms", "ms+obdsd", f"ms+obdsd{EVAL}")
    assert last.groupby("name").size().to_dict() == dict.fromkeys(methods, 6)
    assert len(set(last["kind"])) == 1
    evidence = {row[0]: row for row in rows("glyphs", "Evidence in R@1") if row[1] == "ms"}
    for method in methods:
        own = last[last["name"] == method]
        found = [mean(own[metric]) for metric in ("recall_at_1", "map_at_r", "nmi")]
        compared = evidence[method][3].replace("*", "") if method in evidence else ""
        assert f"| `{method}` | {found[0]} | {compared} | {found[1]} | {found[2]} |".replace("|  |", "| |") in text
    row = evidence["ms+obdsd"]
    assert f"p {row[4]}; sign-flip {row[5]}" in text


def test_all_bases(text: str, results: pd.DataFrame) -> None:
    evidence = rows("omniglot-small", "Evidence in R@1")  # the first: of the last epoch
    found = {(method, to): shown.replace("*", "\\*") for method, to, _, shown, *_ in evidence}
    mine = results.query("dataset == 'omniglot-small' and selection == 'last'")
    assert f"over the {len(found)} comparisons" in text
    assert f"{mine['folder'].nunique()} trainings on one kind of processor" in text
    assert len(set(mine["kind"])) == 1
    for base in BASES:
        alone = mean(mine[(mine["method"] == base) & ~mine["tuned"]]["recall_at_1"])
        row = " | ".join(found[f"{base}+{name}{EVAL}", base] for name in ("psd", "obdsd"))
        assert f"| `{base}` | {alone} | {row} |" in text
    assert f"`triplet+dm2{{ensemble}}` lies {found['triplet+dm2{ensemble}', 'triplet']} above one" in text
    assert f"lowers Multi-Similarity by {found['ms+s2sd', 'ms']}." in text


def test_corrected_p_of_all_bases(text: str) -> None:
    evidence = rows("omniglot-small", "Evidence in R@1")
    p = {(method, to): value for method, to, _, _, value, *_ in evidence}
    contrastive, triplet = (p[f"{base}+psd{EVAL}", base] for base in ("contrastive", "triplet"))
    assert f"to contrastive (p {contrastive}) and triplet (p {triplet})" in text


def test_how_many_differences_of_all_bases_hold(text: str) -> None:
    pairs = [(f"{base}+{name}{EVAL}", base) for base in BASES for name in ("psd", "obdsd")]
    last, best = (
        numbers("omniglot-small", "comparisons", selection=name).set_index(["method", "to"]).loc[pairs]
        for name in ("last", "best_test")
    )

    def held(frame: pd.DataFrame, p: list[float]) -> str:
        signs = np.sign(frame["mean"])[np.array(p) < 0.05]
        gains = int((signs > 0).sum())
        return f"{WORDS[gains]} gain{'s' * (gains > 1)} and {WORDS[int((signs < 0).sum())]} losses"

    assert f"Of these ten, {held(last, last['p_holm'])} hold after the correction over 80" in text
    assert f"over these ten alone, {held(last, holm(last['p_t']))} would" in text
    assert f"figures were chosen, {held(best, best['p_holm'])}." in text


def test_by_how_little_the_trials_chose(text: str) -> None:
    entries = read_tuned(default_path(ROOT / "results" / "reference")).entries
    queries = [round((entry.recall_at_1 - (entry.runner_up or 0)) * (entry.queries or 0), 1) for entry in entries]
    by_none, by_one = sum(won == 0 for won in queries), sum(0 < won <= 1 for won in queries)
    said = f"{by_none} were won by no query at all and {by_one} by one query or less of 540"
    assert f"Of the {len(entries)} choices {said}" in text
    assert {entry.queries for entry in entries} == {540}
    shown = {row[0]: row[2] for row in rows("omniglot-small", "Tuned values beside")}
    assert shown[f"triplet+obdsd{EVAL}{{tuned}}"] == "0.19 points, 1 of 540 queries"


def test_cohorts_beside_their_controls(text: str) -> None:
    evidence = rows("omniglot-small", "Evidence in R@1")
    found = {(method, to): (shown.replace("*", "\\*"), p) for method, to, _, shown, p, *_ in evidence}
    for base, end, one, said in (
        ("triplet", "", "{ensemble}", "and {0} above its control of two networks trained each by itself (p {1})"),
        ("ms", "", "{ensemble}", "with Multi-Similarity the latter is {0}."),
    ):
        assert said.format(*found[f"{base}+dm2{one}{end}", f"{base}+independent{one}{end}"]) in text


def test_step_times_of_all_bases(text: str) -> None:
    costs = pd.read_csv(REPORTS / "omniglot-small" / "tables" / "overhead.csv")
    costs = costs[costs["modifier"].str.fullmatch(r"(psd|obdsd)\{teacher_mode=eval\}(\{tuned\})?")]
    tuned = costs["method"].str.endswith("{tuned}")
    assert len(costs) == 20
    assert set(costs[tuned]["n"]) == {4}
    assert f"{spread(costs[tuned])} times the base's step in the tuned trainings (four seeds;" in text
    assert f"no ratio), {spread(costs[~tuned])} in the plain ones" in text


def spread(costs: pd.DataFrame) -> str:
    """The smallest and the largest ratio of step times."""
    return f"{costs['mean'].min():.2f} to {costs['mean'].max():.2f}"


def test_photographs(text: str, results: pd.DataFrame) -> None:
    mine = results.query("protocol == 'mobilenetv1-112'")
    last = mine[mine["selection"] == "last"]
    assert last.groupby(["dataset", "method"]).size().tolist() == [3] * 12
    assert len(set(last["kind"])) == 1
    for dataset in ("cub50", "cars98"):
        evidence = rows("photographs", f"Evidence in R@1 on mobilenetv1-112 on {dataset}; last epoch")
        found = {(method, to): shown.replace("*", "\\*") for method, to, _, shown, *_ in evidence}
        untrained = mine[(mine["dataset"] == dataset) & (mine["selection"] == "untrained")]
        starts = untrained.groupby("seed")["recall_at_1"].mean()
        for base in ("triplet", "ms"):
            alone = last[(last["dataset"] == dataset) & (last["method"] == base)].set_index("seed")["recall_at_1"]
            row = " | ".join(found[f"{base}+{name}{EVAL}", base] for name in ("psd", "obdsd"))
            assert f"| `{base}` | {dataset} | {percent(starts.mean())} | {mean(alone)} | {row} |" in text
            if dataset == "cub50":
                assert f"{base} {shown(alone - starts)}" in text


def shown(differences: pd.Series) -> str:
    found = t_interval(differences)
    return f"{points(found.mean)} [{points(found.low)}, {points(found.high)}]"


def test_what_photographs_can_tell(text: str) -> None:
    compared = numbers("photographs", "comparisons", selection="last")
    bases = compared[compared["to_modifier"].isna()]
    assert set(compared["family"]) == {6}
    assert set(compared["n"]) == {3}
    needed = t.ppf(1 - 0.05 / 6 / 2, 2) / np.sqrt(3)  # standard deviations, for the smallest of six
    assert f"the first star needs a mean difference of {needed:.1f} times its standard deviation over seeds" in text
    least, most = (100 * needed * f(bases["std"]) for f in (min, max))
    assert f"that is {least:.0f} to {most:.0f} points" in text
    starred = bases[bases["p_holm"] < 0.05]
    assert list(starred["method"]) == [f"ms+obdsd{EVAL}"]
    assert list(starred["dataset"]) == ["cars98"]
    both = dict(
        zip(
            zip(compared["dataset"], compared["method"], compared["to"], strict=True),
            holm(compared["p_t"]),
            strict=True,
        )
    )
    over_both = both["cars98", f"ms+obdsd{EVAL}", "ms"]
    assert f"(p {p_value(starred['p_holm'].iloc[0])}; {p_value(over_both)} if both" in text
    pooled = numbers("photographs", "pooled", selection="last", method=f"ms+obdsd{EVAL}", to="ms").iloc[0]
    assert f"it is {difference(pooled)}, p {p_value(pooled['p_holm'])}." in text


def test_photographs_at_the_best_test_epoch(text: str) -> None:
    best = numbers("photographs", "comparisons", selection="best_test", dataset="cub50")
    best = best[best["to_modifier"].isna()]
    gain = {row["method"].removesuffix(EVAL): points(row["mean"]) for _, row in best.iterrows()}
    assert (
        f"cub50 have {gain['ms+psd']} and {gain['ms+obdsd']}, and `triplet+obdsd` shrinks to {gain['triplet+obdsd']}."
        in text
    )


def test_step_times_of_photographs(text: str) -> None:
    costs = pd.read_csv(REPORTS / "photographs" / "tables" / "overhead.csv")
    assert f"A step took {spread(costs[costs['dataset'] == 'cars98'])} times the base's on cars98" in text
    assert f"the four ratios spread from {spread(costs[costs['dataset'] == 'cub50'])}." in text


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
