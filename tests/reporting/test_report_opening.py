"""The first screen: a sentence, a figure and a table."""

import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from dmlbench.analysis.claims import judge
from dmlbench.analysis.groups import DEFAULT, Against
from dmlbench.analysis.statistics import detectable
from dmlbench.reporting.figures import gain_plot
from dmlbench.reporting.naming import percent
from dmlbench.reporting.numbers import Numbers
from dmlbench.reporting.opening import opening
from dmlbench.reporting.precedence import with_interleaved
from dmlbench.results.claims import after_the_fact
from dmlbench.results.frames import load_history, load_results
from dmlbench.specs.cell import ResolvedValue
from dmlbench.specs.study import Claim
from tests.fake_measurements import ENVIRONMENT, RATIOS, make_measurement
from tests.reporting.fake_results import history, make_cell, write_cell, write_failure

ON_GPU = ENVIRONMENT.model_copy(update={"device": "cuda:0", "gpu": "Large GPU"})


def numbers_of(root):
    return Numbers.of(load_results(root), load_history(root))


@pytest.fixture(scope="module")
def numbers(results):
    return numbers_of(results)


@pytest.fixture(scope="module")
def said(numbers):
    return opening(numbers, (), DEFAULT)


def test_the_sentence_counts_verdicts_and_names_the_ends(said):
    sentence, failed = said.sentences
    assert re.fullmatch(r"Every cell of \S+ failed\.", failed)
    counted = re.match(
        r"On glyphs and omniglot-small, R@1 is better than its base's in (\d) of 6 comparisons,? (.*); largest gain: "
        r"(\S+) on (\S+), \+(.*) points \[\+(.*), \+(.*)\]",
        sentence,
    )
    assert counted
    assert counted[1] == "3"
    assert counted[3] == "ms+obdsd"
    assert "verdicts corrected for all 4 or 5 comparisons made on each dataset" in said.certainty
    assert said.certainty.startswith("Exploratory, for no claim was declared before the runs: 1 or 5 seeds each")
    assert "80% of studies" in said.certainty


def test_the_ends_are_of_what_compares_like_with_like(tmp_path):
    """Tuned rows are the best of many; an estimate that decides nothing is no gain."""
    for seed in range(4):
        for cell in (make_cell("ms", seed), make_cell("ms+obdsd", seed), make_cell("ms+psd", seed)):
            write_cell(tmp_path, cell)
    found = numbers_of(tmp_path)
    better = found.comparisons.assign(verdict="better")
    obdsd = better["name"] == "ms+obdsd"
    for wanted, compared in (
        ("; largest gain of one network, not tuned: ms+psd, +", better.assign(tuned=obdsd)),
        (
            "; largest gain of one network, not tuned: ms+psd, +",
            better.assign(network=np.where(obdsd, "ensemble", better["network"])),
        ),
        ("; largest gain: ms+obdsd, +", better),
        ("; largest estimate: ms+obdsd, +", better.assign(verdict="inconclusive")),
    ):
        (sentence,) = opening(replace(found, comparisons=compared), (), DEFAULT).sentences
        assert wanted in sentence
        assert sentence.endswith(", not decided.") == ("estimate" in wanted)


def test_a_claim_comes_first(tmp_path):
    for seed in range(5):
        for name in ("ms", "ms+obdsd", "ms+psd"):
            write_cell(tmp_path, make_cell(name, seed))
    shown = load_results(tmp_path)
    claim = Claim(modifier="obdsd", bases=("ms",), datasets=("glyphs",), effect=2.0)
    judged = judge(after_the_fact(claim, shown), shown)
    found = opening(numbers_of(tmp_path), (judged,), DEFAULT)
    assert re.fullmatch(
        r"Supported: that obdsd improves R@1 of ms on glyphs: \+2\.70 points \[\+.*\]\.", found.sentences[0]
    )
    late = "Claims were made when some of their cells, or all, had begun, so they are not confirmatory. 5 seeds each"
    assert found.certainty.startswith(late)
    assert "Exploratory" not in found.certainty
    assert found.gains.effect("obdsd") == 2.0
    assert found.gains.effect("psd") == 1.0


def test_a_claim_of_several_bases_says_where_it_holds(tmp_path):
    for seed in range(7):
        for name in ("ms", "ms+obdsd", "proxyanchor"):
            write_cell(tmp_path, make_cell(name, seed))
        same = history(make_cell("proxyanchor", seed))
        write_cell(tmp_path, make_cell("proxyanchor+obdsd", seed), rows=same)
    shown = load_results(tmp_path)
    claim = Claim(modifier="obdsd", bases=("ms", "proxyanchor"), datasets=("glyphs",))
    judged = judge(after_the_fact(claim, shown), shown)
    sentence, *_ = opening(numbers_of(tmp_path), (judged,), DEFAULT).sentences
    assert sentence.startswith("Supported on average: that obdsd improves R@1 of 2 bases on glyphs: +1.37 points [+")
    assert sentence.endswith("]; better on ms, equivalent on proxyanchor.")


def test_one_comparison_has_one_verdict_on_the_first_screen(tmp_path):
    """Corrected within its claim a difference may be shown that is not among all comparisons."""
    for seed in range(5):
        for name in ("ms", "ms+obdsd", "ms+psd"):
            write_cell(tmp_path, make_cell(name, seed))
    shown, numbers = load_results(tmp_path), numbers_of(tmp_path)
    undecided = replace(numbers, comparisons=numbers.comparisons.assign(verdict="inconclusive"))
    judged = judge(after_the_fact(Claim(modifier="obdsd", bases=("ms",), datasets=("glyphs",)), shown), shown)
    (main,) = judged.bases
    found = opening(undecided, (judged,), DEFAULT)
    compared = found.gains.compared.set_index("name")
    assert dict(compared["claimed"]) == {"ms+obdsd": True, "ms+psd": False}
    assert dict(compared["verdict"]) == {"ms+obdsd": "better", "ms+psd": "inconclusive"}
    assert tuple(compared.loc["ms+obdsd", ["all_low", "all_high"]]) == (main.low, main.high)
    signs = {row[0].text: row[3].text[0] for row in found.table.rows}
    assert (signs["ms+obdsd"], signs["ms+psd"]) == ("▲", "○")
    assert found.table.notes[-1].startswith("Signs of what a claim names are its verdicts; all others are exploratory")
    assert "All other signs are exploratory" in found.certainty
    assert percent(detectable(main.estimate.std, 5)) in found.certainty
    assert "by a claim's own test where it names them" in gain_plot(found.gains).caption
    (other,) = (replace(own, verdict="worse") for own in judged.bases)
    contrary = replace(judged, bases=(other,))
    found = opening(undecided, (judged, contrary), DEFAULT)  # which of two claims would hold is not ours to choose
    assert not found.gains.compared["claimed"].any()
    assert found.table.notes[-1].startswith("Signs here are exploratory")
    assert ". All signs are exploratory" in found.certainty


def test_interleaved_steps_come_before_those_of_runs(tmp_path):
    for seed in range(5):
        for name in ("ms", "ms+obdsd", "ms+psd"):
            write_cell(tmp_path, make_cell(name, seed))
    numbers = numbers_of(tmp_path)

    def steps(*measurements):
        found = opening(numbers, (), DEFAULT, with_interleaved(numbers.overhead, measurements, numbers.results))
        return found, {row[0].text: row[4] for row in found.table.rows}

    measured, ratios = RATIOS | {"ms+psd": 1.5}, {"ms": 1.0, "ms+psd": 1.6}
    _, of_runs = steps()
    found, own = steps(make_measurement(ratios, noise=0), make_measurement(measured, noise=0))
    assert own["ms+psd"].text == "1.50×" != of_runs["ms+psd"].text
    assert own["ms+psd"].interval.endswith("] interleaved")
    (note,) = (note for note in found.table.notes if note.startswith("Step time"))
    assert "interleaved: measured apart" in note
    assert "may have shared" not in note
    assert gain_plot(found.gains).figure.axes[0].get_title(loc="left") == "step 1.50×*"
    found, own = steps(make_measurement(ratios, noise=0))
    assert own["ms+obdsd"] == of_runs["ms+obdsd"]
    assert "others from these trainings, which may have shared the machine" in " ".join(found.table.notes)
    others = ({"protocol": "resnet50-128"}, {"variant": "training.batch_size=8"}, {"environment": ON_GPU})
    for changes in (*others, {"dataset": "omniglot-small"}, {"dataset": "glyphs"}):  # the last is of another protocol
        assert steps(make_measurement(measured, **changes))[1] == of_runs
    assert steps(make_measurement(measured, noise=0, variant="model.weights=a.pt"))[1]["ms+psd"].text == "1.50×"
    (same,) = set(numbers.results["protocol_hash"])
    real = make_measurement(RATIOS | {"ms+psd": 1.7}, noise=0, dataset="glyphs", protocol_hash=same)
    _, own = steps(real, make_measurement(measured, noise=0), make_measurement(ratios, environment=ON_GPU))
    assert own["ms+psd"].text == "1.70×"  # of the same images, though it is older
    assert steps(make_measurement(measured, processes=3, rounds=4))[1]["ms+psd"].interval.endswith("] interleaved")


def test_a_claim_says_nothing_of_other_settings_or_seeds(tmp_path):
    """A claim of other settings, of another variant of the protocol, or of other seeds leaves a row as it is."""
    for seed in range(8):
        write_cell(tmp_path, make_cell("ms", seed))
        write_cell(tmp_path, make_cell("ms+obdsd", seed), rows=history(make_cell("proxyanchor", seed)))
        for cell in (
            make_cell("ms+obdsd", seed, tau=2.0, overrides=("distillation.tau=2",)),
            *(make_cell(n, seed, overrides=("training.epochs=3",), epochs=3) for n in ("ms", "ms+obdsd")),
        ):
            write_cell(tmp_path, cell)
    results, numbers = load_results(tmp_path), numbers_of(tmp_path)
    claim = Claim(modifier="obdsd", bases=("ms",), datasets=("glyphs",))
    late = after_the_fact(claim, results)
    alone = opening(numbers, (), DEFAULT).gains.compared
    for kept in (results["modifier_settings"].map(bool), results["seed"] < 5, results["overrides"].map(bool)):
        own = results[kept | (results["modifier"] == "")]
        judged = judge(late.model_copy(update={"cells": tuple(own["hash"].unique())}), results)
        found = opening(numbers, (judged,), DEFAULT).gains.compared
        plain = found["name"] == "ms+obdsd"
        assert not found.loc[plain, "claimed"].any()
        assert found[plain].drop(columns="claimed").equals(alone[plain].drop(columns="claimed"))


def test_too_few_seeds_have_no_power(tmp_path):
    for seed in range(2):
        for name in ("ms", "ms+obdsd"):
            write_cell(tmp_path, make_cell(name, seed))
    shown = load_results(tmp_path)
    judged = judge(after_the_fact(Claim(modifier="obdsd", bases=("ms",), datasets=("glyphs",)), shown), shown)
    found = opening(numbers_of(tmp_path), (judged,), DEFAULT)
    assert found.sentences[0].startswith("Too few seeds: whether obdsd improves R@1 of ms on glyphs: +")
    assert "Power" not in found.certainty
    assert not found.gains.compared["claimed"].any()


def test_a_claim_without_all_bases_is_not_judged(results, numbers):
    shown = load_results(results)
    claim = Claim(modifier="obdsd", bases=("ms",), datasets=("glyphs",))  # with fewer epochs no cell has it
    judged = judge(after_the_fact(claim, shown), shown)
    sentence, _ = opening(numbers, (judged,), DEFAULT).sentences
    assert sentence.endswith("cannot be judged yet: no seed has all of its cells.")


def test_one_comparison_has_a_sentence_of_its_own(tmp_path):
    for seed in range(4):
        for name in ("ms", "ms+obdsd"):
            write_cell(tmp_path, make_cell(name, seed))
    (sentence,) = opening(numbers_of(tmp_path), (), DEFAULT).sentences
    assert sentence.startswith("On glyphs, R@1 of ms+obdsd is better than that of ms: +")


def test_losses_alone_are_compared_with_the_first(tmp_path):
    for seed in range(3):
        for name in ("ms", "triplet"):
            write_cell(tmp_path, make_cell(name, seed))
    numbers = numbers_of(tmp_path)
    (sentence,) = opening(numbers, (), DEFAULT).sentences
    assert sentence.startswith("On glyphs, R@1 of ms is not shown to differ (inconclusive) from that of triplet: +")
    (alone,) = opening(numbers, (), Against(method="triplet")).sentences
    assert alone == sentence


def test_a_method_whose_cells_all_failed_is_named(tmp_path):
    for seed in range(3):
        write_cell(tmp_path, make_cell("ms", seed))
        write_failure(tmp_path, make_cell("triplet", seed))
    write_failure(tmp_path, make_cell("ms", 3))
    _, failed = opening(numbers_of(tmp_path), (), DEFAULT).sentences
    assert failed == "Every cell of triplet failed."


def test_one_method_has_its_accuracy(tmp_path):
    for seed in range(3):
        write_cell(tmp_path, make_cell("ms", seed))
    found = opening(numbers_of(tmp_path), (), DEFAULT)
    assert re.fullmatch(r"ms is the only method on glyphs with \d\d\.\d\d% R@1 \[.*\]\.", found.sentences[0])
    assert found.gains is None
    assert found.table.columns == ("Method", "R@1", "Rank", "Marks")
    assert found.table.notes == ("In percent, mean over 3 seeds [95% t-interval]; the best first.",)


def test_too_few_seeds_are_no_finding(tmp_path):
    for name in ("ms", "ms+psd"):
        write_cell(tmp_path, make_cell(name, 0))
    (sentence,) = opening(numbers_of(tmp_path), (), DEFAULT).sentences
    assert sentence == "On glyphs nothing can be concluded in R@1: no comparison has 3 seeds or more."


def test_the_table_has_every_method_with_gain_and_cost(said):
    assert said.table.columns == (
        "Method", "Seeds", "R@1, glyphs", "Gain over base", "R@1, omniglot-small", "Gain over base",
        "Step time over base", "Marks",
    )  # fmt: skip
    rows = {row[0].text: row for row in said.table.rows}
    assert next(iter(rows)) == "ms+obdsd"
    assert set(rows) == {"ms", "ms+psd", "ms+obdsd", "proxyanchor", "proxyanchor+psd"}
    assert (rows["ms+obdsd"][3].text, rows["ms+obdsd"][3].kind) == ("▲ +2.70", "better")
    for base in ("ms", "proxyanchor"):  # whose own reference is another base
        assert [rows[base][place].text for place in (3, 5, 6)] == ["–"] * 3
    assert "–: a base. Bases are compared with each other in the sections below." in said.table.notes
    assert rows["ms+obdsd"][6].text == "1.34–1.35×"


def test_the_table_names_what_gains_are_over(tmp_path):
    for seed in range(3):
        for name in ("ms", "ms+psd", "triplet", "triplet+psd"):
            write_cell(tmp_path, make_cell(name, seed))
    results, history = load_results(tmp_path), load_history(tmp_path)

    def shown(kept, against=DEFAULT):
        own = results["method"].isin(kept)
        numbers = Numbers.of(results[own], history, against=against)
        return opening(numbers, (), against).table

    def over(table):
        return [name for name in table.columns if " over " in name]

    one = shown(["ms", "ms+psd"])
    assert over(one) == ["Gain over ms", "Step time over ms"]
    assert one.notes[1] == "Rank 1–2, of 2 rows: the comparisons do not decide which of them it is."
    assert one.notes[2].startswith("Gain: points over ms, paired by seed:")
    shared = "from these trainings, which may have shared the machine."
    assert one.notes[3] == f"Step time: of a training step, over that of ms [95% interval]; {shared}"
    times = {row[0].text: row[-2] for row in one.rows}
    assert re.fullmatch(r"1\.\d\d×", times["ms+psd"].text)
    assert re.fullmatch(r"\[1\.\d\d, 1\.\d\d\]", times["ms+psd"].interval)
    assert over(shown(["ms", "ms+psd", "triplet", "triplet+psd"])) == ["Gain over base", "Step time over base"]
    assert over(shown(["ms", "triplet"])) == ["Gain over triplet", "Step time over triplet"]
    named = shown(["ms", "ms+psd", "triplet"], Against(method="ms"))
    assert over(named) == ["Gain over ms", "Step time over ms"]
    assert {row[0].text: row[3].text for row in named.rows}["ms"] == "–"
    assert {row[0].text: row[3].value for row in named.rows}["triplet"] < 0


def test_bases_with_several_references_name_each(tmp_path):
    for seed in range(3):
        for cell in (make_cell("ms", seed), make_cell("triplet", seed)):
            write_cell(tmp_path, cell)
        plain = make_cell("ms", seed, overrides=("loss.alpha=3",))
        part = plain.method.loss.model_copy(update={"parameters": {"alpha": ResolvedValue(value=3.0, source="--set")}})
        write_cell(tmp_path, replace(plain, method=plain.method.model_copy(update={"loss": part})))
    table = opening(numbers_of(tmp_path), (), DEFAULT).table
    assert table.columns[3:5] == ("Gain over reference", "Step time over reference")
    entries = {row[0].text: row[3] for row in table.rows}
    assert entries["ms"].interval.endswith("] to triplet")
    assert entries["ms{alpha=3}"].interval.endswith("] to ms")


def test_the_matrix_has_a_panel_per_modifier_and_a_row_per_base(said):
    plot = gain_plot(said.gains)
    panels = [axes for axes in plot.figure.axes if axes.get_visible()]
    assert [axes.texts[0].get_text() for axes in panels] == ["+psd", "+obdsd"]
    assert panels[0].get_title(loc="left") == "step 1.29–1.31×"
    labels = [label.get_text() for label in panels[0].get_yticklabels()]
    assert labels == ["ms   glyphs", "omniglot-small", "proxyanchor   glyphs", "omniglot-small"]
    band = panels[0].patches[0].get_extents().transformed(panels[0].transData.inverted())
    assert (band.x0, band.x1) == pytest.approx((-1, 1))
    assert plot.label == "Mean difference in R@1 to the reference, paired by seed."
    assert len(plot.tips) == len(plot.data) == 6
    assert any(tip.text.startswith("ms+obdsd against ms on glyphs: +2.70 points [+") for tip in plot.tips.values())


def test_what_fell_far_is_an_arrow_with_its_number(said):
    shown = said.gains.compared.copy()
    far = (shown["name"] == "ms+psd") & (shown["dataset"] == "glyphs")
    shown.loc[far, ["mean", "low", "high"]] = [-0.33, -0.36, -0.30]
    plot = gain_plot(type(said.gains)(said.gains.title, "x", shown, said.gains.ratios, said.gains.effects))
    (panel, *_) = plot.figure.axes
    assert panel.get_xlim()[1] < 12  # the others are not squashed
    assert "−33.00" in [text.get_text() for text in panel.texts]
    assert [line for line in panel.lines if line.get_marker() == "<"]
    assert "Arrows: 1 beyond the axis" in plot.caption
    assert np.isclose(plot.data["mean"].min(), -0.33)


def test_tuned_values_have_a_colour_of_their_own(said):
    shown = said.gains.compared
    both = pd.concat([shown, shown.assign(tuned=True, name=shown["name"] + "{tuned}")], ignore_index=True)
    plot = gain_plot(type(said.gains)(said.gains.title, "x", both, said.gains.ratios, said.gains.effects))
    (legend,) = plot.figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["files' values", "tuned values"]
    colours = {line.get_color() for line in plot.figure.axes[0].lines if line.get_marker() == "o"}
    assert len(colours) == 2
