import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from dmlbench.analysis.estimates import accuracy
from dmlbench.analysis.groups import Group
from dmlbench.analysis.published import reproduction
from dmlbench.specs.method import PublishedFigure
from dmlbench.specs.registry import REPLACED, Registry
from tests.analysis.fake_values import values
from tests.typed import NONE, settings


def ours(dataset="cub", protocol="resnet50-128", method="ms", selection="best_test", **changes):
    runs = values({method: [0.620, 0.630, 0.625]}, dataset=dataset)
    changes["overrides"] = settings(changes.pop("variant", ""))
    return accuracy(runs.assign(protocol=protocol, selection=selection, **changes))


def of_r(accuracy, *others):
    """The figure of Roth et al. in what `reproduction` gives, which has those of other protocols, too."""
    found = reproduction(accuracy, *others)
    (row,) = found[found["published_protocol"] == "resnet50-128"].to_dict("records")
    return row


def test_a_published_figure_beside_ours():
    row = of_r(ours())
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
    row = of_r(ours(**changes))
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


OF_R = {"contrastive": 61.50, "triplet": 62.87, "margin": 63.09, "ms": 62.80}  # facts: R@1 on CUB
IDML = {  # facts: R@1 and MAP@R on CUB, Cars, SOP
    "contrastive": ((65.6, 24.7), (82.7, 25.7), (76.4, 47.9)),
    "margin": ((65.9, 24.9), (82.6, 26.5), (78.5, 50.2)),
    "ms": ((67.3, 25.5), (83.3, 27.4), (78.1, 49.9)),
    "proxyanchor": ((69.0, 27.5), (87.3, 31.8), (79.5, 50.5)),
}
REALITY_CHECK = {  # facts: MAP@R on CUB, Cars, SOP
    "contrastive": (26.5, 24.9, 44.4), "triplet": (23.6, 23.0, 43.3), "margin": (23.0, 24.1, 41.8),
    "ms": (26.5, 27.0, 46.5),
}  # fmt: skip
DATASETS = ("cub", "cars", "sop")


def found_for(methods, metric, selection):
    frames = [ours(dataset, method=method, metric=metric, selection=selection)
              for dataset in DATASETS for method in methods]  # fmt: skip
    return reproduction(pd.concat(frames)).set_index(["published_protocol", "method", "dataset"]).sort_index()


def test_figures_of_our_protocol_are_compared_and_those_of_others_are_not():
    methods = (*OF_R, "proxyanchor")
    found = found_for(methods, "recall_at_1", "best_test")
    same = found.loc["resnet50-128"]
    assert len(same) == 4 * 3
    assert (same["not_comparable"] == "").all()
    for method, value in OF_R.items():
        assert same.loc[(method, "cub"), "published"] == pytest.approx(value / 100)
    others = found.drop("resnet50-128")
    assert set(others.index.get_level_values(0)) == {
        "idml-resnet50-512", "proxyanchor-resnet50-512", "proxyanchor-bninception-512", "sfora-resnet50-512"
    }  # fmt: skip
    assert others["not_comparable"].str.fullmatch("protocol .*, ours resnet50-128").all()
    assert others["difference"].isna().all()


def test_reruns_of_unknown_seeds_and_selection_are_shown():
    for index, metric in enumerate(("recall_at_1", "map_at_r")):
        found = found_for(IDML, metric, "best_test").loc["idml-resnet50-512"]
        assert found["published_seeds"].isna().all()
        for method, pairs in IDML.items():
            shown = [found.loc[(method, dataset), "published"] for dataset in DATASETS]
            assert shown == pytest.approx([pair[index] / 100 for pair in pairs])


def test_the_reality_checks_figures_are_beside_validation():
    found = found_for(REALITY_CHECK, "map_at_r", "validation").loc["mlrc-bninception"]
    for method, figures in REALITY_CHECK.items():
        assert [found.loc[(method, own), "published"] for own in DATASETS] == pytest.approx([f / 100 for f in figures])
    assert (found["not_comparable"] == "protocol mlrc-bninception, ours resnet50-128").all()


def test_a_mean_of_unknown_seeds_is_not_compared(monkeypatch):
    figure = PublishedFigure(dataset="cub", protocol="resnet50-128", metric="recall_at_1", value=60, seeds=None,
                             selection="best-test", source="a poster")  # fmt: skip
    monkeypatch.setattr("dmlbench.analysis.published._figures", lambda: [("ms", figure)])
    assert of_r(ours())["not_comparable"] == "of how many seeds it is the mean is not known"


def test_semihard_triplets_have_figures_of_their_own():
    """Not those of the shipped file, which mines by distance."""
    file = Registry().file("triplet")
    own = {(figure.dataset, file.computes(figure)): figure.value for figure in file.published
           if figure.protocol == "resnet50-128"}  # fmt: skip
    assert own == {
        ("cub", True): 62.87, ("cars", True): 79.13, ("sop", True): 77.39,
        ("cub", False): 60.09, ("cars", False): 72.51, ("sop", False): 73.61,
    }  # fmt: skip


def test_other_images_are_not_compared_whatever_they_are_called():
    group = Group("resnet50-128", NONE, "cub")
    row = of_r(ours(), {group: "images of the user's own"})
    assert row["not_comparable"] == "images of the user's own"
    assert math.isnan(row["difference"])


def test_a_reason_names_no_folder_of_the_user():
    row = of_r(ours(variant="model.weights=/home/alice smith/w.pth"))
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
