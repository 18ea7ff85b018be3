"""Results of a stranger's, or of a broken disk: each is named in one line and left out, and the rest goes on."""

import copy
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dmlbench.analysis.estimates import accuracy, seed_values
from dmlbench.cli.tables import comparison
from dmlbench.errors import Damaged
from dmlbench.reporting.sources import code_states, datasets, environments
from dmlbench.results.frames import load_history, load_results
from dmlbench.results.status import overview
from dmlbench.results.store import Record, Roots, Store, read_record
from dmlbench.specs.tuned import default_path
from dmlbench.tracking.methods import final_metrics, final_tags, metrics
from tests.e2e.conftest import Command
from tests.reporting.fake_results import make_cell, write_cell

DEEP = "[" * 100_000
LONG = "9" * 5000
SUMMARIES = {
    "empty": b"",
    "binary": bytes(range(256)),
    "cut off": b'{"version": 1, "cell": {"ha',
    "no object": b"[1, 2]",
    "version alone": b'{"version": 1}',
    "no cell": b'{"version": 1, "status": "done", "environment": {}}',
    "an empty cell": b'{"version": 1, "status": "done", "environment": {}, "cell": {}}',
    "another version": b'{"version": 99, "status": "done"}',
    "a version of many digits": b'{"version": ' + LONG.encode() + b"}",
    "too deep": b'{"version": 1, "x": ' + DEEP.encode(),
}
HISTORIES = {
    "no history": b"",
    "a binary history": bytes(range(256)),
    "a line of megabytes": b"epoch," + b"x" * 4_000_000,
    "a history without epochs": b"era\n1\n",
    "a history of many digits": b"epoch\n" + LONG.encode() + b"\n",
    "a history that is not finite": b"epoch,time/train_s\n0,inf\n",
    "a history without its end": b"epoch,test/recall_at_1,time/train_s\n0,0.25,\n",
    "a spreadsheet's history": b"\xef\xbb\xbfepoch;test/recall_at_1\r\n0;0,25\r\n",
    "a history of zeros": bytes(500),
}
SPECS = {
    "no spec": b"",
    "a binary spec": bytes(range(256)),
    "a spec too deep": DEEP.encode(),
    "a spec of many digits": b"hash: " + LONG.encode(),
    "a spec of an impossible day": b"hash: 2024-13-45",
    "a spec of an odd tag": b"hash: !!int x",
    "a spec that holds itself": b"&a [*a]",
}
MEASUREMENTS = {
    "empty.json": b"",
    "deep.json": DEEP.encode(),
    "version.json": b'{"version": 2}',
    "list.json": b"[2]",
    "digits.json": b'{"version": 2, "processes": ' + LONG.encode() + b"}",
}
DAMAGED = {"summary.json": SUMMARIES, "history.csv": HISTORIES, "spec.yaml": SPECS}


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder of two sound cells and one of every kind of damage; as each seed has another, names differ."""
    root = tmp_path_factory.mktemp("damaged") / "runs"
    for method in ("ms", "ms+psd"):
        write_cell(root, make_cell(method, 0))
    seed = 0
    for file, contents in DAMAGED.items():
        for content in contents.values():
            seed += 1
            (write_cell(root, make_cell("ms", seed)) / file).write_bytes(content)
    (root / "overhead").mkdir()
    for name, content in MEASUREMENTS.items():
        (root / "overhead" / name).write_bytes(content)
    return root


def named(text: str, *files: str) -> dict[str, int]:
    """How many lines name each file, and that none is long or a traceback."""
    assert "Traceback" not in text
    lines = text.splitlines()
    assert max(map(len, lines)) < 600
    return {file: sum(f"/{file}: " in line for line in lines) for file in files}


def counts(*files: str) -> dict[str, int]:
    return {file: len(DAMAGED[file]) for file in files}


def test_report_names_what_is_damaged_and_shows_the_rest(damaged: Path, dmlbench: Command, tmp_path: Path) -> None:
    done = dmlbench("report", "--results", str(damaged), "--name", "r")
    assert done.returncode == 1, done.stderr
    assert named(done.stderr, *DAMAGED) == counts(*DAMAGED)
    assert sum(f"overhead/{name}: " in line for line in done.stderr.splitlines() for name in MEASUREMENTS) == 5
    assert "2 cells read" in done.stderr
    text = (tmp_path / "reports" / "r" / "report.md").read_text()
    assert text.count("left out because files are damaged: ") == sum(map(len, DAMAGED.values())) + len(MEASUREMENTS)
    assert str(damaged) not in text


def test_status_and_sync_name_what_is_damaged(damaged: Path, dmlbench: Command) -> None:
    shown = dmlbench("status", "--results", str(damaged))
    assert shown.returncode == 1
    # A spec or a history that was changed is told of by its digest.
    assert named(shown.stdout, "summary.json") == counts("summary.json")
    assert shown.stdout.count("spec.yaml is not as it was written") == len(SPECS)
    # However deep the folder lies, a cell's words are one line.
    assert all(line.startswith("damaged: ") for line in shown.stdout.splitlines() if str(damaged) in line)
    verified = dmlbench("status", "--verify", "--results", str(damaged))
    assert verified.returncode == 1
    assert "Traceback" not in verified.stdout + verified.stderr
    sent = dmlbench("sync", "--results", str(damaged))
    assert sent.returncode == 1, sent.stderr
    assert named(sent.stderr, *DAMAGED) == counts(*DAMAGED)
    assert "2 runs sent" in sent.stdout


def test_run_goes_on_and_ends_with_one(damaged: Path, dmlbench: Command, tmp_path: Path) -> None:
    shutil.copytree(damaged, tmp_path / "runs")
    run = ("run", "--methods", "triplet", "--datasets", "glyphs", "--seeds", "1", "--results", "runs")
    tiny = ("--tracking", "none", "--set", "training.epochs=1", "--set", "input.size=16", "--set", "input.resize=16")
    dry = dmlbench(*run, *tiny, "--dry-run")
    assert dry.returncode == 1, dry.stderr
    assert named(dry.stdout, "summary.json") == counts("summary.json")
    assert "1 of 1 cell to run" in dry.stdout
    done = dmlbench(*run, *tiny)
    assert done.returncode == 1, done.stderr
    assert named(done.stdout, "summary.json") == counts("summary.json")
    assert "triplet on glyphs, seed 0: done" in done.stdout


@pytest.mark.slow
def test_a_damaged_cell_of_the_matrix_itself_is_kept_and_the_rest_runs(dmlbench: Command, tmp_path: Path) -> None:
    run = ("run", "--methods", "ms", "--datasets", "glyphs", "--results", "runs", "--tracking", "none")
    tiny = ("--set", "training.epochs=1", "--set", "input.size=16", "--set", "input.resize=16")
    assert dmlbench(*run, *tiny, "--seeds", "1").returncode == 0
    (summary,) = (tmp_path / "runs").rglob("summary.json")
    summary.write_text("{")
    done = dmlbench(*run, *tiny, "--seeds", "2")
    assert done.returncode == 1, done.stderr
    assert "2 cells: 1 there already (1 damaged), 1 to run" in done.stdout
    assert "restore it from a copy, or move its folder away to run the cell again" in done.stdout
    assert named(done.stdout, "summary.json") == {"summary.json": 1}
    assert summary.read_text() == "{"
    assert len(list((tmp_path / "runs").rglob("summary.json"))) == 2
    one, two = sorted((tmp_path / "runs").rglob("seed*"))
    shutil.copy(two / "summary.json", one / "summary.json")
    dry = dmlbench(*run, *tiny, "--seeds", "2", "--dry-run")
    assert dry.returncode == 1
    assert dry.stdout.count("is the result of cell") == 1


@pytest.mark.slow
def test_tune_names_a_damaged_trial_and_goes_on_with_the_others(dmlbench: Command, tmp_path: Path) -> None:
    tune = ("tune", "--methods", "ms,triplet", "--datasets", "glyphs", "--results", "runs", "--epochs", "8")
    tiny = ("--set", "training.epochs=1", "--set", "input.size=16", "--set", "input.resize=16")
    assert dmlbench(*tune, *tiny).returncode == 0
    for summary in (tmp_path / "runs").rglob("ms/*/summary.json"):
        summary.write_text('{"version": 1}')
    done = dmlbench(*tune, *tiny)
    assert done.returncode == 1, done.stderr
    assert "failed: ms on glyphs" in done.stdout
    assert "summary.json: not a summary (cell: is missing)" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    default_path(tmp_path / "runs").write_text("- a")
    refused = dmlbench("run", "--methods", "ms", "--datasets", "glyphs", "--results", "runs", "--tuned")
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    assert "tuned.yaml: must hold a mapping" in refused.stderr


def places(content: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if place:
        yield place
    entries = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in entries:
        yield from places(value, (*place, key))


VALUES = (
    None, True, -1, 0, 1e300, 10**4000, "", "x", LONG, [], {}, [[[[None]]]], "../../../etc/passwd", {"a": None},
    "\x00\x1b[31m$x^2_{\\frac", "0001-01-01", "9999-12-31T23:59:59", [1, "a"],
)  # fmt: skip


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A results folder of a pair, and the folder of the one that is changed."""
    root = tmp_path_factory.mktemp("pair") / "runs"
    write_cell(root, make_cell("ms", 0))
    return root, write_cell(root, make_cell("ms+psd", 0))


@settings(max_examples=30, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_any_change_of_a_summary_is_one_line_or_does_no_harm(data: st.DataObject, pair: tuple[Path, Path]) -> None:
    root, folder = pair
    file = folder / "summary.json"
    whole = file.read_bytes()
    content = json.loads(whole)
    changed = copy.deepcopy(content)
    *parents, key = data.draw(st.sampled_from(list(places(content))))
    parent = changed
    for name in parents:
        parent = parent[name]
    value = data.draw(st.sampled_from([*VALUES, "deleted"]))
    if value == "deleted":
        del parent[key]
    else:
        parent[key] = value
    file.write_text(json.dumps(changed))
    try:
        record = read_record(folder)
        if isinstance(record, Damaged):
            assert "\n" not in record.reason
            assert len(record.reason) < 400
        found: list[Damaged] = []
        results = load_results(root, found.append)
        assert [damaged.path for damaged in found] == ([folder] if isinstance(record, Damaged) else [])
        use(root, results)
    finally:
        file.write_bytes(whole)


def use(root: Path, results: Any) -> None:
    """What commands do with results, but for drawing."""
    assert accuracy(seed_values(results))["n"].min() >= 1
    assert comparison(results)
    assert len(load_history(root, lambda _: None)) >= 1
    assert len(overview(Roots.of(root))) == 2
    records = [record for record in Store(root).records(lambda _: None) if isinstance(record, Record)]
    done = [record.summary for record in records if record.done]
    assert environments(done)
    assert datasets(done)
    assert code_states(done)
    for record in records:
        assert metrics(record.folder, 0)
        assert final_tags(record)
        final_metrics(record, 0)
