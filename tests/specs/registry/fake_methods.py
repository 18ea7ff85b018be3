"""Method files of a user, and the registry's answers to them."""

from pathlib import Path

import pytest

from dmlbench.errors import UserError
from dmlbench.specs.registry import MethodSettings, Registry, own_folder

PINNED = """\
name: ms+psd
title: A composition with values of its own
kind: pinned
loss:
  epsilon: {value: 0.05, source: pinned}
distillation:
  lambda: {value: 10, source: pinned}
  tau: {value: 2, source: pinned}
"""
PLUGIN = """\
name: pull
title: Pull
kind: loss
class: Pull
plugin: pull.py
paper: {title: none, authors: nobody, venue: nowhere}
parameters:
  strength: {value: 2, source: a test}
learning_rates:
  weight: {value: 0.1, source: a test}
"""


def shipped(name: str) -> str:
    return (own_folder() / f"{name}.yaml").read_text()


def resolve(name: str, methods_dir: Path | None = None, dataset="glyphs", protocol="conv4-64", **settings):
    return Registry(methods_dir).resolve(name, dataset, protocol, MethodSettings(**settings))


def refusal(name: str, methods_dir: Path | None = None, **settings) -> str:
    with pytest.raises(UserError) as caught:
        resolve(name, methods_dir, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)
