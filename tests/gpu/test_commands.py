"""The commands on a GPU, end to end."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.gpu.conftest import SIMULATED

DMLBENCH = [sys.executable, "-c", "import sys; from dmlbench.cli.main import main; sys.exit(main())"]
RUN = (
    "run", "--methods", "ms+obdsd,margin", "--datasets", "glyphs", "--seeds", "1", "--device", "cuda",
    "--tracking", "none", "--set", "training.steps_per_epoch=3", "--set", "evaluation.every=2",
    "--set", "training.epochs=2", "--set", "input.size=16", "--set", "input.resize=16",
    "--set", "evaluation.clustering_runs=1",
)  # fmt: skip
pytestmark = [pytest.mark.values, pytest.mark.slow]


def dmlbench(*arguments: str, folder: Path, **environment: str) -> str:
    done = subprocess.run(
        [*DMLBENCH, *arguments],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def histories(folder: Path) -> dict[str, list[dict[str, str]]]:
    return {
        path.parts[-3]: [
            {key: value for key, value in row.items() if not key.startswith("time/")}
            for row in csv.DictReader(path.read_text().splitlines())
        ]
        for path in folder.rglob("history.csv")
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    dmlbench(*RUN, "--keep", "weights,embeddings", folder=folder)
    return folder


def test_a_run_ends_with_results_of_the_gpu(whole):
    summaries = [json.loads(path.read_text()) for path in whole.rglob("summary.json")]
    assert len(summaries) == 2
    for summary in summaries:
        assert summary["status"] == "done"
        assert summary["environment"]["device"] == "cuda:0"


def test_a_killed_run_is_resumed_to_the_same_bits(whole, tmp_path):
    child = subprocess.Popen([*DMLBENCH, *RUN], cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while child.poll() is None and not any(len(rows) > 1 for rows in histories(tmp_path).values()):
        time.sleep(0.05)
    child.send_signal(signal.SIGKILL)
    child.wait()
    begun = [path.parent for path in tmp_path.rglob("history.csv")]
    dmlbench(*RUN, folder=tmp_path)
    assert any(json.loads((cell / "summary.json").read_text())["resumed"] for cell in begun)
    assert histories(tmp_path) == histories(whole)


def test_kept_weights_score_as_the_run_did(whole):
    cell = next(whole.rglob("ms+obdsd/seed0-*"))
    said = dmlbench("evaluate", str(cell), "--device", "cuda", folder=whole)
    recall = float(histories(whole)["ms+obdsd"][-1]["test/recall_at_1"])
    assert f"{recall:.6g}\n" in said


def test_two_gpus_share_the_cells(tmp_path):
    if not SIMULATED:
        pytest.skip("not every machine has two GPUs")
    dmlbench(*RUN, folder=tmp_path, NULL_GPUS="2")
    devices = {json.loads(path.read_text())["environment"]["device"] for path in tmp_path.rglob("summary.json")}
    assert devices == {"cuda:0", "cuda:1"}


def test_two_gpus_train_a_cell_together(tmp_path):
    """Each has its own networks and tensors; the numbers are those of one GPU with the whole batch."""
    if not SIMULATED:
        pytest.skip("not every machine has two GPUs")
    one = [part.replace("ms+obdsd,margin", "ms+obdsd") for part in RUN]
    frozen = (*one, "--set", "model.freeze_batchnorm=true", "--data-workers", "1")
    alone, together = tmp_path / "alone", tmp_path / "together"
    for folder, options in ((alone, ()), (together, ("--gpus-per-cell", "2"))):
        folder.mkdir()
        dmlbench(*frozen, *options, folder=folder, NULL_GPUS="2")
    for path in together.rglob("summary.json"):
        environment = json.loads(path.read_text())["environment"]
        assert (environment["device"], environment["gpus_per_cell"], environment["processes"]) == ("cuda:0", 2, 1)
    found, expected = histories(together), histories(alone)
    assert found.keys() == expected.keys()
    for method, rows in expected.items():
        for own, row in zip(found[method], rows, strict=True):
            losses = [name for name in row if name.startswith("train/") and row[name]]
            assert [float(own[name]) for name in losses] == pytest.approx(
                [float(row[name]) for name in losses], rel=1e-3, abs=1e-4
            )
    assert len(found) == 1


def test_overhead_is_measured_by_events(tmp_path):
    arguments = (
        "--methods",
        "ms+psd",
        "--protocol",
        "conv4-64",
        "--device",
        "cuda",
        "--processes",
        "2",
        "--rounds",
        "10",
    )
    dmlbench("overhead", *arguments, "--set", "training.batch_size=28", folder=tmp_path)
    (found,) = [json.loads(path.read_text()) for path in tmp_path.rglob("overhead/*.json")]
    assert found["environment"]["device"] == "cuda:0"
    assert all(value > 0 for value in found["methods"]["ms+psd"]["phases_ms"]["teacher"])
