"""The worked examples of docs/extend: its files are written, its commands run, and its methods resumed."""

from pathlib import Path

import pytest

import dmlbench as package
from dmlbench.data.images import load_dataset
from dmlbench.data.ready import prepare
from dmlbench.results.events import Epoch, Event
from dmlbench.results.store import Store
from dmlbench.runner import cell as module
from dmlbench.runner.tasks import RunOptions
from dmlbench.specs.cell import Cell
from dmlbench.specs.registry import Registry
from tests.e2e.conftest import TINY, Command, metric_columns
from tests.pages import EXTEND, blocks, commands, write_files

TEXT = "\n".join(page.read_text(encoding="utf-8") for page in EXTEND)
METHODS = (
    "ms", "ranked", "annealed", "ms+sharp", "ms+spread", "ms+recent", "ms+rival", "ms+mlp", "ms+balanced", "ms+erase",
    "triplet", "triplet+hardest",
)  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The pages' files, as a user would write them."""
    write_files(TEXT, tmp_path)
    return tmp_path / "my-methods"


def test_every_example_is_a_method(folder: Path) -> None:
    registry = Registry(folder)
    assert registry.problems() == []
    assert {*METHODS} <= {*registry.names()}
    assert {path.stem for path in folder.glob("*.yaml")} == {name.split("+")[-1] for name in METHODS} - {
        "ms",
        "triplet",
    }


@pytest.mark.slow
def test_the_pages_commands_work(folder: Path, dmlbench: Command, tmp_path: Path) -> None:
    for words in [words for block in blocks(TEXT, "sh") for words in commands(block)]:
        short = ("--tracking", "none", *(() if "--seeds" in words else ("--seeds", "1")), *TINY)
        done = dmlbench(*words, *(short if words[0] == "run" else ()))
        assert done.returncode == 0, done.stdout + done.stderr
        checked = [*folder.glob("*.yaml")] if words[1] == folder.name else [words[1]]
        assert words[0] != "validate" or done.stdout.count(": valid; ") == len(checked)
    assert {key.split("/")[1] for key in metric_columns(tmp_path / "results" / "runs")} == {"ms", "ms+recent", "ranked"}


@pytest.mark.slow
def test_every_example_trains_beside_its_base(folder: Path, dmlbench: Command, tmp_path: Path) -> None:
    run = ("run", "--methods", ",".join(METHODS), "--datasets", "glyphs", "--seeds", "1", "--tracking", "none", *TINY)
    done = dmlbench(*run, "--methods-dir", folder, "--keep", "weights")
    assert done.returncode == 0, done.stdout + done.stderr
    found = metric_columns(tmp_path / "results" / "runs")
    assert {key.split("/")[1] for key in found} == {*METHODS}
    assert len({str(rows) for rows in found.values()}) == len(METHODS)  # each is a method of its own
    untrained = {key.split("/")[1]: rows[1] for key, rows in found.items()}
    assert untrained["ms+recent"] == untrained["ms+balanced"] == untrained["ms"] != untrained["ms+mlp"]
    cell = next((tmp_path / "results" / "runs").glob("*/*/ms+mlp/seed0-*"))
    scored = dmlbench("evaluate", cell)
    assert scored.returncode == 0, scored.stderr
    assert dmlbench("status", "--verify").returncode == 0


@pytest.mark.slow
def test_plugins_run_from_python_with_the_same_numbers(
    folder: Path, dmlbench: Command, tmp_path: Path, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    methods = ("ms", "ms+spread", "ms+recent", "annealed", "ms+balanced", "ms+mlp")
    monkeypatch.setenv("XDG_CACHE_HOME", environment["XDG_CACHE_HOME"])
    settings = dict(text.split("=") for text in TINY[1::2])
    study = package.run(
        methods,
        "glyphs",
        seeds=1,
        settings={key: int(value) for key, value in settings.items()},
        methods_dir=folder,
        results=tmp_path / "python",
        tracking="none",
        quiet=True,
    )
    assert set(study.frame["method"]) == {*methods}
    run = ("run", "--methods", ",".join(methods), "--datasets", "glyphs", "--seeds", "1", "--tracking", "none", *TINY)
    done = dmlbench(*run, "--methods-dir", folder, "--results", "command")
    assert done.returncode == 0, done.stdout + done.stderr
    assert metric_columns(tmp_path / "python") == metric_columns(tmp_path / "command")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ms+recent", "annealed", "ms+erase", "ms+balanced", "ms+mlp", "ms+rival"])
def test_an_interrupted_example_ends_with_the_same_numbers(
    name: str, folder: Path, tmp_path: Path, make_cell, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = make_cell("ms", epochs=2)
    cell = Cell(Registry(folder).resolve(name, "glyphs", cell.protocol.name), cell.dataset, cell.protocol, 0)
    prepare(cell.dataset, tmp_path, lambda _: None)
    dataset = load_dataset(cell.dataset, tmp_path, lambda _: None)
    monkeypatch.setattr(module, "load_of_cell", lambda *_: dataset)

    def stop(event: Event) -> None:
        if isinstance(event, Epoch) and event.epoch == 1:
            raise SystemExit(0)

    options = RunOptions(device="cpu")
    for root in ("whole", "parts"):
        store = Store(tmp_path / root)
        if root == "parts":
            with pytest.raises(SystemExit):
                module.run_cell(cell, store.folder(cell), options, stop)
        module.run_cell(cell, store.folder(cell), options, lambda _: None)
        assert store.state(cell) == "done", (store.folder(cell) / "log.txt").read_text()
    assert metric_columns(tmp_path / "whole") == metric_columns(tmp_path / "parts") != {}


def test_a_miner_needs_a_base_that_takes_triplets(folder: Path, dmlbench: Command) -> None:
    done = dmlbench("run", "--methods", "ms+hardest", "--datasets", "glyphs", "--methods-dir", str(folder))
    assert done.returncode == 2
    assert "error: ms+hardest: the base takes no triplets; for example triplet+hardest; bases: " in done.stderr
    assert not list(folder.parent.glob("results/**/spec.yaml"))
