import hashlib
import json
from pathlib import Path

import pytest

from dmlbench.errors import UserError
from dmlbench.reporting.folder import check_target, replacing
from dmlbench.reporting.latex import Choice
from dmlbench.reporting.page import render
from dmlbench.reporting.queries import Panels
from tests.reporting.fake_results import make_cell, write_cell
from tests.reporting.rendered import files


def test_the_same_results_give_the_same_bytes_by_any_number_of_processes(results, report, tmp_path):
    assert files(render(results, "first", tmp_path, workers=2)) == files(report)


def small(results, folder):
    return render(results, "r", folder, only={"dataset": ["omniglot-small"], "method": ["ms"]})


def test_a_report_is_replaced_whole(results, tmp_path):
    folder = render(results, "r", tmp_path, only={"dataset": ["omniglot-small"]})
    assert "tables/comparisons.csv" in files(folder)
    small(results, tmp_path)
    assert "tables/comparisons.csv" not in files(folder)
    assert "proxyanchor" not in (folder / "report.md").read_text()
    assert list(tmp_path.iterdir()) == [folder]


def test_a_report_lists_its_files_with_their_digests(results, tmp_path):
    folder = small(results, tmp_path)
    there = {name: hashlib.sha256(content).hexdigest() for name, content in files(folder).items()}
    there.pop("manifest.json")
    assert json.loads((folder / "manifest.json").read_text()) == {"version": 1, "files": there}


def test_latex_tables_show_the_chosen_rows_and_metrics(results, tmp_path):
    glyphs = {"dataset": ["glyphs"], "method": ["ms", "ms+psd", "ms+obdsd"]}
    folder = render(results, "r", tmp_path, glyphs, tables=Choice(rows=("ms+psd",), metrics=("map_at_r",)))
    text = (folder / "tables/accuracy_conv4-64_glyphs_last.tex").read_text()
    assert "ms+psd$" in text
    assert "obdsd" not in text
    assert "MAP@R" in text
    assert "R@1" not in text
    assert "ms+obdsd" in (folder / "report.md").read_text()  # the page has all
    with pytest.raises(UserError, match="unknown metric 'map'; valid: ami, map_at_r"):
        render(results, "r", tmp_path, glyphs, tables=Choice(metrics=("map",)))


def test_an_interrupted_rendering_leaves_the_old_report(results, tmp_path, monkeypatch):
    folder = small(results, tmp_path)
    before = files(folder)

    def fail(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("dmlbench.reporting.page._write_pages", fail)
    with pytest.raises(KeyboardInterrupt):
        small(results, tmp_path)
    assert files(folder) == before
    assert list(tmp_path.iterdir()) == [folder]


def notes(folder):
    (folder / "tables" / "notes.txt").write_text("years of work")


def another_page(folder):
    (folder / "index.html").write_text("<h1>mine</h1>")


def history(folder):
    (folder / ".git").mkdir()


def a_link_inside(folder):
    (folder / "data").symlink_to(folder.parent)


def a_link_for_a_file(folder):
    (folder / "report.md").rename(folder.parent / "kept.md")
    (folder / "report.md").symlink_to(folder.parent / "kept.md")


def a_linked_report(folder):
    folder.rename(folder.parent / "elsewhere")
    folder.symlink_to(folder.parent / "elsewhere")


def no_manifest(folder):
    (folder / "manifest.json").unlink()


def another_manifest(folder):
    (folder / "manifest.json").write_text('{"name": "my web application"}')


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (notes, r"tables/notes.txt was not written by the report that dmlbench wrote here"),
        (another_page, r"index.html was changed since"),
        (history, r"\.git was not written by"),
        (a_link_inside, r"data was not written by"),
        (a_link_for_a_file, r"report.md was changed since"),
        (a_linked_report, r"is a link"),
        (no_manifest, r"no manifest.json of a report"),
        (another_manifest, r"no manifest.json of a report"),
    ],
)
def test_what_the_last_report_did_not_write_is_never_replaced(results, tmp_path, change, told):
    change(small(results, tmp_path))
    before = files(tmp_path)
    with pytest.raises(UserError, match=told) as caught:
        small(results, tmp_path)
    assert "\n" not in str(caught.value)
    assert "another --name" in str(caught.value)
    assert files(tmp_path) == before


def test_a_folder_of_the_users_own_is_left_alone(results, tmp_path):
    site = tmp_path / "r"
    (site / "papers").mkdir(parents=True)
    for name in ("index.html", "thesis.tex", "papers/a.pdf"):
        (site / name).write_text("years of work")
    before = files(tmp_path)
    with pytest.raises(UserError, match=r"has no manifest.json of a report, so nothing in it is replaced"):
        small(results, tmp_path)
    assert files(tmp_path) == before


def test_what_comes_into_a_report_while_the_next_is_made_is_kept(results, tmp_path, monkeypatch):
    folder = small(results, tmp_path)
    before = files(folder)

    def write(*arguments):
        (folder / "notes.txt").write_text("years of work")

    monkeypatch.setattr("dmlbench.reporting.page._write_pages", write)
    with pytest.raises(UserError, match=r"notes\.txt was not written by"):
        small(results, tmp_path)
    assert files(folder) == before | {"notes.txt": b"years of work"}
    assert list(tmp_path.iterdir()) == [folder]


REPLACED = ("rename", "unlink", "rmdir")
OLD = {"index.html": b"old", "tables/a.csv": b"1", "figures/a.svg": b"<svg/>", "figures/b.svg": b"<svg/>"}
NEW = {"index.html": b"new", "tables/a.csv": b"2", "figures/c.svg": b"<svg/>"}


def write_report(target, content):
    with replacing(check_target(target.parent, target.name)) as folder:
        for name, own in content.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(own)


def without_manifest(folder):
    return {name: own for name, own in files(folder).items() if name != "manifest.json"}


def test_a_kill_while_a_report_is_replaced_loses_none(tmp_path, monkeypatch):
    """Killed before the n-th change of a name, and every later one: what a process does after a kill is nothing."""
    ended, step = False, 0
    while not ended:
        step += 1
        target, count = tmp_path / str(step), 0
        write_report(target, OLD)

        def killing(call, step=step):
            def change(path, *arguments, **options):
                nonlocal count
                count += 1
                if count >= step:
                    raise KeyboardInterrupt
                return call(path, *arguments, **options)

            return change

        with monkeypatch.context() as patched:
            for name in REPLACED:
                patched.setattr(Path, name, killing(getattr(Path, name)))
            patched.setattr("dmlbench.reporting.folder.shutil.rmtree", lambda *arguments, **options: None)
            try:
                write_report(target, NEW)
                ended = True
            except KeyboardInterrupt:
                pass
        assert without_manifest(check_target(tmp_path, target.name)) in (OLD, NEW)
        write_report(target, NEW)
        assert without_manifest(target) == NEW
        assert not (tmp_path / f".{step}.old").exists()
    assert step > len(OLD) + 2


def test_a_report_whose_replacement_was_killed_is_rendered_anew(results, tmp_path, monkeypatch):
    old = files(small(results, tmp_path))
    with monkeypatch.context() as patched:
        patched.setattr("dmlbench.reporting.page._write_pages", killed)
        with pytest.raises(KeyboardInterrupt):
            small(results, tmp_path)
    assert files(small(results, tmp_path)) == old
    assert list(tmp_path.iterdir()) == [tmp_path / "r"]


def killed(*arguments):
    raise KeyboardInterrupt


def test_a_folder_beside_the_report_under_the_name_of_an_old_one_is_kept(results, tmp_path):
    small(results, tmp_path)
    (tmp_path / ".r.old").mkdir()
    (tmp_path / ".r.old" / "notes.txt").write_text("years of work")
    before = files(tmp_path)
    with pytest.raises(UserError, match=r"\.r\.old: has no manifest.json"):
        small(results, tmp_path)
    assert files(tmp_path) == before


def test_an_empty_folder_takes_a_report(results, tmp_path):
    (tmp_path / "r").mkdir()
    assert "index.html" in files(small(results, tmp_path))


@pytest.mark.parametrize("name", ["", "..", "a/b", "/x", ".hidden", "-x", "x" * 300])
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


def test_a_folder_of_the_users_named_as_an_old_report_stays(results, tmp_path):
    own = tmp_path / "reports" / ".mine.old"
    own.mkdir(parents=True)
    (own / "notes.txt").write_text("work")
    with pytest.raises(UserError, match=r"\.mine\.old"):
        render(results, "mine", tmp_path / "reports")
    assert (own / "notes.txt").read_text() == "work"
    assert not (tmp_path / "reports" / "mine").exists()
