import os
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest

from dmlbench.reporting.processes import mapping


def test_several_processes_map_in_order():
    with mapping(2) as each:
        assert list(each(abs, [-1, -2, -3])) == [1, 2, 3]
        assert next(each(_process, [None])) != os.getpid()


def test_the_process_itself_takes_part():
    with mapping(2) as each:
        found = list(each(_process, range(8)))
    assert found[0] != os.getpid()
    assert found[-1] == os.getpid()


def test_a_process_that_dies_is_an_error():
    with mapping(2) as each, pytest.raises(BrokenProcessPool):
        list(each(_die_elsewhere, [os.getpid()] * 8))


def test_one_worker_is_the_process_itself():
    with mapping(1) as each:
        assert next(each(_process, [None])) == os.getpid()


def test_what_fails_in_a_process_is_told_as_in_the_callers_own(tmp_path):
    with mapping(2) as each, pytest.raises(FileNotFoundError) as caught:
        list(each(Path.read_text, [tmp_path / "absent"]))
    assert caught.value.strerror == "No such file or directory"


def _process(_: None) -> int:
    return os.getpid()


def _die_elsewhere(here: int) -> None:
    if os.getpid() != here:
        os._exit(1)
