import dataclasses
import itertools
import re
from pathlib import Path

import pandas as pd
import pytest

from dmlbench.errors import UserError
from dmlbench.reporting.page import render
from dmlbench.specs.registry import REPLACED, searched_mark
from dmlbench.specs.tuned import Finalist, Margin, Tuned, default_path, identity_of, write_tuned
from tests.reporting.fake_results import make_cell, named_otherwise, write_cell, write_failure
from tests.reporting.rendered import Page

ROOT = Path(__file__).parents[2]

HOSTILE = 'ms"><script>alert(1)<script>$x$ {{7*7}} _%&|'  # a folder's name, too


def test_only_failures(tmp_path):
    write_failure(tmp_path / "runs", make_cell("ms", 0))
    folder = render(tmp_path / "runs", "r", tmp_path / "reports")
    Page((folder / "index.html").read_text())
    text = (folder / "report.md").read_text()
    assert "0 finished cells" in text
    assert "failed: ms, seed 0, conv4-64 on glyphs: loss is nan at epoch 3, step 7" in text
    assert list((folder / "figures").iterdir()) == []


def test_one_cell_alone(tmp_path):
    write_cell(tmp_path / "runs", make_cell("ms", 0))
    folder = render(tmp_path / "runs", "r", tmp_path / "reports")
    text = (folder / "report.md").read_text()
    assert "nothing can be concluded from: ms (1)" in text
    assert "Difference to the base" not in text
    Page((folder / "index.html").read_text())


def test_hostile_method_names_stay_names(tmp_path):
    for seed in range(2):
        write_cell(tmp_path / "runs", named_otherwise(make_cell("ms", seed), HOSTILE))
    report = render(tmp_path / "runs", "r", tmp_path / "reports")
    page = Page((report / "index.html").read_text())
    assert page.tags.count("script") == 1  # our own, which holds no name
    assert any(HOSTILE in word for word in page.words)
    text = re.sub(r"```sh\n.*?```", "", (report / "report.md").read_text(), flags=re.DOTALL)  # code as it is typed
    assert "<script>" not in text.replace(r"\<script\>", "")
    (table,) = [path.read_text() for path in (report / "tables").glob("accuracy_*_last.tex")]
    assert r"\$x\$ \{\{7*7\}\} \_\%\&" in table.replace(r"\allowbreak{}", "")


def test_cells_of_releases_that_mark_differently_are_one_method(tmp_path):
    """An older base has no mark of where its values come from; the hash is the same, and so is the row."""
    for seed in range(3):
        cell = make_cell("ms", seed)
        write_cell(tmp_path, cell, cell=cell.index() | {"marks": [["transferred from x"], [], ["new: y"]][seed]})
    text = (render(tmp_path, "r", tmp_path / "reports") / "report.md").read_text()
    assert "nothing can be concluded from" not in text
    assert re.search(r"\| ms \| 3 \| .*transferred from x; new: y \|", text)


def test_a_damaged_overlay_stops_no_report(tmp_path):
    write_cell(tmp_path, make_cell("ms", 0))
    default_path(tmp_path).parent.mkdir()
    default_path(tmp_path).write_text("version: 9\n")
    found = []
    folder = render(tmp_path, "r", tmp_path / "reports", damaged=found.append)
    assert [one.path for one in found] == [default_path(tmp_path)]
    assert "tuned.yaml" in (folder / "report.md").read_text()


def test_two_specs_of_one_cell_are_an_error_that_names_both_folders(tmp_path):
    folders = [write_cell(tmp_path, make_cell("ms+psd", 0, tau=tau)) for tau in (1.0, 2.0)]
    with pytest.raises(UserError) as error:
        render(tmp_path, "r", tmp_path / "reports")
    assert all(str(folder) in str(error.value) for folder in folders)
    assert "(ms+psd, conv4-64 on glyphs): method.distillation.parameters.tau " in str(error.value)


def test_two_specs_over_the_seeds_of_one_method_are_an_error(tmp_path):
    folders = [write_cell(tmp_path, make_cell("ms+psd", seed, tau=tau)) for seed, tau in ((0, 1.0), (1, 2.0))]
    with pytest.raises(UserError, match="different specs under the same names") as error:
        render(tmp_path, "r", tmp_path / "reports")
    assert all(str(folder) in str(error.value) for folder in folders)


def test_a_failure_of_an_earlier_spec_is_not_missing_once_another_is_done(tmp_path):
    write_failure(tmp_path, make_cell("ms", 0, epochs=9), "a mistake in a plugin")
    write_failure(tmp_path, make_cell("ms", 1, epochs=9), "a second mistake")
    write_cell(tmp_path, make_cell("ms", 0))
    text = (render(tmp_path, "r", tmp_path / "reports") / "report.md").read_text()
    assert "a mistake in a plugin" not in text
    assert "a second mistake" in text


def test_commands_name_the_users_own_files(tmp_path):
    other = make_cell("own", 0)
    protocol = other.protocol.model_copy(update={"name": "mine"})
    replaced = make_cell("triplet", 0)
    marked = replaced.method.model_copy(update={"marks": (REPLACED.format("triplet"),)})
    write_cell(tmp_path, make_cell("ms", 0))
    write_cell(tmp_path, dataclasses.replace(other, protocol=protocol))
    write_cell(tmp_path, dataclasses.replace(replaced, method=marked))
    text = (render(tmp_path, "r", tmp_path / "reports") / "report.md").read_text()
    run = "dmlbench run --methods {} --datasets glyphs --protocol {} --seeds 1\n"
    assert run.format("ms", "conv4-64") in text
    assert run.format("own", "mine.yaml --methods-dir METHODS") in text
    assert run.format("triplet", "conv4-64 --methods-dir METHODS") in text
    assert "# METHODS: the folder of the method files that are not shipped\n" in text
    assert "the user's own triplet, not the shipped one" in text


def found_by_tuning(cell, budget):
    """What `dmlbench tune` would have written of a cell's method: other values won."""
    values = {"loss.alpha": 2.0}
    finalists = tuple(
        Finalist(values=own, map_at_r=(0.5,), recall_at_1=(0.9,)) for own in ({"loss.alpha": 3.0}, values)
    )
    return Tuned(
        method=cell.method.name, dataset=cell.dataset.name, protocol=cell.protocol.name, values=values,
        search={}, code=("a",), device=("b",), command="dmlbench tune", study_seed=0, stayed=False,
        over_files=Margin(difference=0.0019, standard_error=0.001, pairs=4), finalists=finalists,
        folds=4, budget=budget, epochs=budget, schedule=(), **identity_of(cell.method, cell.dataset, cell.protocol),
    )  # fmt: skip


def test_tuned_methods_and_trials(tmp_path):
    """Tuned rows beside the files' with trials, and trials, of which no `run` would be the same."""
    entries = []
    for seed, name in itertools.product((0, 1, 2), ("ms", "ms+psd")):
        write_cell(tmp_path, make_cell(name, seed))
        cell = make_cell(name, seed)
        budget = 160 if name == "ms" else 80
        tuned = cell.method.model_copy(update={"tuned": budget, "marks": (searched_mark(budget, 4),)})
        write_cell(tmp_path, dataclasses.replace(cell, method=tuned))
        if not seed:
            entries.append(found_by_tuning(cell, budget))
    elsewhere = {"study_seed": 1, "protocol_hash": "f" * 16}
    entries.append(entries[0].model_copy(update=elsewhere))
    entries[1] = entries[1].model_copy(update={"values": {"loss.alpha": 3.0}})  # not what was run
    write_tuned(default_path(tmp_path), entries)
    trial = make_cell("ms", 1000)
    write_cell(tmp_path, dataclasses.replace(trial, dataset=trial.dataset.model_copy(update={"held_out": 0.2})))
    text = (render(tmp_path, "r", tmp_path / "reports") / "report.md").read_text()
    assert "| ms+psd{tuned} | ms{tuned} | 3 |" in text
    assert "| ms+psd{tuned} | ms |" not in text
    margin = r"\+0\.19 ± 0\.10 points MAP@R over the files' values, 4 pairs"
    assert re.search(rf"\| ms\{{tuned\}} \| 160 epochs \| {margin} \| 3 \| \d\d\.\d\d \| \d\d\.\d\d \| [+−]", text)
    assert re.search(r"\| ms\+psd\{tuned\} \| 80 epochs \| not recorded \| 3 \|", text)
    assert "Unequal budgets of tuning (ms{tuned} 160 epochs, ms+psd{tuned} 80 epochs)" in text
    assert "glyphs (tested on 20% of its training classes)" in text
    run = "dmlbench run --methods ms,ms+psd --datasets glyphs --protocol conv4-64"
    commands = [line for line in text.splitlines() if line.startswith(("dmlbench run", "# t"))]
    assert commands == [
        f"{run} --seeds 3",
        f"{run} --tuned tuned.yaml --seeds 3",
        "# trials on held-out training classes are made by `dmlbench tune`",
        "# tuned.yaml: what `dmlbench tune` wrote, in tuning/ of its results folder",
    ]


def test_methods_of_different_protocol_contents_are_not_compared(tmp_path):
    write_cell(tmp_path, make_cell("ms", 0, epochs=8))
    write_cell(tmp_path, make_cell("ms+psd", 0, epochs=12))
    match = r"different specs under the same names .*: protocol\.training\.epochs (8, 12|12, 8); delete the folders"
    with pytest.raises(UserError, match=match):
        render(tmp_path, "r", tmp_path / "reports")


def test_a_methods_settings_are_compared_with_the_plain_base(tmp_path):
    for seed in range(3):
        write_cell(tmp_path, make_cell("ms", seed))
        write_cell(tmp_path, make_cell("ms+psd", seed))
        write_cell(tmp_path, make_cell("ms+psd", seed, tau=2.0, overrides=("distillation.tau=2",)))
    text = (render(tmp_path, "r", tmp_path / "reports") / "report.md").read_text()
    assert "| ms+psd{tau=2} | ms | 3 | +" in text
    assert "--set distillation.tau=2" in text


def test_an_uneven_matrix_is_shown_without_failures(tmp_path):
    for name, dataset in (("ms", "a"), ("ms+psd", "a"), ("ms", "b"), ("ms+psd", "b"), ("margin", "c")):
        write_cell(tmp_path / "runs", make_cell(name, 0, dataset, epochs=2))
    folder = render(tmp_path / "runs", "r", tmp_path)
    text = (folder / "report.md").read_text()
    assert "## What is missing" in text
    assert "| margin | – | – | 1 |" in text
    assert "Over a, b: the seeds that all these methods have." in text
    assert "Left out, for want of one of these datasets or of 3 seeds: margin." in text
    assert 'id="missing"' in (folder / "index.html").read_text()


def test_an_even_matrix_has_nothing_missing(tmp_path):
    for name in ("ms", "ms+psd"):
        write_cell(tmp_path / "runs", make_cell(name, 0, epochs=2))
    assert "What is missing" not in (render(tmp_path / "runs", "r", tmp_path) / "report.md").read_text()


def test_names_in_summaries_are_text_and_tell_of_no_folder(tmp_path):
    setting = 'distillation.note=<img src=x onerror="alert(1)">'
    for seed, value in enumerate((setting, "distillation.file=/home/alice smith/private/p.txt")):
        write_cell(tmp_path / "runs", make_cell("ms+psd", seed, overrides=(value,)))
    folder = render(tmp_path / "runs", "r", tmp_path)
    for path in folder.rglob("*"):
        text = path.read_text(errors="replace") if path.is_file() and path.suffix != ".png" else ""
        assert "alice" not in str(path) + text
        assert "private" not in str(path) + text
    prose = re.sub(r"```.*?```", "", (folder / "report.md").read_text(), flags=re.DOTALL)
    assert "<img" not in prose.replace(r"\<img", "")


def test_times_beside_another_run_are_in_no_ratio_and_no_phases(tmp_path):
    load = {"machine": "a1", "processes": 1, "device": "cpu"}
    for name, seed in itertools.product(("ms", "ms+psd"), range(4)):
        # One after the other, but the two of the last seed at once.
        minute = 58 if seed == 3 else 10 * seed + (name == "ms")
        begun = f"2025-11-20T10:{minute:02}:00+00:00"
        write_cell(tmp_path / "runs", make_cell(name, seed), started=begun, environment=load)
    folder = render(tmp_path / "runs", "r", tmp_path / "reports")
    ratios = pd.read_csv(folder / "tables" / "overhead.csv")
    assert list(ratios["n"]) == [3]
    assert list(ratios["other_machine"]) == [1]
    assert set(pd.read_csv(folder / "tables" / "phases.csv")["n"]) == {3}
    assert "or one ran beside another run's cells: ms+psd (1)" in (folder / "report.md").read_text()


def test_modifiers_without_their_base_have_no_empty_table_and_are_named(tmp_path):
    for name, seed in itertools.product(("ms+psd", "ms+obdsd"), range(3)):
        write_cell(tmp_path / "runs", make_cell(name, seed))
    text = (render(tmp_path / "runs", "r", tmp_path / "reports") / "report.md").read_text()
    assert "Difference to the method's own base" not in text
    assert "same seed among these, so no difference for: ms+obdsd, ms+psd." in text
