"""`dmlbench ui` serves the runs of this folder, to this machine only."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.e2e.conftest import TINY, Command


@pytest.fixture
def dmlbench(installed: Command) -> Command:
    """The installed script: it serves in a process of its own."""
    return installed


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answer(url: str, body: dict, process: subprocess.Popen) -> dict:
    """The server's answer, as soon as it is up."""
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})  # noqa: S310 - http
    deadline = time.monotonic() + 120
    while True:
        assert process.poll() is None, "the server ended"
        try:
            with urllib.request.urlopen(request, timeout=10) as reply:  # noqa: S310
                return json.load(reply)
        except (urllib.error.URLError, ConnectionError):
            assert time.monotonic() < deadline, "no answer within two minutes"
            time.sleep(0.5)


def browser(folder: Path) -> tuple[Path, int, int]:
    """A browser that notes the page and whether its server answers; and a terminal, where one is opened unasked."""
    script = folder / "browser"
    ask = "import sys, urllib.request as r; print(sys.argv[1], r.urlopen(sys.argv[1].partition('#')[0]).status)"
    script.write_text(f'#!/bin/sh\n{sys.executable} -c "{ask}" "$1" > page.part && mv page.part page\n')
    script.chmod(0o755)
    return script, *os.openpty()


def text_of(path: Path, process: subprocess.Popen[bytes]) -> str:
    deadline = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None, "the server ended"
        assert time.monotonic() < deadline, "no browser was opened within two minutes"
        time.sleep(0.5)
    return path.read_text()


@pytest.mark.slow
def test_ui_opens_and_serves_the_runs_on_this_machine_and_ends_with_its_server(
    dmlbench: Command, tmp_path: Path, environment: dict[str, str]
) -> None:
    done = dmlbench("run", "--methods", "ms", "--datasets", "glyphs", *TINY, "--seeds", "1")
    assert done.returncode == 0, done.stderr
    report = tmp_path / "reports" / "first" / "index.html"
    report.parent.mkdir(parents=True)
    report.write_text("<title>first</title>")
    for module in ("statistics", "random", "string"):  # a user's scripts, which are no modules of ours
        (tmp_path / f"{module}.py").write_text("open('RAN', 'w').close()\n")
    port, errors = free_port(), tmp_path / "errors"
    command = [str(Path(sys.executable).with_name("dmlbench")), "ui", "--port", str(port)]
    opened, shown, terminal = browser(tmp_path)
    environment = environment | {"BROWSER": f"{opened} %s"}
    own = {"start_new_session": True, "cwd": tmp_path, "env": environment, "stdout": terminal}
    with errors.open("w") as err, subprocess.Popen(command, stderr=err, **own) as process:
        try:
            page = opened.with_name("page")
            runs = (
                f"http://127.0.0.1:{port}/#/experiments/1/runs?workflowType=machine_learning&viewStateShareKey=methods"
            )
            assert text_of(page, process).split() == [runs, "200"]  # opened when the server answers, not before
            url = f"http://127.0.0.1:{port}/api/2.0/mlflow/experiments/search"
            found = answer(url, {"max_results": 10}, process)
            assert "dmlbench/conv4-64/glyphs" in {experiment["name"] for experiment in found["experiments"]}
            with socket.socket() as elsewhere, pytest.raises(OSError, match="refused"):
                elsewhere.connect(("127.0.0.2", port))  # loopback, but not the address it listens on
            taken = dmlbench("ui", "--port", str(port))  # whose pages would be taken for ours
            assert (taken.returncode, taken.stdout) == (2, "")
            assert f"error: --port {port}: Address already in use; try --port {port + 1}" in taken.stderr
        finally:
            process.terminate()  # Ctrl-C takes the same way
            code = process.wait(timeout=60)
    assert code == 0
    assert errors.read_text() == "starting the MLflow UI, up to half a minute ...\n"  # and nothing of the server's
    os.set_blocking(shown, False)
    said = os.read(shown, 100_000).decode()
    assert f"report: {report.as_uri()}" in said
    first = next(line for line in said.splitlines() if "http://" in line)
    assert first.split() == [runs, "dmlbench/conv4-64/glyphs"]  # of runs, not of MLflow's overview
    assert not (tmp_path / "RAN").exists()

    failed = dmlbench("ui", "--port", str(port), MLFLOW_WORKERS="many")
    assert failed.returncode == 1
    assert "Invalid value for '--workers'" in failed.stderr
    assert failed.stderr.endswith("error: the MLflow server ended; its last lines are above\n")
    with socket.socket() as left:  # no process of the server's own is
        left.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        left.bind(("127.0.0.1", port))
