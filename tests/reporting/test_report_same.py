"""Results of one hash are one experiment, however their settings were typed."""

from dataclasses import replace

import pytest

from dmlbench.analysis.groups import groups
from dmlbench.reporting.naming import named
from dmlbench.reporting.page import render
from dmlbench.results.frames import load_results
from dmlbench.runner.matrix import Request, plan
from tests.reporting.fake_results import write_cell


@pytest.fixture(autouse=True)
def _alone(empty_folder):
    """No `./methods` but what a test puts there."""


def write(root, settings, seeds, typed=None, protocol="conv4-64"):
    """Results of a run with these settings; `typed` are those that an earlier release wrote down as they were typed."""
    for cell in plan(Request(("ms", "ms+psd"), ("glyphs",), tuple(seeds), protocol, settings)):
        own = [one for one in typed or () if cell.method.distillation or not one.startswith("distillation.")]
        write_cell(root, cell if typed is None else replace(cell, overrides=tuple(own)))


def shown(root):
    """Titles of the groups, and the methods' names with their seeds."""
    results = named(load_results(root))
    last = results[results["selection"] == "last"]
    return [group.title for group in groups(results)], last.groupby("name")["seed"].nunique().to_dict()


def both(seeds=6, base="ms", modified="ms+psd"):
    return {base: seeds, modified: seeds}


def test_a_setting_equal_to_the_default_is_no_other_group(tmp_path):
    write(tmp_path, (), range(3))
    write(tmp_path, ("training.epochs=12",), range(3, 6), typed=("training.epochs=12",))
    assert shown(tmp_path) == (["conv4-64 on glyphs"], both())
    text = (render(tmp_path, "r", tmp_path / "reports") / "report.md").read_text()
    assert text.count("## conv4-64 on glyphs\n") == 1
    assert "epochs=12" not in text
    assert "6 seeds each, paired" in text


@pytest.mark.parametrize("spellings", [("1e-2", "0.01"), ("1e-2", "1.0e-2"), ("0.01", "0.0100")])
def test_two_spellings_of_a_number_are_one_group(spellings, tmp_path):
    for place, value in enumerate(spellings):
        setting = (f"training.learning_rate={value}",)
        write(tmp_path, setting, range(3 * place, 3 * place + 3), typed=setting)
    assert shown(tmp_path) == (["conv4-64 on glyphs, training.learning_rate=0.01"], both())


@pytest.mark.parametrize("setting", ["loss.alpha=2", "loss.alpha=2.0", "distillation.tau=1.0"])
def test_a_method_whose_setting_is_the_default_is_the_plain_one(setting, tmp_path):
    write(tmp_path, (), range(2))
    write(tmp_path, (setting,), range(2, 6), typed=(setting,))
    assert shown(tmp_path) == (["conv4-64 on glyphs"], both())


def test_a_methods_setting_has_one_spelling(tmp_path):
    for place, value in enumerate(("3", "3.0")):
        write(tmp_path, (f"loss.alpha={value}",), [place], typed=(f"loss.alpha={value}",))
    assert shown(tmp_path) == (["conv4-64 on glyphs"], both(2, "ms{alpha=3}", "ms{alpha=3}+psd"))


def test_the_same_weights_are_one_experiment_by_any_path_and_name(tmp_path, monkeypatch):
    folders = [tmp_path / "here", tmp_path / "there"]
    for folder in folders:
        folder.mkdir()
        (folder / "other.safetensors").write_bytes(b"y")
    (folders[0] / "copy.safetensors").write_bytes(b"y")
    monkeypatch.chdir(folders[0])
    paths = ("other.safetensors", "../there/other.safetensors", f"{folders[1]}/other.safetensors", "copy.safetensors")
    for seed, path in enumerate(paths):
        setting = (f"model.weights={path}",)
        write(tmp_path / "runs", setting, [seed], typed=setting, protocol="mobilenetv1-112")
    digest = "a1fce436"  # of "y"
    title = f"mobilenetv1-112 on glyphs, model.weights=copy.safetensors (SHA-256 {digest})"
    assert shown(tmp_path / "runs") == ([title], both(4))
    (folders[1] / "other.safetensors").write_bytes(b"z")
    write(tmp_path / "runs", (f"model.weights={paths[2]}",), [4], protocol="mobilenetv1-112")
    assert len(shown(tmp_path / "runs")[0]) == 2  # the same name, and other weights
