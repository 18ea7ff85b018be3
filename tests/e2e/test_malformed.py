"""Whatever comes from outside: one line with the option's or the file's name, exit code 2, nothing half-written."""

import errno
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from dmlbench.cli.main import COMMANDS, dmlbench
from dmlbench.cli.options import Command as OwnCommand
from dmlbench.results.writer import spec_text
from dmlbench.specs.cell import Cell
from tests.e2e.conftest import Command

RUN = ("run", "--methods", "ms", "--datasets", "glyphs", "--tracking", "none", "--dry-run")
PAGE, LONG, DIGITS, DEEP = "n" * 6000, "n" * 300, "9" * 6000, "[" * 5000
METHOD = """\
name: mine
title: Mine
kind: loss
class: Mine
plugin: mine.py
paper: null
parameters: {scale: {value: 1.0, source: mine}}
"""
LOSS = """\
import sys
from torch import nn

class Mine(nn.Module):
    def __init__(self, scale):
        super().__init__()
        BUILT

    def forward(self, embeddings, labels, generator=None):
        STEP
        return embeddings.sum() * 0.1
"""
COMMAND_LINES = {
    "--protocol": (*RUN, "--protocol", LONG),
    "--protocol ": (*RUN, "--protocol", f"{LONG}.yaml"),
    "--data-dir": (*RUN, "--data-dir", LONG),
    "--methods-dir": (*RUN, "--methods-dir", LONG),
    "--results": (*RUN, "--results", LONG),
    "--output": ("report", "--output", LONG),
    "--name": ("report", "--results", ".", "--name", LONG),
    "CELL": ("evaluate", LONG),
    "FILES": ("validate", LONG),
    "--datasets birds": ("run", "--methods", "ms", "--datasets", f"birds={LONG}"),
    "--datasets birds ": ("run", "--methods", "ms", "--datasets", "birds=~nosuchuser/x"),
    "--datasets": ("run", "--methods", "ms", "--datasets", PAGE),
    "--datasets ": ("run", "--methods", "ms", "--datasets", f"{'n' * 150}=."),
    "NAME birds": ("data", "check", "birds=~nosuchuser/x"),
    "NAME": ("data", "info", LONG),
    "--dataset cars": ("overhead", "--methods", "ms", "--dataset", "cars=."),
    "unknown method": ("run", "--methods", PAGE, "--datasets", "glyphs"),
    "'--seeds'": (*RUN, "--seeds", "999999999999"),
    "'--seed'": (*RUN, "--seed", str(2**63)),
    "'--workers'": (*RUN, "--workers", "999999999999"),
    "'--epochs'": ("tune", "--methods", "ms", "--datasets", "glyphs", "--epochs", "999999999999"),
}
VALUES = (
    "true", "'1e9'", "1e300", DIGITS, DIGITS[:3000], "2026-13-45", "!!int x", "!!bool x", "!!timestamp 2026-99-99",
    DEEP, "&a [*a]", "{a: 1}", "[1", "yes", "010", "1:30", ".nan", ".inf", "\"\\x1b[31m\"", "\\\x1b", PAGE,
    "!!python/object/apply:os.system [ls]",
)  # fmt: skip
KEYS = (
    "training",
    "training.",
    "x=1",
    f"training.{PAGE}=1",
    "model.kwargs.a.b=1",
    "model." + "a." * 3000 + "a=1",
    PAGE,
)
FILES = (
    f"name: {DIGITS}", f"name: {DIGITS[:3000]}", "name: !!int x", "name: !!timestamp 2026-99-99", f"name: {DEEP}",
    "name: &a [*a]", "name: \0", "? [1]\n: 2", "\"\\e[31m\": 1", f"name: {PAGE}", f"{PAGE}: 1", "- name",
    "a: {b: " * 200,
)  # fmt: skip


def _refused(done: subprocess.CompletedProcess[str], needle: str) -> None:
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.rstrip("\n").isprintable()
    assert len(done.stderr) < 2500
    assert needle.strip() in done.stderr


@pytest.mark.parametrize("name", COMMAND_LINES)
def test_on_the_command_line(name: str, dmlbench: Command, tmp_path: Path) -> None:
    _refused(dmlbench(*COMMAND_LINES[name]), name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", VALUES)
def test_as_a_value(value: str, dmlbench: Command, tmp_path: Path) -> None:
    _refused(dmlbench(*RUN, "--set", f"training.epochs={value}"), "training.epochs")
    if value != "1e300":
        _refused(dmlbench(*RUN, "--set", f"loss.alpha={value}"), "loss")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("key", KEYS)
def test_as_a_key(key: str, dmlbench: Command) -> None:
    _refused(dmlbench(*RUN, "--set", key), "--set")


@pytest.mark.parametrize("text", FILES)
def test_in_a_file(text: str, dmlbench: Command, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text(text)
    _refused(dmlbench("validate", "bad.yaml"), "bad.yaml: ")
    _refused(dmlbench(*RUN, "--protocol", "bad.yaml"), "bad.yaml: ")
    _refused(dmlbench("data", "check", "bad.yaml"), "bad.yaml: ")
    (tmp_path / "results/runs/tuning").mkdir(parents=True)
    (tmp_path / "results/runs/tuning/tuned.yaml").write_text(text)
    _refused(dmlbench(*RUN, "--tuned"), "tuned.yaml: ")


@pytest.mark.parametrize("root", [LONG, "~nosuchuser/x", '"a\\0b"'])
def test_as_a_datasets_root(root: str, dmlbench: Command, tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(f"name: own\nroot: {root}\n")
    _refused(dmlbench("data", "check", "own.yaml"), "own")


@pytest.mark.parametrize(
    ("text", "needle"),
    [
        (
            LOSS.replace("BUILT", "sys.exit(0)").replace("STEP", ""),
            "mine: Mine with {'scale': 1.0} raises SystemExit: 0",
        ),
        (
            LOSS.replace("BUILT", f"raise RuntimeError('a\\n' + {PAGE!r})").replace("STEP", ""),
            "raises RuntimeError: a nn",
        ),
        (
            LOSS.replace("BUILT", "pass").replace("STEP", "sys.exit(3)"),
            "a training step failed (SystemExit: 3 (own/mine.py line 10))",
        ),
        ("raise SystemExit(0)", "mine.py: plugin: SystemExit: 0"),
        ("Mine = 3", "mine.py: class: 'Mine' is no class but of type int"),
        ("from helper import Mine", "mine.py: plugin: ImportError: cannot import name 'Mine' from 'helper'"),
        ("\0", "mine.py: plugin: "),
        ("def (", "mine.py: plugin: SyntaxError"),
    ],
)
def test_in_a_plugin(text: str, needle: str, dmlbench: Command, tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "helper.py").touch()
    (tmp_path / "own" / "mine.py").write_text(text)
    (tmp_path / "own" / "mine.yaml").write_text(METHOD)
    _refused(dmlbench("validate", "own/mine.yaml"), needle)


def test_a_folder_is_validated_file_by_file(dmlbench: Command, tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    _refused(dmlbench("validate", "own"), "own: a folder without method files")
    (tmp_path / "own" / "bad.yaml").write_text("name: bad\n")
    (tmp_path / "own" / "mine.py").write_text(LOSS.replace("BUILT", "self.a = nn.Linear(2, 2)").replace("STEP", ""))
    (tmp_path / "own" / "mine.yaml").write_text(METHOD)
    done = dmlbench("validate", "own")
    assert done.returncode == 2
    assert done.stderr.startswith("error: own/bad.yaml: ")
    assert "own/mine.yaml: valid; a step of mine gives loss" in done.stdout
    assert done.stdout.endswith(
        "; learned at the network's rate, for learning_rates gives no other: a.weight, a.bias\n"
    )
    (tmp_path / "own" / "bad.yaml").unlink()
    assert dmlbench("validate", "own").returncode == 0


def _commands() -> dict[str, click.Command]:
    context = click.Context(dmlbench)
    found = {name: dmlbench.get_command(context, name) for name in COMMANDS}
    groups = {name: command for name, command in found.items() if isinstance(command, click.Group)}
    inner = {f"{name} {own}": command for name, group in groups.items() for own, command in group.commands.items()}
    return {name: command for name, command in (found | inner).items() if name not in groups}


@pytest.mark.parametrize("name", _commands())
def test_an_option_is_given_once_and_not_empty(name: str, dmlbench: Command) -> None:
    command = _commands()[name]
    assert isinstance(command, OwnCommand)
    for option in command.params:
        if not isinstance(option, click.Option):
            continue
        label = option.opts[0]
        once = (label,) if option.is_flag else (label, "1")
        if not option.multiple:
            _refused(dmlbench(*name.split(), *once, *once), f"{label}: is given 2 times, and takes one value")
        if not option.is_flag:
            _refused(dmlbench(*name.split(), label, ""), f"{label}: is empty")


def test_evaluate_names_its_own_option(dmlbench: Command, tmp_path: Path, make_cell: Callable[..., Cell]) -> None:
    (tmp_path / "spec.yaml").write_text(spec_text(make_cell()))
    (tmp_path / "weights.safetensors").touch()
    _refused(dmlbench("evaluate", ".", "--dataset", "cars=."), "--dataset cars=.: 'cars' is a dataset of the catalogue")


@pytest.mark.parametrize(("number", "code"), [(errno.ENAMETOOLONG, 2), (errno.EACCES, 1)])
def test_what_the_system_refuses_is_one_line_wherever_it_is_met(
    number: int, code: int, dmlbench: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number), "some\x1b\n/place")

    monkeypatch.setattr("dmlbench.specs.registry.search_path", refuse)
    done = dmlbench("list", "methods")
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr == f"error: some\\x1b /place: {os.strerror(number)}\n"
