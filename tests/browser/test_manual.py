"""The manual in a real browser, opened from a disk: it asks nobody, finds pages, draws formulas, fits a telephone."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow
PAGES = ("index", "start", "guides/run", "reference/cli", "reference/metrics", "results/omniglot-small", "design/index")


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("manual") / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", folder]
    subprocess.run(command, cwd=ROOT, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, capture_output=True, check=True)
    return folder


def test_pages_ask_nobody_and_show_every_image(site, window) -> None:
    seen = window()
    for name in PAGES:
        seen.open(site / f"{name}.html")
        seen.page.wait_for_function("[...document.images].every(image => image.complete)")
        assert seen.page.evaluate("[...document.images].filter(image => !image.naturalWidth).map(i => i.src)") == [], (
            name
        )
    assert seen.outside("file://") == []
    assert seen.errors == []


def test_search_finds_a_page(site, window) -> None:
    seen = window()
    seen.open(site / "index.html")
    seen.page.fill("input.md-search__input", "successive halving")
    seen.page.locator(".md-search-result__item a").first.wait_for(state="attached")
    found = seen.page.locator(".md-search-result__item a").first
    assert "guides/tune.html" in found.get_attribute("href")


def test_formulas_are_drawn(site, window) -> None:
    seen = window()
    seen.open(site / "reference" / "metrics.html")
    heights = seen.page.evaluate(
        "[...document.querySelectorAll('.math math')].map(m => m.getBoundingClientRect().height)"
    )
    assert len(heights) == 5
    assert min(heights) > 20  # a fraction is higher than a line


@pytest.mark.parametrize("name", PAGES)
def test_a_telephone_needs_no_sideways_scroll(name, site, window) -> None:
    seen = window(width=400)
    seen.open(site / f"{name}.html")
    assert seen.page.evaluate("document.documentElement.scrollWidth") <= 400
