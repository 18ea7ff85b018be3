import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from dmlbench import machine
from dmlbench.machine import cuda_failure, processor_quota, usable_cores

V1, V2 = "4:cpu,cpuacct:/job/step\n3:memory:/other\n0::/\n", "0::/job/step\n"


def written(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / f"cpu.{name}").write_text(f"{content}\n")


def quota(tmp_path: Path, groups: str) -> float | None:
    (tmp_path / "own").write_text(groups)
    return processor_quota(tmp_path / "own", tmp_path / "groups")


def test_a_quota_of_version_2(tmp_path):
    written(tmp_path / "groups" / "job" / "step", max="250000 100000")
    assert quota(tmp_path, V2) == 2.5


def test_the_least_quota_on_the_way_up_counts(tmp_path):
    written(tmp_path / "groups" / "job" / "step", max="max 100000")
    written(tmp_path / "groups" / "job", max="100000 100000")
    written(tmp_path / "groups", max="400000 100000")
    assert quota(tmp_path, V2) == 1.0


@pytest.mark.parametrize("controller", ["cpu,cpuacct", "cpu"])
def test_a_quota_of_version_1(tmp_path, controller):
    written(tmp_path / "groups" / controller / "job" / "step", cfs_quota_us="-1", cfs_period_us="100000")
    written(tmp_path / "groups" / controller / "job", cfs_quota_us="150000", cfs_period_us="50000")
    assert quota(tmp_path, V1) == 3.0


def test_a_container_s_own_group_is_its_root(tmp_path):
    written(tmp_path / "groups" / "cpu", cfs_quota_us="200000", cfs_period_us="100000")
    assert quota(tmp_path, "4:cpu:/docker/abc\n") == 2.0


@pytest.mark.parametrize("content", ["max 100000", "", "many few", "0 0"])
def test_no_quota(tmp_path, content):
    written(tmp_path / "groups", max=content)
    assert quota(tmp_path, V2) is None
    assert processor_quota(tmp_path / "nowhere", tmp_path) is None


@pytest.fixture
def group_of_one_core() -> Iterator[Path]:
    """A control group of this machine that has the time of one core."""
    folder, name, content = Path(f"/sys/fs/cgroup/cpu/dmlbench-{os.getpid()}"), "cpu.cfs_quota_us", "100000"
    if Path("/sys/fs/cgroup/cgroup.controllers").is_file():
        folder, name, content = Path(f"/sys/fs/cgroup/dmlbench-{os.getpid()}"), "cpu.max", "100000 100000"
    try:
        folder.mkdir()
        (folder / name).write_text(content)
    except OSError:
        with suppress(OSError):
            folder.rmdir()
        pytest.skip("no control group can be made here")
    yield folder
    folder.rmdir()


def test_a_process_in_a_group_of_one_core_uses_one(group_of_one_core):
    if usable_cores() < 2:
        pytest.skip("one core")
    join = f"open({str(group_of_one_core / 'cgroup.procs')!r}, 'w').write('0')"
    code = f"{join}\nfrom dmlbench.machine import usable_cores\nprint(usable_cores())"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "1\n"


def test_a_slurm_job_uses_the_cores_it_was_given(monkeypatch):
    monkeypatch.delenv("SLURM_CPUS_ON_NODE", raising=False)
    own = usable_cores()
    for given, cores in (("1", 1), (str(own + 5), own), ("0", own), ("8(x2)", own)):
        monkeypatch.setenv("SLURM_CPUS_ON_NODE", given)
        assert usable_cores() == cores


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("pass", None),
        ("import sys; sys.exit(f'{sys.argv[1]}: the driver is too old\\nmore')", "cuda:1: the driver is too old"),
        ("import os; os._exit(3)", "exit code 3"),
    ],
)
def test_why_cuda_cannot_start_is_torchs_reason(monkeypatch, code, reason):
    monkeypatch.setattr(machine, "CUDA", code)
    assert cuda_failure({"cuda:1"}) == reason


def test_a_users_scripts_are_no_modules_of_what_asks_cuda(monkeypatch, tmp_path):
    for name in ("PYTHONSAFEPATH", "PYTHONPATH"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "random.py").write_text("open('RAN', 'w').close()\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(machine, "CUDA", "import random")
    assert cuda_failure({"cuda:0"}) is None
    assert not (tmp_path / "RAN").exists()


def test_a_driver_that_hangs_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(machine, "CUDA", "import time; time.sleep(60)")
    monkeypatch.setattr(machine, "PATIENCE_SECONDS", 0.5)
    assert cuda_failure({"cuda:0"}) == "no answer in 0 s"
