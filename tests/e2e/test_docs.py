"""The manual and the README: the site builds strictly, examples run, and no measured number is typed."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

import click
import nbformat
import numpy as np
import pytest
import yaml
from nbclient import NotebookClient
from PIL import Image

from dmlbench.cli.main import dmlbench as program
from dmlbench.specs.slurm import slurm_settings
from tests.e2e.conftest import TINY, Command
from tests.pages import DOCS, EXTEND, PAGES, ROOT, Block, blocks, commands, files, write_files

NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
# What is no prose: blocks, addresses, macros, comments, and code.
CODE = re.compile(
    r"^```.*?^```$|https://[^)\s]+|arXiv [\d.]+|\{\{.*?\}\}|\{%.*?%\}|<!--.*?-->|\$?`[^`]*`\$?",
    re.MULTILINE | re.DOTALL,
)
DECIMAL = re.compile(r"(?<![\w.])[+−±-]?\d*\.\d+(?![\w.])")
# Definitions and sizes of others' files, not measurements: levels, bounds, constants, versions.
TYPED = {
    "docs/design/decisions.md": {".05"},
    "docs/extend/index.md": {"2.5"},
    "docs/guides/compare.md": {".05"},
    "docs/guides/datasets.md": {"1.1", "2.9"},
    "docs/guides/ray.md": {"2.49"},
    "docs/reference/published.md": {"0.1"},
    "docs/reference/statistics.md": {".05"},
    "docs/start.md": {"3.11", ".05"},
}


def build(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder / "site"), *arguments],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("built")
    done = build(folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "site"


def test_every_file_that_a_page_names_is_there(site: Path) -> None:
    """Also of the reports' pages, which MkDocs does not read."""
    for page in site.rglob("*.html"):
        for link in re.findall(r"""(?:src|href)=["']([^"'#?]+)""", page.read_text()):
            if not urlsplit(link).scheme and not link.startswith("//"):
                target = site / unquote(link).lstrip("/") if link.startswith("/") else page.parent / unquote(link)
                assert target.exists(), f"{page.relative_to(site)}: {link}"


def test_the_site_is_whole_and_loads_nothing_from_elsewhere(site: Path) -> None:
    pages = [page for page in site.rglob("*.html") if "reports" not in page.parts]
    assert len(pages) == len([page for page in PAGES if DOCS in page.parents and "data" not in page.parts]) + 1  # 404
    for page in pages:
        text = page.read_text()
        assert "{{" not in text, page.name
        loaded = re.findall(r"<(?:script|img|link|iframe)\b[^>]*?(?:src|href)=[\"']?(https?://[^\"'> ]+)", text)
        assert loaded == [], page.name
    assert (site / "examples" / "first-study.ipynb").is_file()
    assert {path.parent.name for path in site.glob("reports/*/index.html")} == {
        path.parent.name for path in (ROOT / "reports").glob("*/index.html")
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('{{ mean("glyphs", "ms") }}', ""),
        ('{{ mean("glyphs", "mss") }}', "LookupError: reports/glyphs/tables/accuracy.csv: no row"),
        ("[no page](nowhere.md)", "not found among documentation files"),
        pytest.param("[no heading](#nowhere)", "there is no such anchor", marks=pytest.mark.slow),
        pytest.param('{{ mean("glyph", "ms") }}', "FileNotFoundError", marks=pytest.mark.slow),
        pytest.param('{{ gain("glyphs", "ms+obdsd", of="ms") }}', "no column of", marks=pytest.mark.slow),
        pytest.param('{{ benchmark("Nothing") }}', "no heading Nothing", marks=pytest.mark.slow),
        pytest.param("{{ typed }}", "'typed' is undefined", marks=pytest.mark.slow),
    ],
)
def test_what_is_missing_fails_the_build(content: str, reason: str, tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    shutil.copytree(DOCS / "assets", docs / "assets")
    for name in ("macros.py", "hooks.py"):
        code = (DOCS / name).read_text().replace("Path(__file__).parent.parent", f"Path({str(ROOT)!r})")
        (docs / name).write_text(code)
    (docs / "index.md").write_text(f"# One page\n\n{content}\n")
    settings = (ROOT / "mkdocs.yml").read_text().partition("\nnav:")[0]
    (tmp_path / "mkdocs.yml").write_text(f"{settings}\nnav: [index.md]\n")
    done = build(tmp_path, "--config-file", str(tmp_path / "mkdocs.yml"))
    assert (done.returncode == 0) == (not reason), done.stderr
    assert reason in re.sub(r"\s+", " ", done.stderr.replace("_", ""))


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("docs/") and "/data/" not in name])
def test_no_measured_number_is_typed(name: str) -> None:
    text = CODE.sub(" ", (ROOT / name).read_text())
    assert set(DECIMAL.findall(text)) <= TYPED.get(name, set())


@pytest.mark.parametrize("name", NAMES)
def test_blocks_are_sound(name: str) -> None:
    text = (ROOT / name).read_text()
    for block in blocks(text, "sh"):
        for command in commands(block):
            parsed(command)
    for block in blocks(text, "python"):
        compile(block.content, name, "exec")
    for block in blocks(text, "yaml"):
        assert yaml.safe_load(block.content)
    for url in re.findall(r"\]\((https?:[^)\s]+)\)", text):
        parts = urlsplit(url)
        assert parts.scheme == "https", url
        assert re.fullmatch(r"[a-z0-9.-]+\.[a-z]+", parts.netloc), url


def parsed(words: list[str]) -> None:
    """Raises what the command line would say of these words."""
    context = click.Context(program, info_name="dmlbench")
    command = program.get_command(context, words[0])
    assert command is not None, words
    own = command.make_context(words[0], words[1:], parent=context)
    if isinstance(command, click.Group):
        name, below, rest = command.resolve_command(own, [*own._protected_args, *own.args])
        assert below is not None, words
        below.make_context(name, rest, parent=own)


def test_slurm_settings_of_the_manual_are_valid(tmp_path: Path) -> None:
    found = blocks((DOCS / "guides" / "slurm.md").read_text(), "yaml")
    assert len(found) == 2
    for number, block in enumerate(found):
        path = tmp_path / f"{number}.yaml"
        path.write_text(block.content)
        assert slurm_settings([str(path)]).time


def test_the_drawing_has_every_package() -> None:
    drawn = re.findall(r'class="n"[^>]*>([^<]+)<', (DOCS / "design" / "architecture.svg").read_text())
    named = {name.strip() for names in drawn for name in names.split(",")}
    packages = {path.parent.name for path in (ROOT / "dmlbench").glob("*/__init__.py")}
    assert packages - named == {"distillation"}  # an older name of modifiers
    assert named <= packages


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]) -> Path:
    """Results of two methods and seeds, with weights and embeddings."""
    folder = tmp_path_factory.mktemp("finished")
    script = Path(sys.executable).with_name("dmlbench")
    words = ("run", "--methods", "ms,ms+psd", "--datasets", "glyphs", "--seeds", "2", "--keep", "weights,embeddings")
    command = [str(script), *words, "--tracking", "none", *TINY]
    subprocess.run(command, cwd=folder, env=environment, capture_output=True, check=True)
    return folder / "results" / "runs"


RUN = [name for name in NAMES if name not in {str(page.relative_to(ROOT)) for page in EXTEND}]  # test_plugins has these


def is_run(name: str) -> bool:
    """Whether a page has a block that a test runs."""
    text = (ROOT / name).read_text()
    own = set(files(text).values())
    return any(not block.why and block.content not in own for block in blocks(text, "sh", "python"))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in RUN if is_run(name)])
def test_the_examples_of_a_page_run(name: str, finished: Path, dmlbench: Command, tmp_path: Path) -> None:
    text = (ROOT / name).read_text()
    write_files(text, tmp_path)
    for results in ("results/runs", "their-lab"):
        shutil.copytree(finished, tmp_path / results)
    make_inputs(tmp_path)
    own = set(files(text).values())
    for block in blocks(text, "sh", "python"):
        if not block.why and block.content not in own:
            run_block(block, dmlbench, tracked=name.endswith("mlflow.md"))


def make_inputs(folder: Path) -> None:
    """What examples read: folders of images, and embeddings with labels."""
    rng = np.random.default_rng(0)
    for name in ("leaves", "birds"):
        for kind in ("ash", "birch", "cedar", "dogwood"):
            (folder / name / kind).mkdir(parents=True)
            for number in range(8):
                image = Image.fromarray(rng.integers(0, 256, (20, 20, 3), dtype=np.uint8))
                image.save(folder / name / kind / f"{number}.png")
    embeddings, labels = rng.normal(size=(60, 8)).astype("float32"), np.repeat(np.arange(6), 10)
    np.savez(folder / "mine.npz", embeddings=embeddings, labels=labels)
    np.save(folder / "mine.npy", embeddings)
    (folder / "labels.csv").write_text("\n".join(["label", *map(str, labels)]) + "\n")


def run_block(block: Block, dmlbench: Command, *, tracked: bool) -> None:
    if block.language == "python":  # as in a notebook; scripts are tested in tests/api
        exec(compile(block.content, "<a page>", "exec"), {"__name__": "__main__"})  # noqa: S102 - the manual's
        return
    for words in commands(block):
        done = dmlbench(*words, *shortened(words, tracked=tracked))
        assert done.returncode == 0, f"{words}\n{done.stdout}{done.stderr}"


def shortened(words: list[str], *, tracked: bool) -> tuple[str, ...]:
    """Options that make a run of seconds of one of minutes; a study's file has values of its own."""
    if words[0] != "run":
        return ()
    tracking = () if tracked else ("--tracking", "none")
    if not {"--methods", "--claim"} & {*words}:
        return tracking
    return (*tracking, *(() if {"--seeds", "--seed"} & {*words} else ("--seeds", "1")), *TINY)


@pytest.mark.slow
@pytest.mark.parametrize("notebook", sorted((ROOT / "examples").glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_notebook_runs(
    notebook: Path, tmp_path: Path, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", environment["XDG_CACHE_HOME"])
    content = nbformat.read(notebook, as_version=4)
    assert not any(cell.get("outputs") for cell in content.cells)  # else numbers that nothing holds
    NotebookClient(content, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = "".join(str(cell.get("outputs", "")) for cell in content.cells)
    assert "image/png" in outputs
    assert "recall_at_1" in outputs
    assert (tmp_path / "first-study-report" / "index.html").is_file()
