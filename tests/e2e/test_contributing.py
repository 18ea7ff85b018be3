"""The worked examples of CONTRIBUTING.md: its files are written and its commands run, word for word."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.e2e.conftest import TINY, Command, metric_columns

TEXT = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text(encoding="utf-8")
EXAMPLES = ("A protocol", "A dataset")
# A name in backticks in the paragraph before a block is that of its file.
FILE = re.compile(r"`([\w./-]+\.(?:yaml|py))`[^`]*?:\n\n```(?:yaml|python)\n(.*?)```", re.DOTALL)
COMMANDS = re.compile(r"```sh\n(.*?)```", re.DOTALL)


def section(heading: str) -> str:
    return TEXT.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]


@pytest.mark.slow
@pytest.mark.parametrize("heading", EXAMPLES)
def test_a_worked_example_works(heading: str, dmlbench: Command, tmp_path: Path) -> None:
    files = FILE.findall(section(heading))
    assert files
    for name, content in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content, encoding="utf-8")
    if heading == "A dataset":
        draw(tmp_path / "leaves")
    commands = [
        shlex.split(line, comments=True) for block in COMMANDS.findall(section(heading)) for line in block.splitlines()
    ]
    assert any(command[1] == "run" for command in commands)
    for program, *command in commands:
        assert program == "dmlbench"
        done = dmlbench(*command, *(("--tracking", "none", *TINY) if command[0] == "run" else ()))
        assert done.returncode == 0, done.stdout + done.stderr
    found = metric_columns(tmp_path / "results" / "runs")
    assert {key.split("/")[1] for key in found} == {"ms"}


def draw(root: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("ash", "birch", "cedar", "dogwood"):
        (root / name).mkdir(parents=True)
        for number in range(8):
            Image.fromarray(rng.integers(0, 256, (20, 20, 3), dtype=np.uint8)).save(root / name / f"{number}.png")
