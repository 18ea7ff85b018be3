import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from dmlbench.analysis.estimates import accuracy
from dmlbench.analysis.groups import Group
from dmlbench.analysis.published import reproduction
from dmlbench.specs.method import PublishedFigure
from dmlbench.specs.registry import REPLACED
from tests.analysis.fake_values import values
from tests.typed import NONE, settings


def ours(dataset="cub", protocol="resnet50-128", method="ms", selection="best_test", **changes):
    runs = values({method: [0.620, 0.630, 0.625]}, dataset=dataset)
    changes["overrides"] = settings(changes.pop("variant", ""))
    return accuracy(runs.assign(protocol=protocol, selection=selection, **changes))


def test_a_published_figure_beside_ours():
    (row,) = reproduction(ours()).to_dict("records")
    assert (row["published"], row["published_std"], row["published_seeds"]) == pytest.approx((0.6280, 0.0070, 5))
    sample_std = 0.0070 * math.sqrt(5 / 4)  # theirs is a population standard deviation
    theirs = 0.6280 + np.array([-1, -1, 0, 1, 1]) * sample_std
    theirs = 0.6280 + (theirs - theirs.mean()) * sample_std / theirs.std(ddof=1)
    expected = stats.ttest_ind([0.620, 0.630, 0.625], theirs, equal_var=False).confidence_interval(0.95)
    assert row["difference"] == pytest.approx(-0.003)
    assert (row["difference_low"], row["difference_high"]) == pytest.approx((expected.low, expected.high))
    assert row["not_comparable"] == ""
    assert "Roth et al. 2020" in row["source"]


def test_ours_is_taken_at_the_same_choice_of_the_epoch():
    assert reproduction(ours(selection="last")).empty


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"protocol": "resnet50-512"}, "protocol resnet50-128, ours resnet50-512"),
        ({"variant": "training.epochs=3"}, "our protocol was changed: training.epochs=3"),
        ({"marks": REPLACED.format("ms")}, "the user's own method file"),
    ],
)
def test_what_is_not_comparable_says_why(changes, reason):
    (row,) = reproduction(ours(**changes)).to_dict("records")
    assert row["not_comparable"] == reason
    assert math.isnan(row["difference"])


def test_settings_of_a_method_make_another_method():
    assert reproduction(ours(method="ms{alpha=3}")).empty


def test_nothing_is_published_for_the_embedded_set():
    assert reproduction(ours(dataset="glyphs", protocol="conv4-64")).empty


def test_a_figure_without_spread_counts_as_exact():
    found = reproduction(ours(method="proxyanchor", protocol="proxyanchor-resnet50-512"))
    row = found[found["not_comparable"] == ""].to_dict("records")[0]
    assert row["published"] == pytest.approx(0.699)
    half = stats.t.ppf(0.975, 2) * np.std([0.620, 0.630, 0.625], ddof=1) / math.sqrt(3)
    assert row["difference_high"] - row["difference_low"] == pytest.approx(2 * half)


def test_every_shipped_figure_can_be_compared():
    methods = ("contrastive", "triplet", "margin", "ms", "proxyanchor")
    frames = [ours(dataset, method=method) for dataset in ("cub", "cars", "sop") for method in methods]
    found = reproduction(pd.concat(frames))
    assert len(found[found["metric"] == "recall_at_1"]) == 4 * 3 + 5
    assert (found.loc[found["method"] != "proxyanchor", "not_comparable"] == "").all()


def test_other_images_are_not_compared_whatever_they_are_called():
    group = Group("resnet50-128", NONE, "cub")
    (row,) = reproduction(ours(), {group: "images of the user's own"}).to_dict("records")
    assert row["not_comparable"] == "images of the user's own"
    assert math.isnan(row["difference"])


def test_a_reason_names_no_folder_of_the_user():
    (row,) = reproduction(ours(variant="model.weights=/home/alice smith/w.pth")).to_dict("records")
    assert row["not_comparable"] == "our protocol was changed: model.weights=…/w.pth"


def test_an_unknown_choice_of_the_epoch_is_not_compared(monkeypatch):
    figure = PublishedFigure(dataset="cub", protocol="resnet50-128", metric="recall_at_1", value=60, seeds=1,
                             selection="unknown", source="a poster")  # fmt: skip
    monkeypatch.setattr("dmlbench.analysis.published._figures", lambda: [("ms", figure)])
    (row,) = reproduction(ours()).to_dict("records")
    assert row["not_comparable"] == "how the epoch was chosen is not known"


def test_a_published_nmi_is_compared_with_ours_of_its_own_procedure_alone():
    asked = "evaluation.nmi_revisiting=true"
    other, own = ours(metric="nmi", variant=asked), ours(metric="nmi_revisiting", variant=asked)
    found = reproduction(pd.concat([other, own])).set_index("metric")
    assert set(found["published"]) == {0.6855}
    assert found.loc["nmi", "not_comparable"] == "NMI by another k-means; ours by --set evaluation.nmi_revisiting=true"
    assert math.isnan(found.loc["nmi", "difference"])
    assert found.loc["nmi_revisiting", "not_comparable"] == ""
    assert found.loc["nmi_revisiting", "difference"] == pytest.approx(0.625 - 0.6855)
    (changed,) = reproduction(ours(metric="nmi_revisiting", variant=f"{asked}, training.epochs=3")).to_dict("records")
    assert changed["not_comparable"] == "our protocol was changed: training.epochs=3"
