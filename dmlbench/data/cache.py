"""The user's cache folder, where embedded datasets are kept and downloads land when no folder was given."""

import os
import sys
from pathlib import Path


def cache_dir() -> Path:
    """Folder for generated and downloaded data: ``XDG_CACHE_HOME``, else the platform's custom; not created."""
    return _user_cache() / "dmlbench"


def _user_cache() -> Path:
    given = os.environ.get("XDG_CACHE_HOME")
    if given and Path(given).is_absolute():  # the XDG specification has relative paths ignored
        return Path(given)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    return Path.home() / ".cache"
