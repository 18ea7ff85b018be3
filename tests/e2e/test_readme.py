"""What the README promises: its first command, and a wheel that works outside the source tree."""

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import mlflow
import pytest

from tests.e2e.conftest import Command

ROOT = Path(__file__).parents[2]


@pytest.fixture
def dmlbench(installed: Command) -> Command:
    """The installed script: what a reader types."""
    return installed


def test_readme_names_the_two_commands() -> None:
    text = (ROOT / "README.md").read_text()
    assert "pip install . && dmlbench run --methods ms,ms+obdsd --datasets glyphs" in text
    assert 'pip install -e ".[test]" && pytest' in text


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md", "tests/benchmarks/README.md"])
def test_links_lead_somewhere(document: str) -> None:
    """Links of the manual are checked by its strict build."""
    path = ROOT / document
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        file, _, anchor = target.partition("#")
        if target.startswith("https://"):
            continue
        there = path.parent / file if file else path
        assert there.exists(), target
        assert not anchor or anchor in _anchors(there.read_text()), target


def _anchors(text: str) -> set[str]:
    """Those that a code host gives to headings."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


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
def test_the_wheel_brings_methods_protocols_templates_and_types(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(tmp_path), str(ROOT)], check=True
    )
    wheel = next(tmp_path.glob("dmlbench-*.whl"))
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    environment = os.environ | {"PYTHONPATH": str(site)}
    code = "import dmlbench; from dmlbench.cli.main import main; print(dmlbench.__file__); main()"
    listed = subprocess.run(
        [sys.executable, "-c", code, "list", "methods", "--json"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    description = next(site.glob("dmlbench-*.dist-info/METADATA")).read_text()
    assert re.findall(r"\]\((?!https://|#)[^)]+\)", description) == []  # a link of the README is none on PyPI
    assert "](https://raw.githubusercontent.com/dmlbench/dmlbench/main/reports/glyphs/figures/" in description
    assert str(site) in listed
    assert "ms+obdsd" in listed
    assert list(site.glob("dmlbench/reporting/templates/*"))
    assert (site / "dmlbench" / "protocols" / "conv4-64.yaml").is_file()
    assert (site / "dmlbench" / "py.typed").is_file()  # else a user's mypy would not see our annotations
