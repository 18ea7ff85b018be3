import dataclasses

import pytest

from dmlbench.specs.registry import TRANSFERRED, UNTUNED, MethodSettings, Registry, searched_mark
from tests.specs.registry.fake_methods import refusal, resolve

MODIFIER = """\
name: soft
title: Soft
kind: distillation
class: psd
paper: {title: none, authors: nobody, venue: nowhere}
parameters:
  lambda: {value: 5, source: a test}
  tau: {value: 1, source: a test, overrides: [OVERRIDES]}
"""


def test_settings_replace_values_and_say_so():
    method = resolve("ms+psd", loss={"alpha": 3}, distillation={"lambda": 0, "tau": 0.5})
    assert method.loss.values()["alpha"] == 3.0
    assert method.loss.parameters["alpha"].source == "--set on the command line"
    assert method.loss.parameters["beta"].source != "--set on the command line"
    assert method.distillation.values() == {"lambda": 0.0, "tau": 0.5}
    assert method.marks == (UNTUNED, TRANSFERRED.format("resnet50-128"))  # nobody published the user's values


def test_settings_of_another_method_are_passed_over():
    assert resolve("ms", loss={"margin": 0.1}, distillation={"lambda": 1}) == resolve("ms")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss": {"alpha": -1}}, "--set loss: parameters: alpha: must be above 0, not -1"),
        ({"loss": {"alpha": "high"}}, "--set loss: parameters: alpha: must be a number"),
        ({"loss": {"alpha": [1]}}, "--set loss.alpha: value: must be a finite number, a text, true or false, not [1]"),
        (
            {"loss": {"alpha": None}},
            "--set loss.alpha: value: must be a finite number, a text, true or false, not None",
        ),
        ({"distillation": {"tau": float("inf")}}, "--set distillation.tau: value: must be a finite number"),
        ({"distillation": {"omega": 1}}, "--set distillation: parameters: omega: must be below 1, not 1"),
    ],
)
def test_settings_out_of_range_name_the_command_line(settings, message):
    assert refusal("ms+obdsd", **settings).startswith(message)


@pytest.mark.parametrize(
    ("overrides", "value"),
    [
        ("", 1.0),
        ("{when: {dataset: glyphs}, value: 2, source: s}", 2.0),
        ("{when: {dataset: glyphs}, value: 2, source: s}, {when: {dataset: cub}, value: 3, source: s}", 2.0),
        ("{when: {dataset: glyphs, base: ms}, value: 4, source: s}, {when: {dataset: glyphs}, value: 2, source: s}", 4),
        ("{when: {dataset: glyphs, base: triplet}, value: 4, source: s}", 1.0),
        ("{when: {}, value: 5, source: s}, {when: {protocol: conv4-64}, value: 6, source: s}", 6.0),
    ],
)
def test_the_most_specific_override_wins(mine, overrides, value):
    (mine / "soft.yaml").write_text(MODIFIER.replace("OVERRIDES", overrides))
    assert resolve("ms+soft", mine).distillation.values()["tau"] == value


def test_overrides_that_apply_equally_are_an_error(mine):
    two = "{when: {dataset: glyphs}, value: 2, source: s}, {when: {base: ms}, value: 3, source: s}"
    (mine / "soft.yaml").write_text(MODIFIER.replace("OVERRIDES", two))
    text = refusal("ms+soft", mine)
    assert text.startswith(f"{mine / 'soft.yaml'}: tau: two overrides apply equally")
    assert resolve("triplet+soft", mine).distillation.values()["tau"] == 2.0


def test_an_overrides_value_is_checked_where_it_applies(mine):
    (mine / "soft.yaml").write_text(MODIFIER.replace("OVERRIDES", "{when: {dataset: cub}, value: -1, source: s}"))
    assert resolve("ms+soft", mine).distillation.values()["tau"] == 1.0
    assert f"{mine / 'soft.yaml'}: parameters: tau: " in refusal("ms+soft", mine, dataset="cub")


@pytest.mark.parametrize(
    ("name", "mode", "message"),
    [
        ("ms+psd", "evl", "--set distillation.teacher_mode: unknown mode 'evl'; valid: train, eval"),
        ("ms+psd", True, "--set distillation.teacher_mode: unknown mode True; valid: train, eval"),
    ],
)
def test_an_unknown_teacher_mode(name, mode, message):
    assert refusal(name, distillation={"teacher_mode": mode}) == message


def test_a_file_may_set_its_teachers_mode(mine):
    text = MODIFIER.replace("OVERRIDES", "")
    (mine / "soft.yaml").write_text(f"{text}teacher_mode: eval\n")
    assert resolve("ms+soft", mine).distillation.teacher_mode == "eval"
    (mine / "soft.yaml").write_text(f"{text}teacher: memory\nteacher_mode: eval\n")
    assert "teacher_mode has no effect" in refusal("ms+soft", mine)


def test_settings_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        MethodSettings().loss = {}


def test_tuned_values_have_their_own_source_and_mark():
    method = Registry().resolve(
        "ms+psd",
        "glyphs",
        "conv4-64",
        MethodSettings({"alpha": 3}, {"lambda": 2}, "found", tuned=8, mark=searched_mark(8, 4)),
    )
    assert method.marks == (searched_mark(8, 4),)
    assert method.tuned == 8
    parameters = method.loss.parameters | method.distillation.parameters
    assert {name for name, value in parameters.items() if value.source == "found"} == {"alpha", "lambda"}
    assert not parameters["alpha"].published
    assert not parameters["alpha"].transferred_from
    assert parameters["beta"].transferred_from == ("resnet50-128", "resnet50-512")


def test_values_from_outside_the_files_are_published_only_where_they_equal_what_was():
    official = Registry().resolve("ms+obdsd", "cub", "resnet50-128")
    value = official.distillation.parameters["lambda"].value
    for given, published in ((value, True), (value / 2, False)):
        method = Registry().resolve("ms+obdsd", "cub", "resnet50-128", MethodSettings({}, {"lambda": given}, "mine"))
        assert method.distillation.parameters["lambda"].published is published
        assert (UNTUNED in method.marks) is not published


def test_the_files_value_once_more_is_no_other_experiment():
    plain = resolve("ms+psd")
    assert resolve("ms+psd", loss={"alpha": 2}, distillation={"tau": 1}) == plain
    assert resolve("ms+psd", loss={"alpha": 2.5}) != plain
    tuned = resolve("ms", loss={"alpha": 2}, tuned=3)
    assert tuned.loss.parameters["alpha"].source == "--set on the command line"
