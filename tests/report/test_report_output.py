import pytest
from fake_results import make_cell, write_cell
from rendered import files

from dmlbench.errors import UserError
from dmlbench.report.page import render
from dmlbench.report.queries import Panels


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


def test_what_is_done_is_told(results, tmp_path):
    said = []
    render(results, "r", tmp_path, only={"dataset": ["omniglot-small"]}, tell=said.append)
    assert said == ["21 cells read", "drawing conv4-64 on omniglot-small"]


def test_the_folder_around_the_results_names_them(tmp_path):
    write_cell(tmp_path / "results" / "runs", make_cell("ms", 0, epochs=2))
    with pytest.raises(UserError, match=r"no finished results; name .*/results/runs with --results"):
        render(tmp_path / "results", "r", tmp_path, only={"dataset": ["glyphs"]})


def test_panels_without_embeddings_are_refused_before_anything_is_written(results, tmp_path):
    with pytest.raises(UserError, match="kept their embeddings; run them with --keep embeddings"):
        render(results, "r", tmp_path, panels=Panels(None))
    assert not list(tmp_path.iterdir())
