import re
import subprocess
import sys

import pandas as pd
import pytest

from dmlbench.reporting.page import render
from tests.reporting.fake_results import make_cell, write_cell
from tests.reporting.rendered import Page, files


@pytest.fixture(scope="module")
def page(report):
    return Page((report / "index.html").read_text())


def test_the_report_holds_page_markdown_tables_and_figures(report):
    names = set(files(report))
    assert {"index.html", "report.md", "tables/accuracy.csv", "tables/cells.csv", "tables/settings.csv"} <= names
    for stem in ("accuracy_conv4-64_glyphs_last", "difference_conv4-64_glyphs_last", "overhead_conv4-64_glyphs"):
        assert {f"figures/{stem}.png", f"figures/{stem}.svg", f"tables/{stem}.tex"} <= names
    assert "figures/curves_conv4-64_omniglot-small.svg" in names
    assert not [path for path in report.parent.iterdir() if path != report]


def test_the_page_loads_nothing_from_elsewhere(report, page):
    assert not re.search(r"https?:", (report / "index.html").read_text())
    outside = [link for link in page.links if not link.startswith("#") and link != "data:,"]
    assert all((report / link).is_file() for link in outside)


def test_every_link_of_the_markdown_is_a_file_of_the_report(report):
    links = re.findall(r"(?<!\\)\]\(([^)]*)\)", (report / "report.md").read_text())
    assert len(links) > 20
    assert all((report / link).is_file() for link in links)


def test_identifiers_are_unique_and_references_lead_somewhere(page):
    assert len(set(page.ids)) == len(page.ids)
    inner = {link[1:] for link in page.links if link.startswith("#")}
    assert inner <= set(page.ids)
    assert len(inner) > 20


def test_every_figure_says_in_words_what_it_shows(page):
    assert len(page.images) == 29
    assert all(image["role"] == "img" and len(image["aria-label"]) > 20 for image in page.images)
    assert not any(re.search(r"[.] [A-Z]", image["aria-label"]) for image in page.images)  # one sentence
    assert {image["aria-details"] for image in page.images} <= set(page.ids)  # and the data as its description


def test_titles_say_how_the_epoch_was_chosen(report):
    for text in ((report / "index.html").read_text(), (report / "report.md").read_text()):
        assert "Accuracy of conv4-64 on glyphs; last epoch" in text
        assert "best test epoch (as published: chosen on the test classes)" in text
        assert "epoch chosen by MAP@R on held-out training classes" in text


def test_failed_and_unfinished_cells_are_listed_without_the_users_folders(report):
    for name in ("index.html", "report.md", "tables/cells.csv"):
        text = (report / name).read_text()
        assert "alice" not in text
        assert str(report.parent) not in text
        assert "…/glyphs.npz" in text
    assert "interrupted: ms+dm2, seed 1, conv4-64 on glyphs" in (report / "report.md").read_text()


def test_sources_name_code_data_machine_and_commands(report):
    text = (report / "report.md").read_text()
    assert (
        "dmlbench run --methods ms,ms+psd --datasets glyphs --protocol conv4-64 --seeds 3 --set training.epochs=6"
        in text
    )
    assert "dmlbench 0.1.0, training code 0123456789abcdef, commit ababababab" in text
    assert "glyphs, version 1, fingerprint f00dfeed12345678" in text
    assert "machine a1b2c3d4e5f6" in text


def test_csv_tables_read_back(report):
    accuracy = pd.read_csv(report / "tables/accuracy.csv", keep_default_na=False, na_values=[""])
    assert {"protocol", "dataset", "selection", "method", "metric", "mean", "low", "high", "n", "marks"} <= set(
        accuracy
    )
    assert accuracy["mean"].between(0, 1).all()
    settings = pd.read_csv(report / "tables/settings.csv")
    assert {"parameter", "value", "source", "published"} <= set(settings)


def test_the_dictionary_says_what_every_column_holds(report):
    found = pd.read_csv(report / "tables/dictionary.csv")
    assert found["meaning"].str.len().min() > 3
    said = set(found[["file", "column"]].itertuples(index=False, name=None))
    for path in set((report / "tables").glob("*.csv")) - {report / "tables/dictionary.csv"}:
        assert {(path.name, column) for column in pd.read_csv(path, nrows=1)} <= said


def test_no_torch_is_imported():
    modules = "dmlbench.reporting.page, dmlbench.cli.tables, dmlbench.analysis.costs"
    code = f"import sys, {modules}; assert 'torch' not in sys.modules and 'mlflow' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_figure_has_its_data(report, page):
    figures = {path.stem for path in (report / "figures").glob("*.svg")}
    assert figures == {path.stem for path in (report / "figures").glob("*.csv")}
    assert all(len(pd.read_csv(path)) for path in (report / "figures").glob("*.csv"))
    assert page.tags.count("figure") == len(figures)
    assert page.words.count("Data of this figure") == len(figures)


def test_the_report_begins_with_the_leaderboard_and_the_verdicts(report):
    text = (report / "report.md").read_text()
    opening = "On glyphs and omniglot-small, R@1 is better than its base's in 3 of 6 comparisons"
    parts = ("## In short", opening, "figures/gains_conv4-64_last.png", "**Leaderboard of ", "## How to read this")
    places = [text.index(words) for words in (*parts, "## Differences to the reference", "| ms+obdsd | ms | ▲ +2.70")]
    assert places == sorted(places)
    assert "1 or 3 or 5 seeds each, 1 failed, 1 planned and not finished" in text


def test_over_datasets_no_diagram_is_drawn_below_six(report):
    text = (report / "report.md").read_text()
    assert "## conv4-64 over 2 datasets" in text
    assert "Fewer than 6 datasets: ranks show an order, no evidence." in text
    assert not list((report / "figures").glob("ranks_*"))


@pytest.mark.slow
def test_six_datasets_have_a_critical_difference_diagram(tmp_path):
    for dataset in "abcdef":
        for name in ("ms", "ms+psd"):
            for seed in range(3):
                write_cell(tmp_path / "runs", make_cell(name, seed, dataset, epochs=2))
    folder = render(tmp_path / "runs", "r", tmp_path, only={"dataset": list("abcdef")})
    assert (folder / "figures" / "ranks_conv4-64_last.svg").is_file()
    assert "Two average ranks differ where they lie 0.80 apart" in (folder / "report.md").read_text()


def test_published_figures_have_a_section_where_there_are_any(tmp_path):
    cell = make_cell("ms", 0, "cub")
    write_cell(tmp_path / "runs", cell)
    text = (render(tmp_path / "runs", "r", tmp_path) / "report.md").read_text()
    assert "## Published and reproduced" in text
    assert "protocol resnet50-128, ours conv4-64" in text


def test_the_appendix_holds_every_value_with_its_source(report):
    text = (report / "report.md").read_text()
    appendix = text.partition("## Methods and protocols in full")[2]
    assert "| tau | psd | 1.0 | all | parser default | no |" in appendix
    assert "| training.learning\\_rate | 0.001 | all |" in appendix
    assert "| training.epochs | 6 | glyphs (training.epochs=6, validation.classes=0.2) |" in appendix


def test_the_page_says_what_a_loss_learned_at_the_networks_rate(tmp_path):
    for seed in range(3):
        write_cell(tmp_path / "runs", make_cell("ms", seed), at_networks_rate=["proxies.weight"])
    report = render(tmp_path / "runs", "own", tmp_path / "reports")
    said = "Of the loss's own parameters these learn at the network's rate: proxies.weight."
    assert said in (report / "report.md").read_text()
    rows = pd.read_csv(report / "tables/settings.csv").set_index("parameter")
    assert float(rows.loc["learning rate of proxies.weight", "value"]) == 0.001
