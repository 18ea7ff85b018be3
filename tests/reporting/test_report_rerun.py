"""The commands of a report make its results again, and tell nothing of who made them."""

import dataclasses

import pytest

from dmlbench.reporting.sources import commands, for_readers, read_specs
from dmlbench.results.frames import load_results
from tests.reporting.fake_results import make_cell, write_cell


def test_weights_of_the_users_own_are_named_with_their_content(tmp_path):
    cell = make_cell("ms", 0)
    model = cell.protocol.model.model_copy(update={"weights": "/home/alice/own.pth", "weights_sha256": "ab" * 32})
    write_cell(tmp_path, dataclasses.replace(cell, protocol=cell.protocol.model_copy(update={"model": model})))
    arranged = load_results(tmp_path)
    found = commands(arranged, read_specs(arranged), ())
    assert found[0].startswith("dmlbench run --methods ms ")
    note = "# own.pth: your copy of the pretrained weights, by this name in the folder where this runs; SHA-256 "
    assert found[1:] == [note + "ab" * 32]


@pytest.mark.parametrize("place", ["--results ../mine", "--results=../mine", "--results 'a b'"])
def test_a_results_folder_is_left_out(place):
    assert for_readers(f"dmlbench overhead {place} --methods ms") == "dmlbench overhead --methods ms"
