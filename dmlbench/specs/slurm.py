"""What SLURM is asked for: a YAML file and `KEY=VALUE` pairs, read as one set of settings."""

import re
from collections.abc import Sequence
from typing import Annotated, Any

from annotated_types import Ge, Le
from pydantic import Field, field_validator

from dmlbench.errors import UserError
from dmlbench.specs.dataset import Section
from dmlbench.specs.yaml_files import path_of, read_yaml, validate

MOST_MINUTES = 525_600  # a year
CLOCK = re.compile(r"(?:(\d+)-)?(\d{1,3}):(\d{2})(?::(\d{2}))?")  # [D-]HH:MM[:SS]
LINE = r"^[^\n\r]+$"
Line = Annotated[str, Field(pattern=LINE, max_length=1000)]
# Options of sbatch that are written from the settings, or that the jobs' own logs and arrays need.
OURS = {
    "account": "account", "array": "jobs_at_a_time", "cpus-per-task": "cpus", "gres": "gres",
    "mem": "memory", "partition": "partition", "qos": "qos", "signal": "stop_before", "time": "time",
}  # fmt: skip
TEXTS = ("partition", "account", "qos", "gres", "memory", "setup")
FIXED = ("chdir", "error", "nodes", "ntasks", "ntasks-per-node", "open-mode", "output", "requeue", "wrap")


class SlurmSettings(Section):
    """What a job asks SLURM for, and how cells are divided among jobs.

    Attributes:
        time: The time limit of a job in minutes; in a file also `HH:MM`, `HH:MM:SS` or `D-HH:MM:SS`.
        partition: The partition; None for the cluster's default, as for the next two.
        account: The account that is charged.
        qos: The quality of service.
        gres: Generic resources, such as `gpu:1`.
        memory: Memory of a job, such as `32G`.
        cpus: Processor cores of a job.
        setup: Lines of shell that a job runs first, such as `module load cuda`.
        options: Further options of sbatch by their long names, such as `constraint: a100`; true for a bare flag.
        cells_per_job: Cells that one job runs, as many at a time as its GPUs or cores hold.
        jobs_at_a_time: The most jobs of a submission that run at the same time; None for no limit but SLURM's own.
        stop_before: Seconds before the time limit at which a job is told to end: it finishes the epoch and is queued
            again.
    """

    time: Annotated[int, Ge(1), Le(MOST_MINUTES)]
    partition: Line | None = None
    account: Line | None = None
    qos: Line | None = None
    gres: Line | None = None
    memory: str | None = None
    cpus: Annotated[int, Ge(1), Le(4096)] = 1
    setup: tuple[Line, ...] = ()
    options: dict[str, bool | int | Line] = Field(default_factory=dict)
    cells_per_job: Annotated[int, Ge(1), Le(10_000)] = 1
    jobs_at_a_time: Annotated[int, Ge(1), Le(100_000)] | None = None
    stop_before: Annotated[int, Ge(10), Le(3600)] = 120

    @field_validator("time", mode="before")
    @classmethod
    def _minutes(cls, time: object) -> object:
        """`4:00:00` is 240."""
        if not isinstance(time, str):
            return time
        found = CLOCK.fullmatch(time)
        if found is None:
            raise ValueError("must be minutes, HH:MM, HH:MM:SS or D-HH:MM:SS")
        days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
        return (24 * days + hours) * 60 + minutes + (seconds > 0)

    @field_validator("memory")
    @classmethod
    def _with_its_unit(cls, memory: str | None) -> str | None:
        if memory is not None and not re.fullmatch(r"[1-9][0-9]*[KMGT]", memory):
            raise ValueError("must be a whole number and its unit, such as 32G")
        return memory

    @field_validator("setup", mode="before")
    @classmethod
    def _one_line(cls, setup: object) -> object:
        """One line need not be a list."""
        return [setup] if isinstance(setup, str) else setup

    @field_validator("options")
    @classmethod
    def _not_ours(cls, options: dict[str, bool | int | str]) -> dict[str, bool | int | str]:
        for name, value in options.items():
            if not re.fullmatch(r"[a-z][a-z-]*", name):
                raise ValueError(f"{name!r} is no long name of an option, such as constraint")
            if name in OURS:
                raise ValueError(f"{name} has a setting of its own: {OURS[name]}")
            if name in FIXED:
                raise ValueError(f"{name} is set by dmlbench and cannot be changed")
            if value is False:
                raise ValueError(f"{name}: leave out a flag that is not wanted")
        return options


def slurm_settings(given: Sequence[str]) -> SlurmSettings:
    """Read what `--slurm` was given: YAML files and `KEY=VALUE` pairs, the later over the earlier.

    Raises:
        UserError: for a file or a value that is not valid, naming it, and where no time limit is stated.
    """
    content: dict[str, Any] = {}
    for text in given:
        if text.endswith((".yaml", ".yml")) and "=" not in text:
            path = path_of(text, "--slurm")
            if not path.is_file():
                raise UserError(f"--slurm {text}: no such file", hint="for example --slurm time=4:00:00")
            own = read_yaml(path)
            validate(SlurmSettings, {"time": 1} | own, str(path))
        else:
            own = _pair(text)
            validate(SlurmSettings, {"time": 1} | own, f"--slurm {text}")
        options = content.get("options", {}) | own.get("options", {})
        content |= own | ({"options": options} if options else {})
    if "time" not in content:
        hint = "for example --slurm time=4:00:00, or `time: 240` (minutes) in its file"
        raise UserError("--slurm: a time limit is needed", hint=hint)
    return validate(SlurmSettings, content, "--slurm")


def _pair(text: str) -> dict[str, Any]:
    key, equals, value = text.partition("=")
    key, value = key.strip(), value.strip()
    if not equals or not key or not value:
        raise UserError(f"--slurm {text!r}: must be a YAML file or KEY=VALUE", hint="for example --slurm partition=gpu")
    section, dot, name = key.partition(".")
    typed: object = value
    if section not in TEXTS:
        typed = int(value) if value.isdigit() else value == "true" if value in ("true", "false") else value
    return {section: {name: typed}} if dot else {key: typed}
