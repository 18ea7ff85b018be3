"""What someone who opens the MLflow UI finds: experiments, methods with their seeds, curves, the report."""

import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.browser.conftest import Window
from tests.tracking.servers import free_port

pytestmark = pytest.mark.slow
MATRIX = ("run", "--methods", "ms,ms+psd", "--datasets", "glyphs", "--seeds", "2", "--set", "training.epochs=2")
MS, PSD = "ms, training.epochs=2", "ms+psd, training.epochs=2"
EXPERIMENT = "dmlbench/conv4-64/glyphs"
WAIT = 60_000  # milliseconds: a shared machine, and a front end of many megabytes


@contextmanager
def ui(folder: Path, environment: dict[str, str]) -> Iterator[str]:
    """`dmlbench ui` on a free port, as soon as it answers; gives what it printed."""
    port, log = free_port(), folder / "ui.log"
    command = [str(Path(sys.executable).with_name("dmlbench")), "ui", "--port", str(port)]
    options = {"cwd": folder, "env": environment | {"PYTHONUNBUFFERED": "1"}, "start_new_session": True}
    with log.open("w") as out, subprocess.Popen(command, stdout=out, stderr=out, **options) as process:
        try:
            wait_for(f"http://127.0.0.1:{port}/health", process)
            while "all experiments: " not in log.read_text():  # it looks for the server, too, and then prints links
                assert process.poll() is None, log.read_text()
                time.sleep(0.2)
            yield log.read_text()
        finally:
            os.killpg(process.pid, signal.SIGINT)
            process.wait(timeout=60)


def wait_for(address: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while True:
        try:
            with urllib.request.urlopen(address, timeout=10):  # noqa: S310 - our own server
                return
        except OSError:
            assert process.poll() is None, "the server ended"
            assert time.monotonic() < deadline, "no answer within two minutes"
            time.sleep(0.5)


def rows(page) -> list[str]:
    """The names in the table of runs, from top to bottom."""
    links = page.locator(
        '.ag-pinned-left-cols-container a[href*="/runs/"], .ag-center-cols-container a[href*="/runs/"]'
    )
    found = [(link.bounding_box()["y"], link.inner_text().strip()) for link in links.all() if link.is_visible()]
    return [name for _, name in sorted(found)]


@pytest.fixture(scope="module")
def served(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The UI of two methods with two seeds and a report; what `dmlbench ui` printed."""
    folder = tmp_path_factory.mktemp("served")
    script = str(Path(sys.executable).with_name("dmlbench"))
    for command in (MATRIX, ("report", "--name", "first", "--tracking", "auto")):
        subprocess.run([script, *command], cwd=folder, env=environment, check=True, capture_output=True)
    with ui(folder, environment) as printed:
        yield printed


@pytest.fixture
def seen(window) -> Iterator[Window]:
    opened = window()
    opened.page.set_default_timeout(WAIT)
    yield opened
    opened.screenshot("last")


@pytest.fixture
def methods_page(served: str) -> str:
    found = re.search(rf"(http://\S+)  {EXPERIMENT}$", served, flags=re.MULTILINE)
    assert found, served
    return found[1]


def test_the_list_of_experiments_says_dataset_and_protocol(seen, served):
    listed = re.search(r"http://\S+/#/experiments\?\S+$", served, flags=re.MULTILINE)
    assert listed, served
    seen.open(listed[0])
    row = seen.page.get_by_role("row").filter(has_text=EXPERIMENT)
    row.wait_for()
    text = " ".join(row.inner_text().split())
    assert "glyphs, conv4-64: " in text
    assert "dataset : glyphs" in text
    assert seen.outside(listed[0].partition("/#")[0]) == []


def test_an_experiment_is_described(seen, methods_page):
    seen.open(methods_page.partition("&viewStateShareKey")[0])
    page = seen.page
    link = page.get_by_role("link", name="methods, best R@1 first")
    link.wait_for()
    link.locator("xpath=ancestor::div[.//button][1]").get_by_role("button").last.click()  # an arrow without a name
    page.get_by_text("2,000 training images of 100 classes").wait_for()
    assert page.get_by_role("cell", name="weight decay").is_visible()


def test_methods_are_ranked(seen, methods_page):
    seen.open(methods_page)
    page = seen.page
    page.get_by_role("link", name=PSD, exact=True).wait_for()
    assert sorted(rows(page)) == sorted([MS, PSD])
    headers = " ".join(page.locator(".ag-header-cell").all_inner_texts())
    for column in ("final/recall_at_1", "ci95/recall_at_1", "gain/recall_at_1", "gain/recall_at_1_low"):
        assert column in headers


def test_seeds_are_below_their_method(seen, methods_page):
    seen.open(methods_page)
    seen.follow("runs under their methods")
    page = seen.page
    page.get_by_role("link", name=PSD, exact=True).wait_for()  # the report is a link of the description, too
    assert sorted(rows(page)) == sorted([MS, PSD, "report first"])
    page.locator(".ag-row").filter(has_text=PSD).get_by_role("button").last.click()
    page.get_by_role("link", name=f"{PSD}, seed 0").wait_for()
    names = rows(page)
    below = names.index(PSD) + 1
    assert sorted(names[below : below + 2]) == [f"{PSD}, seed 0", f"{PSD}, seed 1"]
    assert len(names) == 5


def test_charts_compare_methods_by_epoch(seen, methods_page):
    seen.open(methods_page)
    seen.follow("methods by epoch")
    page = seen.page
    legend = page.get_by_text(re.compile(r"^ms.* \(test/recall_at_1\)$"))
    legend.nth(1).wait_for()
    assert set(legend.all_inner_texts()) == {f"{MS} (test/recall_at_1)", f"{PSD} (test/recall_at_1)"}
    for group in (MS, PSD):
        assert page.get_by_text(f"Group: {group}", exact=True).is_visible()
    assert sorted(rows(page)) == [
        f"{method}, seed {seed}" for method in (PSD, MS) for seed in (0, 1)
    ]  # and no method's run
    curves = page.locator(".js-plotly-plot").first.locator(".scatterlayer .trace path.js-line")
    curves.nth(1).wait_for(state="attached")
    assert [curve for curve in curves.all() if "L" in curve.get_attribute("d")]


def test_the_description_leads_to_the_report(seen, methods_page):
    seen.open(methods_page)
    seen.follow("report first")
    page = seen.page
    page.get_by_text("index.html", exact=True).first.click()
    page.frame_locator("iframe").get_by_role("heading", name="conv4-64 on glyphs").first.wait_for()
    assert seen.outside(methods_page.partition("/#")[0]) == []
