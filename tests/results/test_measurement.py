import json
import re
from dataclasses import replace

import pytest

from dmlbench.errors import UserError
from dmlbench.results.measurements import (
    FOLDER,
    read_measurements,
    write_measurement,
)
from dmlbench.results.records import Environment
from tests.fake_measurements import make_measurement


def test_what_is_written_is_read_back(tmp_path):
    measurement = make_measurement(variant="training.autocast=bfloat16")
    path = write_measurement(tmp_path, measurement)
    assert path.parent == tmp_path / FOLDER
    assert re.fullmatch(r"conv4-64_synthetic_fast-co_20260102030405_[0-9a-f]{6}\.json", path.name)
    (back,) = read_measurements([tmp_path])
    assert replace(back, methods={}) == replace(measurement, methods={})
    for name, method in measurement.methods.items():
        assert back.methods[name].step_ms == pytest.approx(method.step_ms, abs=1e-4)
        assert back.methods[name].marks == method.marks
        assert back.methods[name].phases_ms.keys() == method.phases_ms.keys()


def test_measurements_of_one_second_do_not_meet(tmp_path):
    others = ({}, {"variant": "training.batch_size=8"}, {"environment": Environment(machine="other", cpu="Fast & Co")})
    assert len({write_measurement(tmp_path, make_measurement(**changes)) for changes in others}) == 3


def test_the_oldest_comes_first(tmp_path):
    for day in ("2026-03-01", "2026-01-01", "2026-02-01"):
        write_measurement(tmp_path, make_measurement(started=f"{day}T00:00:00+00:00"))
    assert [one.started[:7] for one in read_measurements([tmp_path])] == ["2026-01", "2026-02", "2026-03"]


def test_a_folder_without_measurements_has_none(tmp_path):
    assert read_measurements([tmp_path]) == []
    assert read_measurements([tmp_path / "absent"]) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: "{" + content, "not a readable measurement"),
        (lambda content: content.replace('"version": 2', '"version": 3'), "measurement version 3 is not known here"),
        (lambda content: content.replace('"epochs"', '"epoch"'), "not a readable measurement"),
        (lambda content: content.replace('"rounds": 20', '"rounds": 21'), "not a time for each of 1 x 21 rounds"),
        (lambda content: json.dumps([1]), "measurement version None is not known here"),
        (lambda content: content.replace("2026-01-02T", "yesterday "), "not a readable measurement"),
        (lambda content: content.replace('"base": "ms"', '"base": "triplet"'), "ms without its base triplet"),
        (lambda content: re.sub(r'"gflop": [0-9.]+', '"gflop": 0', content), "not positive"),
        (lambda content: re.sub(r'"gflop": [0-9.]+', '"gflop": "many"', content), "not a readable measurement"),
        (lambda content: re.sub(r'"environment": \{[^}]*\}', '"environment": null', content), "environment: "),
        (lambda content: re.sub(r'"methods": \{.*\}', '"methods": {}}', content, flags=re.DOTALL), "or methods"),
        (lambda content: re.sub(r'("teacher": \[)\s*[0-9.]+,', r"\1", content, count=1), "a time for each"),
    ],
)
def test_a_damaged_file_is_one_line(tmp_path, change, message):
    path = write_measurement(tmp_path, make_measurement())
    path.write_text(change(path.read_text()))
    other = write_measurement(tmp_path, make_measurement(started="2026-02-02T03:04:05+00:00"))
    found = []
    assert len(read_measurements([tmp_path], found.append)) == 1
    assert [one.path for one in found] == [path]
    assert message in found[0].reason
    assert str(path) in found[0].reason
    assert "`dmlbench overhead` measures again" in found[0].reason
    assert "\n" not in found[0].reason
    assert other.is_file()


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / FOLDER).touch()
    with pytest.raises(UserError, match="cannot be written"):
        write_measurement(tmp_path, make_measurement())
