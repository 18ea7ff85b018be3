"""matplotlib as every figure uses it: the user's `matplotlibrc` changes nothing, and no name is mathematics."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

from matplotlib import style

# Names of classes, files, methods and settings come from users: a dollar sign is a dollar sign.
NAMES_ARE_TEXT = {"text.parse_math": False}


def plotting(own: Mapping[str, Any] | None = None) -> AbstractContextManager[None]:
    """A context in which figures are made and drawn: matplotlib's own defaults, changed by nothing but `own`.

    Args:
        own: Settings of matplotlib (`rcParams`) for this figure.
    """
    return style.context(["default", NAMES_ARE_TEXT | dict(own or {})])
