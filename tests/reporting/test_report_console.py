import io

import pytest
from rich.console import Console

from dmlbench.analysis.comparisons import comparisons, primary, seed_pairs
from dmlbench.analysis.estimates import seed_values
from dmlbench.analysis.groups import Against
from dmlbench.cli.tables import comparison
from dmlbench.errors import UserError
from dmlbench.results.frames import load_results
from tests.reporting.fake_results import make_cell, named_otherwise, write_cell, write_failure


def printed(results, width=100, **options):
    console = Console(file=io.StringIO(), width=width, highlight=False)
    for part in comparison(results, **options):
        console.print(part)
    return console.file.getvalue()


def test_every_group_has_a_table_and_says_how_to_read_it(results):
    text = printed(load_results(results))
    assert text.count("conv4-64 on glyphs") == 2
    assert "conv4-64 on omniglot-small: last epoch" in text
    assert "[low, high]: 95% t-interval over seeds" in text
    assert "a: untuned: nothing published." in text
    assert "nothing can be concluded from: proxyanchor+psd (1)" in text


def test_a_row_has_accuracy_difference_and_step_time(results):
    lines = printed(load_results(results), width=140).splitlines()
    line = next(line for line in lines if line.startswith("ms+psd (a)"))
    assert "63.05 [62.30,63.80]" in line
    assert "+0.59 [−0.04,+1.23]" in line
    assert line.endswith("1.29×")


def test_it_fits_a_terminal_of_eighty_columns(results):
    lines = printed(load_results(results), width=80).splitlines()
    assert any(line.startswith("proxyanchor+psd (a,b)") and line.rstrip().endswith("×") for line in lines)


def test_another_selection_is_named(results):
    assert "best test epoch (as published" in printed(load_results(results), selection="best_test")


def test_runs_that_did_not_start_alike_form_no_pair(tmp_path):
    for seed in range(3):
        write_cell(tmp_path, make_cell("ms", seed), initial_weights="aa" if seed else "bb")
        write_cell(tmp_path, make_cell("ms+psd", seed), initial_weights="aa")
    text = printed(load_results(tmp_path))
    assert "Seeds that form no pair, for the reference's run had other initial weights, other images or another" in text
    assert "ms+psd (1)" in text
    values = seed_values(load_results(tmp_path))
    values = values[values["metric"] == "recall_at_1"]
    assert set(comparisons(primary(seed_pairs(values)), values)["n"]) == {2}


def test_names_in_brackets_are_no_markup(tmp_path):
    write_cell(tmp_path, named_otherwise(make_cell("ms", 0), "[red]ms"))
    assert "[red]ms" in printed(load_results(tmp_path))


def test_only_failures_give_nothing(tmp_path):
    write_failure(tmp_path, make_cell("ms", 0))
    assert comparison(load_results(tmp_path)) == []


def test_two_results_of_one_cell_are_an_error(tmp_path):
    for tau in (1.0, 2.0):
        write_cell(tmp_path, make_cell("ms+psd", 0, tau=tau))
    with pytest.raises(UserError, match="two results for ms"):
        comparison(load_results(tmp_path))


def test_a_verdict_stands_where_the_difference_does(results):
    text = printed(load_results(results), width=140)
    lines = [line for line in text.splitlines() if line.startswith("ms+obdsd")]
    assert lines
    assert all("better" in line for line in lines)
    assert "verdict: exploratory (paired t-test; equivalent within 1 point; Benjamini and Hochberg" in text
    assert "is found in 80% of studies" in text


def test_two_bases_are_compared(tmp_path):
    for seed in range(3):
        for name in ("ms", "triplet"):
            write_cell(tmp_path, make_cell(name, seed))
    results = load_results(tmp_path)
    compared = [line for line in printed(results, width=140).splitlines() if line.startswith("ms ")]
    assert "triplet" in compared[0]
    named = [line for line in printed(results, 140, against=Against("ms")).splitlines() if line.startswith("triplet ")]
    assert " ms " in named[0]
    with pytest.raises(UserError, match="--against: unknown method 'mss'"):
        comparison(results, against=Against("mss"))
