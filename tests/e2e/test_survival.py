"""Runners that share a folder, nodes that are lost, disks that are full: every cell once, nothing half-written."""

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster

from tests.e2e.conftest import TINY, Command, metric_columns

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals and mounts")]
RUN = ("run", "--datasets", "glyphs", "--tracking", "none", *TINY)
SIX_EPOCHS = (*(part.replace("epochs=2", "epochs=6") for part in RUN), "--methods", "ms+psd", "--seeds", "4")
Histories = dict[str, list[list[str]]]


@pytest.fixture
def dmlbench(installed: Command) -> Command:
    """The installed script: processes are killed."""
    return installed


def begun_epochs(results: Path) -> dict[str, list[int]]:
    """The epochs that every cell's log says were begun, in order."""
    logs = sorted(results.rglob("log.txt"))
    return {
        f"{log.parent.parent.name} {log.parent.name}": [
            int(epoch) for epoch in re.findall(r"epoch (\d+) of \d+ begins", log.read_text())
        ]
        for log in logs
    }


def test_two_runners_on_one_folder_run_no_cell_twice(dmlbench: Command, tmp_path: Path) -> None:
    eight = (*RUN, "--methods", "ms,margin", "--seeds", "4", "--workers", "1")
    done: list[subprocess.CompletedProcess[str]] = []
    runners = [threading.Thread(target=lambda: done.append(dmlbench(*eight, timeout=500))) for _ in range(2)]
    for runner in runners:
        runner.start()
    for runner in runners:
        runner.join()
    assert done[-1].returncode == 0, done[-1].stdout + done[-1].stderr
    assert {result.returncode for result in done} <= {0, 1}, done[0].stdout + done[0].stderr
    finished = Counter(cell for result in done for cell in re.findall(r"\] (.*): done in", result.stdout))
    assert len(finished) == 8
    assert set(finished.values()) == {1}
    assert all(len(re.findall(r": done in", result.stdout)) >= 2 for result in done)  # they shared the work
    epochs = begun_epochs(tmp_path / "results")
    assert len(epochs) == 8
    assert all(begun == [1, 2] for begun in epochs.values())
    alone = dmlbench(*RUN, "--methods", "ms,margin", "--seed", "3", "--results", "alone")
    assert alone.returncode == 0
    shared = metric_columns(tmp_path / "results" / "runs")
    for cell, history in metric_columns(tmp_path / "alone").items():
        assert shared[cell] == history


@pytest.fixture(scope="module")
def undisturbed(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Histories:
    """The cells of the next tests as processes of this machine train them."""
    folder = tmp_path_factory.mktemp("undisturbed")
    script = str(Path(sys.executable).with_name("dmlbench"))
    environment = os.environ | {"XDG_CACHE_HOME": str(cache)}
    subprocess.run([script, *SIX_EPOCHS], cwd=folder, env=environment, check=True, capture_output=True)
    return metric_columns(folder / "results" / "runs")


@pytest.fixture
def two_nodes(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> Iterator[Cluster]:
    """A real cluster of two nodes with a core each, on the loopback interface."""
    monkeypatch.setenv("XDG_CACHE_HOME", environment["XDG_CACHE_HOME"])
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        yield cluster
    finally:
        cluster.shutdown()


@pytest.mark.parametrize("shared", [True, False])
def test_a_ray_cluster_that_loses_a_node(
    two_nodes: Cluster, environment: dict[str, str], undisturbed: Histories, tmp_path: Path, shared: bool
) -> None:
    second = two_nodes.add_node(num_cpus=1)
    arguments = (*SIX_EPOCHS, "--executor", "ray", "--address", two_nodes.address)
    script = str(Path(sys.executable).with_name("dmlbench"))
    with subprocess.Popen(
        [script, *arguments], cwd=tmp_path, env=environment, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True,
    ) as runner:  # fmt: skip
        assert runner.stdout is not None
        if not shared:
            _hide_the_folder(tmp_path / "results" / "runs")
        seen = []
        for line in runner.stdout:
            seen.append(line)
            if "epoch 3 of 6" in line:  # one of the two first cells is in the midst of it
                break
        two_nodes.remove_node(second, allow_graceful=False)
        output = "".join([*seen, *runner.stdout])
    assert runner.returncode == 0, output
    epochs = begun_epochs(tmp_path / "results")
    assert len(epochs) == 4
    again = [begun for begun in epochs.values() if begun != [1, 2, 3, 4, 5, 6]]
    assert len(again) <= 1  # the cell of the lost node went on elsewhere, from its last epoch where that can see it
    for begun in again:
        assert sorted(set(begun)) == [1, 2, 3, 4, 5, 6]
        assert len(begun) <= 7
    assert metric_columns(tmp_path / "results" / "runs") == undisturbed
    assert not list((tmp_path / "results").rglob("checkpoint*"))
    assert not list((tmp_path / "results" / "runs").glob(".*"))


def _hide_the_folder(results: Path) -> None:
    """Take away what nodes know the driver's folder by, before they look for it."""
    for _ in range(2400):
        for marker in results.glob(".shared-*"):
            marker.unlink()
            return
        time.sleep(0.05)
    raise AssertionError("no marker within two minutes")


def test_ray_on_this_machine_listens_on_the_loopback_interface_only(
    environment: dict[str, str], tmp_path: Path
) -> None:
    def listening() -> set[str]:
        """Sockets that other machines could reach, as the kernel lists them."""
        lines = [
            line.split() for table in ("tcp", "tcp6") for line in Path(f"/proc/net/{table}").read_text().splitlines()
        ]
        local = [line[1] for line in lines if line[3] == "0A"]
        loopback = ("0100007F:", "00000000000000000000000001000000:", "0000000000000000FFFF00000100007F:")
        return {address for address in local if not address.startswith(loopback)}

    before = listening()
    script = str(Path(sys.executable).with_name("dmlbench"))
    arguments = (*RUN, "--methods", "ms", "--seeds", "1", "--executor", "ray")
    with subprocess.Popen(
        [script, *arguments], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True
    ) as run:
        opened: set[str] = set()
        while run.poll() is None:
            opened |= listening() - before
            time.sleep(0.2)
        assert run.stdout is not None
        assert run.returncode == 0, run.stdout.read()
    assert opened == set()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of eight megabytes: a cell takes up to three checkpoints of 1.3."""
    folder = tmp_path / "results"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("may not mount a file system here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_fills_up_halts_the_run_and_loses_nothing(
    dmlbench: Command, small_disk: Path, tmp_path: Path
) -> None:
    two = (*RUN, "--methods", "ms", "--seeds", "2", "--workers", "1")
    filler = small_disk / "filler"
    filler.write_bytes(os.urandom(6_000_000))
    full = dmlbench(*two)
    assert full.returncode == 1, full.stdout + full.stderr
    assert "HALTED: " in full.stdout
    assert "cannot be written (No space left on device)" in full.stdout
    assert "2 of 2 cells have not ended; rerun the same command to resume" in full.stdout
    assert "Traceback" not in full.stdout + full.stderr
    states = {cell["state"] for cell in json.loads(dmlbench("status", "--json").stdout)}
    assert states <= {"interrupted", "missing"}
    assert not list(small_disk.rglob("*.tmp"))
    filler.unlink()
    again = dmlbench(*two)
    assert again.returncode == 0, again.stdout + again.stderr
    elsewhere = dmlbench(*two, "--results", str(tmp_path / "elsewhere"))
    assert elsewhere.returncode == 0
    assert metric_columns(small_disk / "runs") == metric_columns(tmp_path / "elsewhere")
