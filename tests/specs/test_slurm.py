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
    assert slurm_settings(["gpu.yaml", "setup=true"]).setup == ("true",)


@pytest.mark.parametrize(
    ("text", "minutes"), [("45", 45), ("4:00", 240), ("0:30:01", 31), ("100:00:00", 6000), ("1-00:00:00", 1440)]
)
def test_a_time_limit_is_minutes(text, minutes):
    assert slurm_settings([f"time={text}"]).time == minutes


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "--slurm: a time limit is needed; for example --slurm time=4:00:00"),
        (["partition=gpu"], "--slurm: a time limit is needed"),
        (["nowhere.yaml"], "--slurm nowhere.yaml: no such file"),
        (["gpu"], "--slurm 'gpu': must be a YAML file or KEY=VALUE; for example --slurm partition=gpu"),
        (["time="], "must be a YAML file or KEY=VALUE"),
        (["time=soon"], "--slurm time=soon: time: must be minutes, HH:MM"),
        (["time=0"], "--slurm time=0: time: must be"),
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
