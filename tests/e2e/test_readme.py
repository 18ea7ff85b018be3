"""What the README promises: its first command, and a wheel that works outside the source tree."""

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import mlflow
import pytest

from dmlbench import load_results
from dmlbench.analysis.statistics import t_interval
from dmlbench.report.naming import percent
from dmlbench.report.page import render
from tests.e2e.conftest import Command

ROOT = Path(__file__).parents[2]


def test_readme_names_the_two_commands() -> None:
    text = (ROOT / "README.md").read_text()
    assert "pip install . && dmlbench run --methods ms,ms+obdsd --datasets glyphs" in text
    assert 'pip install -e ".[test]" && pytest' in text


def test_readme_shows_files_that_are_there() -> None:
    text = (ROOT / "README.md").read_text()
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert target.startswith("https://") or (ROOT / target).exists(), target


@pytest.mark.slow
def test_first_command(dmlbench: Command, tmp_path: Path) -> None:
    command = ("run", "--methods", "ms,ms+obdsd", "--datasets", "glyphs")
    assert " ".join(("dmlbench", *command)) in (ROOT / "README.md").read_text()
    done = dmlbench(*command, "--seeds", "1", timeout=900)  # of six: the others take the same way
    assert done.returncode == 0, done.stdout + done.stderr
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("dmlbench/conv4-64/glyphs")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], "tags.cell != ''")
    assert len(runs) == 2
    recalls = [run.data.metrics["test/recall_at_1"] for run in runs if run.data.tags["method"] == "ms"]
    assert all(0.60 <= recall <= 0.90 for recall in recalls)


@pytest.mark.slow
def test_the_wheel_brings_methods_protocols_and_templates(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(tmp_path), str(ROOT)], check=True
    )
    wheel = next(tmp_path.glob("dmlbench-*.whl"))
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    environment = os.environ | {"PYTHONPATH": str(site)}
    code = "import dmlbench; from dmlbench.cli import main; print(dmlbench.__file__); main()"
    listed = subprocess.run(
        [sys.executable, "-c", code, "list", "methods"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert str(site) in listed
    assert "ms+obdsd" in listed
    assert list(site.glob("dmlbench/report/templates/*"))
    assert (site / "dmlbench" / "protocols" / "conv4-64.yaml").is_file()


def test_readme_shows_the_reference_results() -> None:
    text = (ROOT / "README.md").read_text()
    results = load_results(ROOT / "results" / "reference")
    last = results[(results["dataset"] == "glyphs") & (results["selection"] == "last")]
    assert last.groupby("method").size().to_dict() == {"ms": 6, "ms+obdsd": 6}
    for method, metric in (("ms", "recall_at_1"), ("ms+obdsd", "recall_at_1"), ("ms", "map_at_r"), ("ms+obdsd", "nmi")):
        estimate = t_interval(last[last["method"] == method][metric])
        assert f"{percent(estimate.mean)} [{percent(estimate.low)}, {percent(estimate.high)}]" in text
    report = (ROOT / "reports" / "glyphs" / "report.md").read_text()
    row = next(line for line in report.splitlines() if line.startswith("| ms+obdsd | ms | 6 | −"))
    difference, p, sign_flip = (cell.strip() for cell in row.split("|")[4:7])
    assert difference.replace("*", "").replace("\\", "") in text
    assert f"p {p.replace(chr(92), '')}; sign-flip {sign_flip}" in text


def _rows(report: Path, title: str) -> list[list[str]]:
    """Cells of the first table of a report whose title begins so."""
    table = report.read_text().partition(f"**{title}")[2].partition("\n\n")[2].partition("\n\n")[0]
    return [[cell.strip() for cell in row.split("|")[1:-1]] for row in table.splitlines()[2:]]


def test_readme_shows_what_the_report_of_all_bases_found() -> None:
    text = " ".join((ROOT / "README.md").read_text().split())
    report = ROOT / "reports" / "omniglot-small" / "report.md"
    evidence = _rows(report, "Evidence in R@1")  # the first: of the last epoch
    found = {(method, to): difference for method, to, _, difference, *_ in evidence}
    p = {(method, to): value.replace("\\", "") for method, to, _, _, value, *_ in evidence}
    results = load_results(ROOT / "results" / "reference").query("dataset == 'omniglot-small' and selection == 'last'")
    assert f"over the {len(found)} comparisons" in text
    assert f"{results['folder'].nunique()} trainings on one kind of processor" in text
    assert results["kind"].nunique() == 1
    for suffix, variant in (("", ""), ("{tuned}", "tuned")):
        for base in ("contrastive", "triplet", "margin", "ms", "proxyanchor"):
            alone = t_interval(results[(results["method"] == base) & (results["variant"] == variant)]["recall_at_1"])
            estimate = f"{percent(alone.mean)} [{percent(alone.low)}, {percent(alone.high)}]"
            row = " | ".join(found[f"{base}+{name}{suffix}", base + suffix] for name in ("psd", "obdsd"))
            assert f"| `{base}{suffix}` | {estimate} | {row} |" in text
    for method, to in (
        ("triplet+dm2{ensemble}", "triplet"),
        ("triplet+dm2{ensemble}", "triplet+independent{ensemble}"),
        ("ms+dm2{ensemble}", "ms+independent{ensemble}"),
        ("ms+s2sd", "ms"),
        ("ms+s2sd{tuned}", "ms{tuned}"),
    ):
        assert found[method, to] in text
    for method in ("contrastive+psd", "triplet+psd", "margin+obdsd{tuned}", "ms+obdsd{tuned}"):
        tuned = "{tuned}" if method.endswith("{tuned}") else ""
        assert f"(p {p[method, method.partition('+')[0] + tuned]})" in text
    changed = {row[0]: row[5].replace("\\", "") for row in _rows(report, "Tuned values beside")}
    for method in ("triplet+obdsd{tuned}", "ms{tuned}", "margin+obdsd{tuned}", "margin{tuned}"):
        assert changed[method] in text
    ratios = dict(re.findall(r"^\| (\S+) \| [○▲▼] .* \| ([\d.]+)× \|", report.read_text(), re.MULTILINE))
    rough = sorted(ratios[name] for name in ratios if re.search(r"\+(psd|obdsd)(\{tuned\})?$", name))
    assert f"{rough[0]} to {rough[-1]} times the base's step" in text


def test_readme_shows_what_the_report_of_photographs_found() -> None:
    text = (ROOT / "README.md").read_text()
    report = (ROOT / "reports" / "photographs" / "report.md").read_text()
    results = load_results(ROOT / "results" / "reference").query("protocol == 'mobilenetv1-112'")
    last = results[results["selection"] == "last"]
    assert last.groupby(["dataset", "method"]).size().tolist() == [3] * 12
    assert last["kind"].nunique() == 1
    for dataset in ("cub50", "cars98"):
        title = f"**Evidence in R@1 on mobilenetv1-112 on {dataset}; last epoch**"
        table = report.partition(title)[2].partition("\n\n")[2].partition("\n\n")[0]
        rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in table.splitlines()[2:]]
        found = {(method, to): difference for method, to, _, difference, *_ in rows}
        untrained = results[(results["dataset"] == dataset) & (results["selection"] == "untrained")]
        start = percent(untrained.groupby("seed")["recall_at_1"].mean().mean())
        for base in ("triplet", "ms"):
            alone = t_interval(last[(last["dataset"] == dataset) & (last["method"] == base)]["recall_at_1"])
            estimate = f"{percent(alone.mean)} [{percent(alone.low)}, {percent(alone.high)}]"
            row = " | ".join(found[f"{base}+{name}", base] for name in ("psd", "obdsd"))
            assert f"| `{base}` | {dataset} | {start} | {estimate} | {row} |" in text


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
    committed = ROOT / "reports" / name
    assert (fresh / "report.md").read_text() == (committed / "report.md").read_text()
    names = [sorted(str(path.relative_to(root)) for path in root.rglob("*")) for root in (fresh, committed)]
    assert names[0] == names[1]
