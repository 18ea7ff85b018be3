import dataclasses
import itertools
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from fake_results import make_cell, write_cell, write_failure

from dmlbench.errors import UserError
from dmlbench.registry import REPLACED, TUNED_MARK
from dmlbench.report.page import render
from dmlbench.report.queries import Panels

HOSTILE = 'ms"><script>alert(1)</script>$x$ {{7*7}} _%&|'
VOID = {"meta", "link", "br", "img", "input", "hr"}


class Page(HTMLParser):
    """Collects tags, identifiers and links, and checks that elements are closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.images: list[dict] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        found = dict(attrs)
        self.tags.append(tag)
        self.ids += [found["id"]] if "id" in found else []
        self.links += [found[key] for key in ("href", "src", "xlink:href") if key in found]
        self.links += re.findall(r"url\(([^)]*)\)", " ".join(value or "" for value in found.values()))
        self.images += [found] if tag == "svg" else []

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture(scope="module")
def page(report):
    return Page((report / "index.html").read_text())


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_the_report_holds_page_markdown_tables_and_figures(report):
    names = set(files(report))
    assert {"index.html", "report.md", "tables/accuracy.csv", "tables/cells.csv", "tables/settings.csv"} <= names
    for stem in ("accuracy_conv4-64_glyphs_last", "difference_conv4-64_glyphs_best_test", "overhead_conv4-64_glyphs"):
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
    assert all(image["role"] == "img" and len(image["aria-label"]) > 40 for image in page.images)
    assert any("ms+psd +0." in image["aria-label"] for image in page.images)


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


def test_the_same_results_give_the_same_bytes_by_any_number_of_processes(results, report, tmp_path):
    assert files(render(results, "first", tmp_path, workers=2)) == files(report)


def test_a_report_is_replaced_whole(results, tmp_path):
    folder = render(results, "r", tmp_path, only={"dataset": ["omniglot-small"]})
    (folder / "stale.txt").write_text("old")
    render(results, "r", tmp_path, only={"method": ["ms"], "dataset": ["omniglot-small"]})
    assert "stale.txt" not in files(folder)
    assert "proxyanchor" not in (folder / "report.md").read_text()
    assert list(tmp_path.iterdir()) == [folder]


def test_an_interrupted_rendering_leaves_the_old_report(results, tmp_path, monkeypatch):
    folder = render(results, "r", tmp_path, only={"dataset": ["omniglot-small"]})
    before = files(folder)

    def fail(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("dmlbench.report.page._write_pages", fail)
    with pytest.raises(KeyboardInterrupt):
        render(results, "r", tmp_path, only={"dataset": ["omniglot-small"]})
    assert files(folder) == before
    assert list(tmp_path.iterdir()) == [folder]


def test_a_folder_that_is_no_report_is_left_alone(results, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("years of work")
    with pytest.raises(UserError, match="exists and is not a report; give another --name"):
        render(results, "thesis", tmp_path)


@pytest.mark.parametrize("name", ["", "..", "a/b", "/x", ".hidden", "-x"])
def test_a_name_is_a_plain_name(results, tmp_path, name):
    with pytest.raises(UserError, match="not a plain name"):
        render(results, name, tmp_path)


def test_an_output_folder_that_cannot_be_written(results, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        render(results, "r", tmp_path / "file")


def test_an_empty_results_folder_names_the_next_command(tmp_path):
    with pytest.raises(UserError, match="no finished results; `dmlbench run --results` fills it"):
        render(tmp_path, "r", tmp_path / "reports")
    assert not (tmp_path / "reports").exists()


@pytest.mark.parametrize(
    ("only", "message"), [({"dataset": ["glyps"]}, "did you mean 'glyphs'"), ({"seed": ["1"]}, "unknown column")]
)
def test_a_misspelt_filter(results, tmp_path, only, message):
    with pytest.raises(UserError, match=message):
        render(results, "r", tmp_path, only=only)


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
        cell = make_cell("ms", seed)
        folder = write_cell(tmp_path / "runs", cell, cell=cell.index() | {"method": HOSTILE, "base": HOSTILE})
        assert folder.is_dir()
    report = render(tmp_path / "runs", "r", tmp_path / "reports")
    page = Page((report / "index.html").read_text())
    assert page.tags.count("script") == 1  # our own, which holds no name
    assert any(HOSTILE in word for word in page.words)
    assert "<script>" not in (report / "report.md").read_text().replace(r"\<script\>", "")
    (table,) = [path.read_text() for path in (report / "tables").glob("accuracy_*_last.tex")]
    assert r"\$x\$ \{\{7*7\}\} \_\%\&" in table


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


def test_tuned_methods_and_trials(tmp_path):
    """Tuned rows beside the files' with trials, and trials, of which no `run` would be the same."""
    for seed, name in itertools.product((0, 1, 2), ("ms", "ms+psd")):
        write_cell(tmp_path, make_cell(name, seed))
        cell = make_cell(name, seed)
        trials = 8 if name == "ms" else 4
        tuned = cell.method.model_copy(update={"tuned": trials, "marks": (TUNED_MARK.format(trials),)})
        write_cell(tmp_path, dataclasses.replace(cell, method=tuned))
    trial = make_cell("ms", 1000)
    write_cell(tmp_path, dataclasses.replace(trial, dataset=trial.dataset.model_copy(update={"held_out": 0.2})))
    text = (render(tmp_path, "r", tmp_path / "reports") / "report.md").read_text()
    assert "| ms+psd{tuned} | ms{tuned} | 3 |" in text
    assert "| ms+psd{tuned} | ms |" not in text
    assert re.search(r"\| ms\{tuned\} \| 8 \| 3 \| \d\d\.\d\d \| \d\d\.\d\d \| [+−]", text)
    assert "Unequal numbers of trials (ms{tuned} 8, ms+psd{tuned} 4)" in text
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
    assert "| ms+psd{tau=2} | 3 | +" in text
    assert "--set distillation.tau=2" in text


def test_no_torch_is_imported():
    modules = "dmlbench.report.page, dmlbench.report.console, dmlbench.analysis.overhead"
    code = f"import sys, {modules}; assert 'torch' not in sys.modules and 'mlflow' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_figure_has_its_data(report, page):
    figures = {path.stem for path in (report / "figures").glob("*.svg")}
    assert figures == {path.stem for path in (report / "figures").glob("*.csv")}
    assert all(len(pd.read_csv(path)) for path in (report / "figures").glob("*.csv"))
    assert page.tags.count("figure") == len(figures)
    assert page.words.count("Data of this figure") == len(figures)


def test_the_report_begins_with_its_verdicts(report):
    text = (report / "report.md").read_text()
    assert text.index("## In short") < text.index("| ms+obdsd | ▲ +2.70") < text.index("## How to read this")
    assert "- **▲ higher** ms+obdsd against ms: +" in text
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


def test_what_is_done_is_told(results, tmp_path):
    said = []
    render(results, "r", tmp_path, only={"dataset": ["omniglot-small"]}, tell=said.append)
    assert said == ["21 cells read", "drawing conv4-64 on omniglot-small"]


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


def test_the_folder_around_the_results_names_them(tmp_path):
    write_cell(tmp_path / "results" / "runs", make_cell("ms", 0, epochs=2))
    with pytest.raises(UserError, match=r"no finished results; name .*/results/runs with --results"):
        render(tmp_path / "results", "r", tmp_path, only={"dataset": ["glyphs"]})


def test_panels_without_embeddings_are_refused_before_anything_is_written(results, tmp_path):
    with pytest.raises(UserError, match="kept their embeddings; run them with --keep embeddings"):
        render(results, "r", tmp_path, panels=Panels(None))
    assert not list(tmp_path.iterdir())
