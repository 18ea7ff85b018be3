"""What SLURM is asked for: a YAML file and `KEY=VALUE` pairs, read as one set of settings."""

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Self

from annotated_types import Ge, Le
from pydantic import Field, field_validator, model_validator

from dmlbench.errors import UserError
from dmlbench.specs.dataset import Section
from dmlbench.specs.yaml_files import path_of, read_yaml, validate

MOST_MINUTES = 525_600  # a year
EARLY = 60  # SLURM sends the signal before the time limit up to so many seconds early
LEAST_STOP = 10  # seconds
CORES_A_GPU = 8  # where `cpus` is not given: one core trains, the others load images
CLOCKS = (  # sbatch's own forms
    re.compile(r"(?P<minutes>[0-9]+)(?::(?P<seconds>[0-9]{1,2}))?"),
    re.compile(r"(?P<hours>[0-9]+):(?P<minutes>[0-9]{1,2}):(?P<seconds>[0-9]{1,2})"),
    re.compile(r"(?P<days>[0-9]+)-(?P<hours>[0-9]{1,2})(?::(?P<minutes>[0-9]{1,2})(?::(?P<seconds>[0-9]{1,2}))?)?"),
)
UNITS = {"days": 1440 * 60, "hours": 3600, "minutes": 60, "seconds": 1}
MOST = {"hours": 23, "minutes": 59, "seconds": 59}  # of a unit that is not the first
FORMS = "minutes, MM:SS, HH:MM:SS, D-HH, D-HH:MM or D-HH:MM:SS, as for sbatch"
LINE = r"^[^\n\r]+$"
Line = Annotated[str, Field(pattern=LINE, max_length=1000)]
# Options of sbatch that are written from the settings, or that submitting and the jobs rely on.
OURS = {
    "account": "account", "array": "jobs_at_a_time", "cpus-per-gpu": "cpus", "cpus-per-task": "cpus", "gres": "gres",
    "mem": "memory", "partition": "partition", "qos": "qos", "signal": "stop_before", "time": "time",
}  # fmt: skip
FIXED = (
    "chdir", "error", "nodes", "no-requeue", "ntasks", "ntasks-per-gpu", "ntasks-per-node", "open-mode", "output",
    "parsable", "quiet", "requeue", "test-only", "wait", "wrap",
)  # fmt: skip
RELIED_ON = {
    "cluster": "jobs of another cluster cannot be followed from this one: submit them on its login node",
    "clusters": "jobs of another cluster cannot be followed from this one: submit them on its login node",
    "export": "jobs need the environment of the login node; set variables by setup: export NAME=VALUE",
    "export-file": "jobs need the environment of the login node; set variables by setup: export NAME=VALUE",
}
TEXTS = ("partition", "account", "qos", "gres", "memory", "setup")
GPU_OPTIONS = ("gpus", "gpus-per-node", "gpus-per-task")
GPUS = re.compile(r"(?:gres[:/])?gpu(?::[A-Za-z_][^:,()]*)?(?:[:=]([0-9]+))?(?:\([^)]*\))?")  # gpu, gpu:2, gpu:a100:2


class SlurmSettings(Section):
    """What a job asks SLURM for, and how cells are divided among jobs.

    Attributes:
        time: The time limit of a job in minutes; as a text in any of sbatch's forms, such as `HH:MM:SS`.
        partition: The partition; None for the cluster's default, as for the next two.
        account: The account that is charged.
        qos: The quality of service.
        gres: Generic resources, such as `gpu:1`.
        memory: Memory of a job, such as `32G`.
        cpus: Processor cores of a job; None for eight a GPU, and one without GPUs.
        setup: Lines of shell that a job runs first, such as `module load cuda`.
        options: Further options of sbatch by their long names, such as `constraint: a100`; true for a bare flag.
        cells_per_job: Cells that one job runs, as many at a time as its GPUs or cores hold.
        jobs_at_a_time: The most jobs of a submission that run at the same time; None for no limit but SLURM's own.
        stop_before: Seconds before the time limit at which a job is told to end: it finishes the epoch and is queued
            again.
    """

    time: Annotated[int, Ge(2), Le(MOST_MINUTES)]
    partition: Line | None = None
    account: Line | None = None
    qos: Line | None = None
    gres: Line | None = None
    memory: str | None = None
    cpus: Annotated[int, Ge(1), Le(4096)] | None = None
    setup: tuple[Line, ...] = ()
    options: dict[str, bool | int | Line] = Field(default_factory=dict)
    cells_per_job: Annotated[int, Ge(1), Le(10_000)] = 1
    jobs_at_a_time: Annotated[int, Ge(1), Le(100_000)] | None = None
    stop_before: Annotated[int, Ge(LEAST_STOP), Le(3600)] = 120

    @field_validator("time", mode="before")
    @classmethod
    def _minutes(cls, time: object) -> object:
        """`4:00:00` is 240, and seconds count as a whole minute, as SLURM has it."""
        if not isinstance(time, str):
            return time
        found = next((match for form in CLOCKS if (match := form.fullmatch(time))), None)
        parts = {unit: int(part) for unit, part in found.groupdict().items() if part is not None} if found else {}
        later = sorted(parts, key=list(UNITS).index)[1:]
        if not parts or len(time) > len("1000000-00:00:00") or any(parts[unit] > MOST[unit] for unit in later):
            raise ValueError(f"must be {FORMS}")
        return -(-sum(UNITS[unit] * part for unit, part in parts.items()) // 60)

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
            if not re.fullmatch(r"[a-z][a-z-]+", name):
                raise ValueError(f"{name!r} is no long name of an option, such as constraint")
            if name in OURS:
                raise ValueError(f"{name} has a setting of its own: {OURS[name]}")
            if name in RELIED_ON:
                raise ValueError(f"{name}: {RELIED_ON[name]}")
            if name in FIXED:
                raise ValueError(f"{name} is set by dmlbench and cannot be changed")
            if meant := [own for own in (*OURS, *FIXED, *RELIED_ON) if own.startswith(name)]:
                raise ValueError(f"{name}: sbatch takes it for {meant[0]}; write the whole name")
            if value is False:
                raise ValueError(f"{name}: leave out a flag that is not wanted")
        return options

    @model_validator(mode="after")
    def _go_together(self) -> Self:
        if 60 * self.time <= self.stop_before + EARLY:
            least = (self.stop_before + EARLY) // 60 + 1
            raise ValueError(
                f"time: {self.time} min leave no room for stop_before ({self.stop_before} s) and the {EARLY} s that "
                f"SLURM may signal early; give at least {least} min, or a lower stop_before"
            )
        if self.memory and (twice := next((own for own in ("mem-per-cpu", "mem-per-gpu") if own in self.options), "")):
            raise ValueError(f"options.{twice} and memory exclude each other; leave out one")
        return self

    @property
    def gpus(self) -> int:
        """GPUs that are asked for in a job; 0 where none are named, which some partitions give all the same."""
        named = [self.gres or "", *(f"gpu:{self.options[own]}" for own in GPU_OPTIONS if own in self.options)]
        found = [GPUS.fullmatch(part.strip()) for text in named for part in text.split(",")]
        return max((int(match[1] or 1) for match in found if match), default=0)

    @property
    def cores(self) -> int:
        """Processor cores that a job asks for."""
        return self.cpus or max(1, CORES_A_GPU * self.gpus)


ALONE = {"time": MOST_MINUTES, "stop_before": LEAST_STOP}  # what goes together with any one setting


def slurm_settings(given: Sequence[str]) -> SlurmSettings:
    """Read what `--slurm` was given: YAML files and `KEY=VALUE` pairs. The later counts; lines of `setup` add up.

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
            validate(SlurmSettings, ALONE | own, str(path))
        else:
            own = _pair(text)
            validate(SlurmSettings, ALONE | own, f"--slurm {text}")
        options = content.get("options", {}) | own.get("options", {})
        setup = [*_lines(content), *_lines(own)]
        content |= own | ({"options": options} if options else {}) | ({"setup": setup} if setup else {})
    if "time" not in content:
        hint = "for example --slurm time=4:00:00, or `time: 240` (minutes) in its file"
        raise UserError("--slurm: a time limit is needed", hint=hint)
    return validate(SlurmSettings, content, "--slurm")


def _lines(content: Mapping[str, Any]) -> Sequence[str]:
    setup = content.get("setup", ())
    return [setup] if isinstance(setup, str) else setup


TYPED: Mapping[str, bool | int | str] = {"true": True, "false": False}


def _pair(text: str) -> dict[str, Any]:
    key, equals, value = text.partition("=")
    key, value = key.strip(), value.strip()
    if not equals or not key or not value:
        raise UserError(f"--slurm {text!r}: must be a YAML file or KEY=VALUE", hint="for example --slurm partition=gpu")
    section, dot, name = key.partition(".")
    typed = value if section in TEXTS else TYPED.get(value, value)
    if section not in TEXTS and re.fullmatch(r"[0-9]{1,18}", value):
        typed = int(value)
    return {section: {name: typed}} if dot else {key: typed}
