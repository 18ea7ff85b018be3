"""A real browser, Debian's chromium, for pages that people look at."""

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from tests.e2e.conftest import cache, environment  # noqa: F401 - fixtures of the command line

REQUIRE = "DMLBENCH_REQUIRE_BROWSER"
# As root, which containers are, chromium runs without its sandbox only; a container's /dev/shm may be small. What it
# would ask its maker for, unasked, is switched off.
FLAGS = (
    "--no-sandbox", "--disable-dev-shm-usage", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--no-first-run",
)  # fmt: skip
HERE = ("data:", "blob:", "about:")  # addresses that name no other place


@dataclass
class Window:
    """A page of the browser, and what it did, with the pages that it opened.

    Args:
        page: Playwright's page.
        folder: Where screenshots go.
        errors: Errors on the console, and those that no script caught.
        requests: Every address that was asked for, the page's own first.
    """

    page: Page
    folder: Path
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def open(self, address: str | Path) -> None:
        """Open an address or a file, and wait until it is loaded."""
        self.page.goto(address.resolve().as_uri() if isinstance(address, Path) else address, wait_until="load")

    def follow(self, name: str) -> None:
        """Go where a link leads that opens a page of its own."""
        with self.page.expect_popup() as opened:
            self.page.get_by_role("link", name=name).click()
        self.page = opened.value

    def outside(self, *own: str) -> list[str]:
        """The requests that left the page: neither in it, nor for the addresses that begin with `own`."""
        return [url for url in self.requests if not url.startswith((*HERE, *own))]

    def screenshot(self, name: str, *, whole: bool = False) -> Path:
        """Take a picture of what is seen, or of the whole page; its file, PNG."""
        path = self.folder / f"{name}.png"
        self.page.screenshot(path=path, full_page=whole)
        return path


def chromium() -> str | None:
    """The browser's program, or None."""
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    program = chromium()
    if program is None:
        assert not os.environ.get(REQUIRE), "a browser is required here, and chromium is not installed"
        pytest.skip("chromium is not installed")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=program, args=list(FLAGS))
        yield started
        started.close()


@pytest.fixture
def window(browser, tmp_path: Path) -> Iterator[Callable[..., Window]]:
    """Opens windows: `window(dark=True, width=390)`; each forgets what others kept."""
    contexts = []

    def opened(*, dark: bool = False, width: int = 1600, height: int = 1000) -> Window:
        scheme = "dark" if dark else "light"
        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
        contexts.append(context)
        made = Window(context.new_page(), tmp_path)
        context.on("request", lambda request: made.requests.append(request.url))
        context.on("weberror", lambda caught: made.errors.append(str(caught.error)))
        context.on("console", lambda said: made.errors.append(said.text) if said.type == "error" else None)
        return made

    yield opened
    for context in contexts:
        context.close()
