from pathlib import Path

import pytest

from dmlbench.data.family import cache_dir
from dmlbench.errors import UserError


def test_xdg_cache_home_wins(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_dir() == tmp_path / "dmlbench"


@pytest.mark.parametrize("given", ["", "relative/folder"])
@pytest.mark.parametrize(
    ("platform", "folder"),
    [("linux", ".cache"), ("darwin", "Library/Caches"), ("win32", "AppData/Local")],
)
def test_falls_back_to_the_platforms_custom(monkeypatch, given, platform, folder):
    monkeypatch.setenv("XDG_CACHE_HOME", given)
    monkeypatch.delenv("LOCALAPPDATA", raising=False)
    monkeypatch.setattr("sys.platform", platform)
    assert cache_dir() == Path.home() / folder / "dmlbench"


def test_a_user_without_home_is_told_what_to_set(monkeypatch):
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(UserError, match=r"no home folder.*set XDG_CACHE_HOME"):
        cache_dir()
