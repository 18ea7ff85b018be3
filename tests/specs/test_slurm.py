from pathlib import Path

import pytest

from dmlbench.errors import UserError
from dmlbench.specs.slurm import SlurmSettings, slurm_settings


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "gpu.yaml"
    path.write_text('partition: gpu\ntime: "12:00:00"\nsetup: [module load cuda, source env/bin/activate]\n')
    return path


def test_a_file_and_pairs_are_one_set_of_settings(file):
    found = slurm_settings(["gpu.yaml", "time=90", "options.constraint=a100", "options.exclusive=true", "memory=32G"])
    assert found == SlurmSettings(
        time=90,
        partition="gpu",
        memory="32G",
        setup=("module load cuda", "source env/bin/activate"),
        options={"constraint": "a100", "exclusive": True},
    )


def test_the_later_counts(file):
    assert slurm_settings(["time=90", "gpu.yaml"]).time == 720


def test_lines_of_setup_add_up(file):
    found = slurm_settings(["gpu.yaml", "setup=export A=1", "setup=export B=2"]).setup
    assert found == ("module load cuda", "source env/bin/activate", "export A=1", "export B=2")


@pytest.mark.parametrize(
    ("text", "minutes"),
    [
        ("45", 45), ("90:00", 90), ("30:00", 30), ("4:01", 5), ("0:30:01", 31), ("100:00:00", 6000), ("1-12", 2160),
        ("0-4:30", 270), ("1-00:00:00", 1440),
    ],
)  # fmt: skip
def test_a_time_limit_is_what_sbatch_reads(text, minutes):
    assert slurm_settings([f"time={text}"]).time == minutes
    assert SlurmSettings.model_validate({"time": text}).time == minutes


@pytest.mark.parametrize("text", ["4:60", "1:60:00", "1:00:60", "1-24", "1-0:60", "1-", "1-0:0:0:0", "1:2:3:4", "٣"])
def test_a_time_limit_that_sbatch_would_not_read_so_is_refused(text):
    with pytest.raises(UserError, match="time: must be "):
        slurm_settings([f"time={text}"])


def test_a_job_has_time_for_what_comes_before_its_end():
    assert slurm_settings(["time=2", "stop_before=30"]).time == 2
    with pytest.raises(UserError, match=r"^--slurm: time: 3 min leave no room for stop_before \(120 s\).* at least 4"):
        slurm_settings(["time=3"])
    with pytest.raises(UserError, match=r"^--slurm: time: 60 min leave no room for stop_before \(3600 s\)"):
        slurm_settings(["time=60", "stop_before=3600"])


@pytest.mark.parametrize(
    ("given", "gpus", "cores"),
    [
        ([], 0, 1), (["cpus=3"], 0, 3), (["gres=gpu"], 1, 8), (["gres=gpu:2"], 2, 16), (["gres=gpu:a100:2"], 2, 16),
        (["gres=nvme:1,gpu:h100"], 1, 8), (["gres=gpu:4", "cpus=6"], 4, 6), (["options.gpus=2"], 2, 16),
        (["options.gpus-per-node=a100:4"], 4, 32), (["gres=shard:3"], 0, 1),
    ],
)  # fmt: skip
def test_a_job_with_gpus_has_cores_for_them(given, gpus, cores):
    found = slurm_settings(["time=60", *given])
    assert (found.gpus, found.cores) == (gpus, cores)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "--slurm: a time limit is needed; for example --slurm time=4:00:00"),
        (["partition=gpu"], "--slurm: a time limit is needed"),
        (["nowhere.yaml"], "--slurm nowhere.yaml: no such file"),
        (["gpu"], "--slurm 'gpu': must be a YAML file or KEY=VALUE; for example --slurm partition=gpu"),
        (["time="], "must be a YAML file or KEY=VALUE"),
        (["time=soon"], "--slurm time=soon: time: must be minutes, MM:SS"),
        (["time=0"], "--slurm time=0: time: must be"),
        (["time=1"], "--slurm time=1: time: must be at least 2"),
        (["time=5", "cpus=²"], "--slurm cpus=²: cpus: must be a whole number"),
        (["time=5", "options.no-requeue=true"], "no-requeue is set by dmlbench"),
        (["time=5", "options.parsable=true"], "parsable is set by dmlbench"),
        (["time=5", "options.export=NONE"], "export: jobs need the environment of the login node"),
        (["time=5", "options.clusters=other"], "clusters: jobs of another cluster cannot be followed"),
        (["time=5", "options.cpus-per-gpu=4"], "cpus-per-gpu has a setting of its own: cpus"),
        (["time=5", "options.outp=log"], "outp: sbatch takes it for output"),
        (["time=5", "memory=4G", "options.mem-per-cpu=1G"], "options.mem-per-cpu and memory exclude each other"),
        (["patition=gpu"], "--slurm patition=gpu: unknown key 'patition'; did you mean 'partition'"),
        (["memory=32"], "--slurm memory=32: memory: must be a whole number and its unit, such as 32G"),
        (["time=5", "options.C=a100"], "'C' is no long name of an option, such as constraint"),
        (["time=5", "cpus=many"], "--slurm cpus=many: cpus: must be a whole number"),
        (["time=5", "options.array=0-3"], "array has a setting of its own: jobs_at_a_time"),
        (["time=5", "options.output=log"], "output is set by dmlbench"),
        (["time=5", "options.exclusive=false"], "leave out a flag that is not wanted"),
        (["time=5", "partition=a\nb"], "--slurm partition=a"),
    ],
)
def test_a_mistake_is_one_line(given, message, file):
    with pytest.raises(UserError) as caught:
        slurm_settings(given)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_is_named_with_its_key(file):
    file.write_text("time: 5\ncpus: 0\n")
    with pytest.raises(UserError, match=r"^gpu\.yaml: cpus: must be"):
        slurm_settings(["gpu.yaml"])
    file.write_text("time: 2:00:00\n")
    with pytest.raises(UserError, match=r"^gpu\.yaml: line 1 .*quote it"):
        slurm_settings(["gpu.yaml"])
