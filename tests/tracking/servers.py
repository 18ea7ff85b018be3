"""Tracking servers of every kind: one that hangs, one that answers 500, and real ones on SQLite or PostgreSQL."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def hanging() -> Iterator[str]:
    """Takes every connection and never says a word."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def failing() -> AbstractContextManager[str]:
    """Answers 500 to everything."""
    return answering(500)


def refusing() -> AbstractContextManager[str]:
    """Answers 403 to everything."""
    return answering(403)


@contextmanager
def answering(code: int) -> Iterator[str]:
    """Answers everything with one status."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.send_error(code)

        do_GET = do_POST = do_PUT = answer  # noqa: N815 - the handler's interface

        def log_message(self, *_: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class MLflowServer:
    """A real server that can be stopped and started again at its address."""

    def __init__(self, folder: Path, store: str) -> None:
        self.uri = f"http://127.0.0.1:{(port := free_port())}"
        self._folder = folder
        self._command = [
            sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
            "--backend-store-uri", store, "--artifacts-destination", str(folder / "artifacts"),
        ]  # fmt: skip
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        environment = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command, cwd=self._folder, stdout=log, stderr=log, start_new_session=True,
                env=environment | {"MLFLOW_DISABLE_TELEMETRY": "true"},
            )  # fmt: skip
        for _ in range(600):
            try:
                with urllib.request.urlopen(f"{self.uri}/health", timeout=1):  # noqa: S310 - our own server
                    return
            except OSError:
                if self._process.poll() is not None:
                    break
                time.sleep(0.1)
        raise AssertionError(f"no MLflow server: {(self._folder / 'server.log').read_text()[-2000:]}")

    def stop(self) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, 9)
            self._process.wait()
            self._process = None


@contextmanager
def mlflow_server(folder: Path, store: str) -> Iterator[MLflowServer]:
    server = MLflowServer(folder, store)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def postgresql_programs() -> Path | None:
    """The folder of Debian's PostgreSQL server programs, or None."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if found:
        return found[-1].parent
    on_path = shutil.which("initdb")
    return Path(on_path).parent if on_path else None


@contextmanager
def postgresql(programs: Path) -> Iterator[str]:
    """A database server of its own; its address for SQLAlchemy. It refuses to run as root.

    Its folder is none of pytest's, which are the user's alone: every session that begins makes them so again.
    """
    with tempfile.TemporaryDirectory(prefix="dmlbench-postgresql-", ignore_cleanup_errors=True) as folder:
        yield from _serving(Path(folder), programs)


def _serving(folder: Path, programs: Path) -> Iterator[str]:
    data, port = folder / "data", free_port()
    prefix: list[str] = []
    if os.geteuid() == 0:
        shutil.chown(folder, "postgres")
        prefix = ["runuser", "-u", "postgres", "--"]

    def run(*command: object, check: bool = True) -> None:
        subprocess.run([*prefix, *map(str, command)], check=check, capture_output=True, cwd="/", timeout=120)

    run(programs / "initdb", "-D", data, "-U", "tracking", "--auth", "trust", "-E", "UTF8", "--no-sync")
    options = f"-p {port} -c listen_addresses=127.0.0.1 -k {folder} -c fsync=off"
    run(programs / "pg_ctl", "-D", data, "-w", "-l", folder / "log", "-o", options, "start")
    try:
        yield f"postgresql://tracking@127.0.0.1:{port}/postgres"
    finally:
        # Within a minute, or it gives up, which a busy machine can bring about: that is no failure of a test.
        run(programs / "pg_ctl", "-D", data, "-m", "immediate", "stop", check=False)
        if (identity := data / "postmaster.pid").is_file():
            with suppress(ProcessLookupError):
                os.kill(int(identity.read_text().split()[0]), signal.SIGKILL)
