"""Run the tests of this folder on a GPU that is not there: python tests/gpu/run.py [--values] [pytest's arguments].

Without --values kernels do nothing, and what reaches the GPU is counted; with it the CPU's kernels compute the values,
and launches of losses are counted beside those of pytorch-metric-learning's.
On a machine with a GPU, `pytest tests/gpu` runs what needs no counts on the real one.
"""

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
TESTS = (HERE, HERE.parent / "benchmarks" / "test_launches.py")
sys.path.insert(0, str(HERE))
from nullgpu import build  # noqa: E402


def environment(*, values: bool) -> dict[str, str]:
    """The variables under which Python sees the null GPU."""
    folder = build.build()
    found = {
        "LD_LIBRARY_PATH": str(folder),
        "LD_PRELOAD": str(folder / "libnullgpu.so"),
        "PYTHONPATH": str(HERE / "nullgpu" / "startup"),
    }
    joined = {name: ":".join([value, *filter(None, [os.environ.get(name)])]) for name, value in found.items()}
    return {**os.environ, **joined, "DMLBENCH_NULL_GPU": "values" if values else "kernels"}


def main() -> int:
    """Build the null GPU and run pytest on it."""
    if reason := build.missing():
        print(f"skipped: {reason}", file=sys.stderr)
        return 1
    arguments = [argument for argument in sys.argv[1:] if argument != "--values"]
    command = [sys.executable, "-m", "pytest", "-m", "not benchmark", *(arguments or map(str, TESTS))]
    return subprocess.run(command, env=environment(values="--values" in sys.argv), check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
