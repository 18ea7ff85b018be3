"""Saved views of an experiment's page: what the MLflow UI lists under "Views", and what our links open.

The UI keeps a view in an experiment's tag. As read from MLflow 3.17's front end: the tag's value is JSON that names
the view and holds its state as text, for the menu; a link to a view reads the state beside them. So it is in there
twice, deflated in the first place.
"""

import base64
import json
import zlib
from typing import Any

PREFIX = "mlflow.sharedViewState."
MOST = 5000  # characters of an experiment's tag in the oldest MLflow we run with
PRIMARY = "final/recall_at_1"  # what every finished cell has, and every method with one
RANKING = (PRIMARY, "ci95/recall_at_1", "final/map_at_r", "final/nmi", "cost/overhead", "seeds")
COST = ("cost/step_ms", "cost/total_min")
BY_EPOCH = ("test/recall_at_1", "test/map_at_r", "train/loss")
AT_THE_END = (PRIMARY, "final/map_at_r", "final/nmi", "cost/step_ms", "cost/total_min")
WIDE = 130  # pixels that the longest names take
# Running and failed cells have fewer epochs than the others: a mean with them would change its seeds on the way.
FINISHED_CELLS = "tags.kind = 'cell' and attributes.status = 'FINISHED'"


def view_tags(created: int) -> dict[str, str]:
    """The tags of all views.

    Args:
        created: When the experiment was made, in milliseconds since 1970: the same for whoever writes the views.
    """
    views = {
        "methods": ("Methods, best R@1 first", _methods()),
        "epochs": ("Methods by epoch", _epochs()),
        "runs": ("Runs under their methods", _runs()),
    }
    return {f"{PREFIX}{key}": _tag(name, state, created) for key, (name, state) in views.items()}


def link(experiment: str, view: str) -> str:
    """The way to a view, from any page of the UI."""
    mode = "&compareRunsMode=CHART" if view == "epochs" else ""
    return f"#/experiments/{experiment}/runs?workflowType=machine_learning&viewStateShareKey={view}{mode}"


def _tag(name: str, state: dict[str, Any], created: int) -> str:
    text = json.dumps(state, separators=(",", ":"))
    packed = "deflate;" + base64.b64encode(zlib.compress(text.encode(), 9)).decode()
    return json.dumps({"name": name, "createdAt": created, "state": packed, **state}, separators=(",", ":"))


def _methods() -> dict[str, Any]:
    sorting = {"searchFilter": "tags.kind = 'method'", "orderByKey": _metric(PRIMARY), "orderByAsc": False}
    return sorting | _columns([*map(_metric, (*RANKING, *COST)), "tags.`marks`"])


def _runs() -> dict[str, Any]:
    return {"searchFilter": ""} | _columns([*map(_metric, (*RANKING, *COST)), "tags.`seed`"])


def _columns(keys: list[str]) -> dict[str, Any]:
    widths = dict.fromkeys(map(_metric, RANKING[:2]), WIDE)
    return {"selectedColumns": keys, "columnOrder": keys, "columnWidths": widths}


def _epochs() -> dict[str, Any]:
    by_epoch = [_chart("LINE", key, "epochs") | {"selectedMetricKeys": [key]} for key in BY_EPOCH]
    return {
        "searchFilter": FINISHED_CELLS,
        # Sorted by date, the UI would bring the methods' runs in among their cells.
        "orderByKey": _metric(PRIMARY),
        "orderByAsc": False,
        "groupBy": {"aggregateFunction": "average", "groupByKeys": [{"mode": "tag", "groupByData": "label"}]},
        "useGroupedValuesInCharts": True,
        "runsHiddenMode": "SHOW_ALL",
        "isAccordionReordered": True,  # else the sections come in order of their names
        "compareRunSections": [_section("epochs", "By epoch"), _section("end", "At the end")],
        "compareRunCharts": [*by_epoch, *(_chart("BAR", key, "end") for key in AT_THE_END)],
    }


def _chart(kind: str, metric: str, section: str) -> dict[str, Any]:
    own = {"xAxisKey": "step", "lineSmoothness": 0} if kind == "LINE" else {}
    place = {"uuid": metric, "metricSectionId": section, "deleted": False, "isGenerated": False}
    return {"type": kind, "metricKey": metric, "runsCountToCompare": 20} | place | own


def _section(key: str, name: str) -> dict[str, Any]:
    flags = dict.fromkeys(("isReordered", "deleted", "isGenerated"), False)
    return {"uuid": key, "name": name, "display": True} | flags


def _metric(key: str) -> str:
    return f"metrics.`{key}`"
