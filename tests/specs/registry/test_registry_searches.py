import pytest

from dmlbench.specs.registry import Registry
from tests.specs.registry.fake_methods import refusal, shipped

SEARCHED = """\
name: searched
title: Searched
kind: loss
class: triplet
paper: null
parameters:
  margin: {value: 0.2, source: a test, search: SEARCH}
  mining: {value: distance, source: a test}
"""


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ("{low: 0.1}", "needs low and high, or choices"),
        ("{}", "needs low and high, or choices"),
        ("{low: 0.1, high: 0.3, choices: [0.1, 0.2]}", "needs low and high, or choices"),
        ("{low: 0.3, high: 0.1}", "low must be below high"),
        ("{low: 0, high: 1, log: true}", "with log, low must be above 0"),
        ("{choices: [0.2]}", "choices are two or more that differ"),
        ("{choices: [0.2, 0.2]}", "choices are two or more that differ"),
        ("{low: 0.1, high: 0.5, step: 0.1}", "unknown key 'step'"),
        ("{low: 0.0, high: 0.5}", "margin.search"),
        ("{choices: [0.2, wide]}", "margin.search"),
    ],
)
def test_a_search_that_cannot_be_made(search, message, mine):
    (mine / "searched.yaml").write_text(SEARCHED.replace("SEARCH", search))
    assert message in refusal("searched", mine)


def test_ends_that_a_class_bounds_together(mine):
    text = shipped("proxyanchor").replace("high: 0.2}", "high: 0.9}")
    (mine / "proxyanchor.yaml").write_text(text)
    assert "alpha * (1 + delta) must be at most 80" in refusal("proxyanchor", mine)


def test_a_pinned_file_may_have_a_search_of_its_own(mine):
    (mine / "ms+psd.yaml").write_text(
        "name: ms+psd\ntitle: Pinned\nkind: pinned\ndistillation:\n"
        "  lambda: {value: 5, source: a test, search: {low: 1, high: 9}}\n  tau: {value: 2.0, source: a test}\n"
    )
    searches = Registry(mine).searches("ms+psd")
    assert searches["distillation.lambda"].high == 9
    assert searches["loss.alpha"] == Registry().searches("ms")["loss.alpha"]
