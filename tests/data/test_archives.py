import hashlib
import socket
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from dmlbench.data import archives
from dmlbench.data.archives import fetch, verify
from dmlbench.errors import UserError

BODY = b"published contents" * 1000
SHA256 = hashlib.sha256(BODY).hexdigest()


@pytest.fixture
def server(monkeypatch):
    """Serves `BODY` at /good, other bytes at /wrong, a torn transfer at /torn; counts requests."""
    monkeypatch.setattr(archives, "SCHEMES", ("http",))

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.server.requests += 1
            if self.path == "/missing":
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(BODY)))
            self.end_headers()
            self.wfile.write({"/good": BODY, "/wrong": BODY[::-1], "/torn": BODY[:100]}[self.path])

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as served:
        served.requests = 0
        served.address = f"http://127.0.0.1:{served.server_port}"
        thread = threading.Thread(target=served.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield served
        served.shutdown()
        thread.join()


def left_over(folder):
    return [path.name for path in folder.iterdir() if not path.name.endswith(".lock")]


def test_fetches_once_and_reports_progress(server, tmp_path):
    lines = []
    for _ in range(2):
        fetch(f"{server.address}/good", tmp_path / "new" / "a.zip", SHA256, lines.append)
    assert (tmp_path / "new" / "a.zip").read_bytes() == BODY
    assert server.requests == 1
    assert len(lines) == 2
    assert left_over(tmp_path / "new") == ["a.zip"]


def test_a_damaged_destination_is_replaced(server, tmp_path):
    (tmp_path / "a.zip").write_bytes(b"damaged")
    fetch(f"{server.address}/good", tmp_path / "a.zip", SHA256, print)
    assert (tmp_path / "a.zip").read_bytes() == BODY


@pytest.mark.parametrize("path", ["wrong", "torn"])
def test_other_contents_are_refused_and_leave_nothing(server, tmp_path, path):
    with pytest.raises(UserError, match=f"expected sha256 {SHA256}, received") as caught:
        fetch(f"{server.address}/{path}", tmp_path / "a.zip", SHA256, print)
    assert "\n" not in str(caught.value)
    assert left_over(tmp_path) == []


def test_an_error_of_the_server_says_what_to_place_where(server, tmp_path):
    with pytest.raises(UserError, match=r"404.*place a\.zip") as caught:
        fetch(f"{server.address}/missing", tmp_path / "a.zip", SHA256, print)
    assert str(tmp_path) in str(caught.value)
    assert left_over(tmp_path) == []


def test_a_refused_connection_says_what_to_place_where(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "SCHEMES", ("http",))
    with socket.socket() as taken:  # bound, but nobody listens
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/a.zip"
        with pytest.raises(UserError, match=r"cannot download .*place a\.zip") as caught:
            fetch(url, tmp_path / "a.zip", SHA256, print)
    assert SHA256 in str(caught.value)
    assert "\n" not in str(caught.value)
    assert left_over(tmp_path) == []


@pytest.mark.parametrize("url", ["http://example.org/a.zip", "file:///etc/hostname"])
def test_only_https(tmp_path, url):
    with pytest.raises(ValueError, match="https"):
        fetch(url, tmp_path / "a.zip", SHA256, print)


def test_verify(tmp_path):
    path = tmp_path / "a.zip"
    path.write_bytes(BODY)
    verify(path, SHA256)
    with pytest.raises(UserError, match=f"{len(BODY)} bytes"):
        verify(path, "0" * 64)
    with pytest.raises(UserError, match="cannot be read"):
        verify(tmp_path / "absent", SHA256)
