"""Runs at the start of every Python process on the null GPU, also of the workers that a command starts."""

import os
import sys
from pathlib import Path

if os.environ.get("DMLBENCH_NULL_GPU"):
    sys.path.append(str(Path(__file__).parents[2]))
    from nullgpu import kernels

    kernels.install()
    if os.environ["DMLBENCH_NULL_GPU"] == "values":
        from nullgpu import values

        values.install()
