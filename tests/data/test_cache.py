from pathlib import Path

import pytest
from platformdirs.macos import MacOS
from platformdirs.unix import Unix
from platformdirs.windows import Windows

from dmlbench.data.family import cache_dir
from dmlbench.errors import UserError


def test_xdg_cache_home_wins(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_dir() == tmp_path / "dmlbench"


@pytest.mark.parametrize("given", ["", "relative/folder"])
@pytest.mark.parametrize(
    ("platform", "folder"),
    [(Unix, ".cache"), (MacOS, "Library/Caches"), (Windows, "AppData/Local")],
)
def test_falls_back_to_the_platforms_custom(monkeypatch, given, platform, folder):
    """Where downloads have been since the first release."""
    monkeypatch.setenv("XDG_CACHE_HOME", given)
    monkeypatch.setattr("platformdirs.windows.get_win_folder", lambda _: str(Path.home() / "AppData" / "Local"))
    monkeypatch.setattr("platformdirs.PlatformDirs", platform)
    assert cache_dir() == Path.home() / folder / "dmlbench"


def test_a_user_without_home_is_told_what_to_set(monkeypatch):
    def nobody(_: int) -> None:
        raise KeyError("uid not found")

    for name in ("XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", nobody)
    with pytest.raises(UserError, match=r"no home folder.*set XDG_CACHE_HOME"):
        cache_dir()
