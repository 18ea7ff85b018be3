"""The user's cache folder, where embedded datasets are kept and downloads land when no folder was given."""

import os
import sys
from pathlib import Path

from dmlbench.errors import UserError


def cache_dir() -> Path:
    """Folder for generated and downloaded data: ``XDG_CACHE_HOME``, else the platform's custom; not created.

    Raises:
        UserError: a user without a home folder, as containers have them.
    """
    try:
        return _user_cache() / "dmlbench"
    except RuntimeError as error:
        hint = "set XDG_CACHE_HOME to the full path of a folder that can be written"
        raise UserError("this user has no home folder, so there is none for the cache", hint=hint) from error


def _user_cache() -> Path:
    given = os.environ.get("XDG_CACHE_HOME")
    if given and Path(given).is_absolute():  # the XDG specification has relative paths ignored
        return Path(given)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    return Path.home() / ".cache"
