"""How a cell is run, as against what it is."""

from dataclasses import dataclass
from pathlib import Path

MOST_DATA_WORKERS = 8  # decode faster than a GPU trains


@dataclass(frozen=True)
class Share:
    """What each cell takes of the machines: CPU threads, a part of a GPU, loader processes.

    `workers` is the most cells at a time. None leaves a number to the machine.
    """

    threads: int = 1
    per_gpu: int = 1
    workers: int | None = None
    data_workers: int | None = None


@dataclass(frozen=True)
class RunOptions:
    """How a cell is run. It names no other experiment, so it stays out of the hash.

    The device alone can change digits (another generator, other kernels): results record it, and two results of
    different kinds of device are not paired.
    """

    data_dir: Path | None = None
    device: str = "auto"
    data_workers: int = 0
    keep: tuple[str, ...] = ()
    processes: int = 1
    system_metrics: bool = False

    def machine_load(self) -> dict[str, int]:
        """What shares the machine with the cell, for its result: times under different loads do not compare."""
        load = {"processes": self.processes, "data_workers": self.data_workers}
        return load | ({"system_metrics": 1} if self.system_metrics else {})
