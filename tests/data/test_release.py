import pytest

from dmlbench.data import archives as release
from dmlbench.data import cub, sop
from dmlbench.data.family import cache_dir
from dmlbench.errors import UserError


@pytest.fixture
def fetched(monkeypatch):
    """What was downloaded, by a stand-in that brings nothing."""
    calls = []
    monkeypatch.setattr(release, "fetch_and_extract", lambda archive, folder, *_: calls.append((archive.name, folder)))
    return calls


@pytest.fixture
def make_copy(tmp_path):
    """A root that has all of a release's marks."""

    def make(found, *parts):
        root = tmp_path.joinpath("data", *parts)
        root.mkdir(parents=True)
        for mark in found.marks:
            (root / mark).touch()
        return root

    return make


@pytest.mark.parametrize("found", [cub.RELEASE, sop.RELEASE], ids=lambda found: found.name)
class TestRelease:
    def test_a_missing_one_is_downloaded_into_the_cache_only(self, fetched, tmp_path, found):
        found.prepare(None, print)
        assert fetched == [(found.archive.name, cache_dir())]
        found.prepare(tmp_path, print)
        assert len(fetched) == 1

    def test_one_that_is_in_the_cache_is_not_downloaded(self, fetched, make_copy, found, monkeypatch, tmp_path):
        make_copy(found, "deep", "down")
        monkeypatch.setattr(release, "cache_dir", lambda: tmp_path / "data")
        found.prepare(None, print)
        assert fetched == []

    def test_the_shallowest_of_several_is_used_and_named(self, make_copy, tmp_path, found):
        deep, shallow = make_copy(found, "a", "b"), make_copy(found, "z")
        lines = []
        assert found.root(tmp_path / "data", lines.append) == shallow != deep
        assert lines == [f"{found.name}: 2 copies below {tmp_path / 'data'}; the one in {shallow} is used"]

    def test_a_root_without_all_marks_is_none(self, make_copy, tmp_path, found):
        root = make_copy(found, "a")
        (root / found.marks[-1]).unlink()
        with pytest.raises(UserError, match=f"holds no {found.archive.folder}/.*dmlbench data fetch {found.name}"):
            found.root(tmp_path / "data", print)
