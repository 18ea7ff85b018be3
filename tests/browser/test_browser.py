"""The fixtures themselves: a test that sees nothing must not pass for that."""

from pathlib import Path

import pytest

PAGE = """<!doctype html><title>x</title><style>
body { background: white } @media (prefers-color-scheme: dark) { body { background: black } }
</style><img src="data:image/gif;base64,R0lGODlhAQABAAAAACwAAAAAAQABAAA="><script>%s</script>"""


@pytest.fixture
def page(tmp_path: Path):
    def write(script: str = "") -> Path:
        path = tmp_path / "page.html"
        path.write_text(PAGE % script)
        return path

    return write


def test_a_quiet_page_is_quiet(window, page):
    seen = window()
    seen.open(page())
    assert seen.errors == []
    assert seen.outside("file://") == []
    assert seen.requests[0] == page().as_uri()
    assert seen.screenshot("page").stat().st_size > 100


def test_errors_and_requests_are_seen(window, page):
    seen = window()
    seen.open(page("console.error('told'); setTimeout(() => fetch('http://127.0.0.1:9/x').catch(() => 0)); boom()"))
    seen.page.wait_for_timeout(300)
    assert "told" in seen.errors
    assert any("boom is not defined" in error for error in seen.errors)
    assert seen.outside("file://") == ["http://127.0.0.1:9/x"]


@pytest.mark.parametrize(("dark", "colour"), [(False, "rgb(255, 255, 255)"), (True, "rgb(0, 0, 0)")])
def test_the_colour_scheme_is_the_one_asked_for(window, page, dark, colour):
    seen = window(dark=dark)
    seen.open(page())
    assert seen.page.evaluate("getComputedStyle(document.body).backgroundColor") == colour
