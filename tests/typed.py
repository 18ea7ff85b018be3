"""Tables whose methods are written as reports name them, `ms{alpha=3}+dm2{ensemble}{tuned}`, with typed columns."""

import re

import pandas as pd

from dmlbench.analysis.groups import METHOD
from dmlbench.reporting.naming import named
from dmlbench.results.frames import MEAN
from dmlbench.specs.overrides import Settings

NONE = Settings()


def settings(text: str) -> Settings:
    return Settings(tuple(sorted(re.split(", (?=[a-z])", text)))) if text else NONE


def parts(name: str) -> dict:
    """What a method of this name is made of, as the columns `groups.METHOD` have it."""
    braces = re.findall(r"\{([^}]*)\}", name.partition("+")[2] if "+" in name else "")
    networks = [brace.removeprefix("member ") for brace in braces if brace == "ensemble" or brace.startswith("member ")]
    own = [brace for brace in braces if brace not in ("tuned", "ensemble") and not brace.startswith("member ")]
    of_base = [brace for brace in re.findall(r"\{([^}]*)\}", name.partition("+")[0]) if brace != "tuned"]
    first, _, modifier = re.sub(r"\{[^}]*\}", "", name).partition("+")
    return {
        "method": re.sub(r"\{[^}]*\}", "", name),
        "base": "" if name == "untrained" else first,
        "base_settings": settings(", ".join(of_base)),
        "tuned": name.endswith("{tuned}"),
        "modifier": modifier,
        "modifier_settings": settings(", ".join(own)),
        "network": networks[0] if networks else MEAN,
    }


def methods(*names: str) -> pd.DataFrame:
    return pd.DataFrame([parts(name) for name in names])


def shown(frame: pd.DataFrame) -> pd.DataFrame:
    """The same with the names that a report gives them."""
    return named(typed(frame))


def typed(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows with typed columns in the place of names, and of a text `variant`."""
    own = pd.DataFrame([parts(name) for name in frame["method"]], index=frame.index, dtype=object)
    frame = frame.assign(**{column: own[column] for column in own})
    if "variant" in frame:
        words = pd.Series([settings(text) for text in frame["variant"]], frame.index, dtype=object)
        frame = frame.drop(columns="variant").assign(overrides=words)
    if "to" in frame:
        other = [parts(name) for name in frame["to"]]
        for key in METHOD:
            frame[f"to_{key}"] = pd.Series([row[key] for row in other], frame.index, dtype=object)
    return frame
