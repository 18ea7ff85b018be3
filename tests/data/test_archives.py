import hashlib
import socket
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from dmlbench.data import cub, sop
from dmlbench.data.archives import fetch, verify
from dmlbench.errors import UserError

PART = ".a.zip.dmlbench.part"
BODY = b"published contents" * 1000
SHA256 = f"sha256:{hashlib.sha256(BODY).hexdigest()}"
MD5 = f"md5:{hashlib.md5(BODY).hexdigest()}"  # noqa: S324 - as published


@pytest.fixture
def server():
    """Serves `BODY` at /good (in ranges, too) and at /whole (never in ranges), other bytes at /wrong, at /torn the
    first 5,000 bytes of what was asked for, at /untold and /unnumbered without a length, at /endless without an end,
    at /empty nothing. Counts requests and remembers the ranges asked for.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked = self.headers.get("Range")
            self.server.requests += 1
            self.server.ranges.append(asked)
            if self.path == "/missing":
                self.send_error(404)
                return
            if self.path == "/endless":
                self.send_response(200)
                self.end_headers()
                with suppress(OSError):  # until nobody listens any more
                    while True:
                        self.wfile.write(BODY)
            body = {"/wrong": BODY[::-1], "/empty": b""}.get(self.path, BODY)
            start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and self.path != "/whole" else 0
            if start >= len(body) > 0:
                self.send_error(416)
                return
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
            if self.path != "/untold":
                self.send_header("Content-Length", "many" if self.path == "/unnumbered" else str(len(body) - start))
            self.end_headers()
            self.wfile.write(body[start : start + 5000] if self.path == "/torn" else body[start:])

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as served:
        served.requests, served.ranges = 0, []
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


def test_a_damaged_file_of_the_cache_is_replaced(server, tmp_path, monkeypatch):
    monkeypatch.setattr("dmlbench.data.archives.cache_dir", lambda: tmp_path)
    (tmp_path / "a.zip").write_bytes(b"damaged")
    fetch(f"{server.address}/good", tmp_path / "a.zip", SHA256, print)
    assert (tmp_path / "a.zip").read_bytes() == BODY


def test_another_file_of_that_name_in_a_folder_of_the_users_is_kept(server, tmp_path):
    (tmp_path / "a.zip").write_bytes(b"precious")
    with pytest.raises(UserError, match=r"a\.zip: is not the published file, and is not replaced; move it away"):
        fetch(f"{server.address}/good", tmp_path / "a.zip", SHA256, print)
    assert (tmp_path / "a.zip").read_bytes() == b"precious"
    assert left_over(tmp_path) == ["a.zip"]
    assert server.requests == 0


def test_other_contents_are_refused_and_leave_nothing(server, tmp_path):
    with pytest.raises(UserError, match=f"expected {SHA256}, received") as caught:
        fetch(f"{server.address}/wrong", tmp_path / "a.zip", SHA256, print)
    assert "\n" not in str(caught.value)
    assert left_over(tmp_path) == []


def test_a_broken_transfer_goes_on_where_it_stopped(server, tmp_path):
    calls = []
    for there in (5000, 10_000, 15_000):
        with pytest.raises(UserError, match=f"broke after {there} of {len(BODY)} bytes.*to resume"):
            fetch(f"{server.address}/torn", tmp_path / "a.zip", MD5, print, lambda *done: calls.append(done))
        assert left_over(tmp_path) == [PART]
    fetch(f"{server.address}/good", tmp_path / "a.zip", MD5, print, lambda *done: calls.append(done))
    assert server.ranges == [None, "bytes=5000-", "bytes=10000-", "bytes=15000-"]
    assert (tmp_path / "a.zip").read_bytes() == BODY
    assert left_over(tmp_path) == ["a.zip"]
    assert calls == [(done, len(BODY)) for done in (5000, 10_000, 15_000, len(BODY))]


def test_a_server_without_ranges_sends_it_anew(server, tmp_path):
    (tmp_path / PART).write_bytes(b"something else")
    fetch(f"{server.address}/whole", tmp_path / "a.zip", SHA256, print)
    assert (tmp_path / "a.zip").read_bytes() == BODY


def test_a_partial_file_that_is_whole_is_taken(server, tmp_path):
    (tmp_path / PART).write_bytes(BODY)
    fetch(f"{server.address}/good", tmp_path / "a.zip", SHA256, print)
    assert (tmp_path / "a.zip").read_bytes() == BODY


@pytest.mark.parametrize("there", [b"x" * 100, b"x" * 20_000])
def test_a_partial_file_of_other_contents_does_not_last(server, tmp_path, there):
    (tmp_path / PART).write_bytes(there)
    with pytest.raises(UserError, match="nothing was kept"):
        fetch(f"{server.address}/good", tmp_path / "a.zip", SHA256, print)
    assert left_over(tmp_path) == []
    fetch(f"{server.address}/good", tmp_path / "a.zip", SHA256, print)


def test_an_error_of_the_server_says_what_to_place_where(server, tmp_path):
    with pytest.raises(UserError, match=r"404.*place a\.zip") as caught:
        fetch(f"{server.address}/missing", tmp_path / "a.zip", SHA256, print)
    assert str(tmp_path) in str(caught.value)
    assert left_over(tmp_path) == []


def test_a_refused_connection_says_what_to_place_where(tmp_path):
    with socket.socket() as taken:  # bound, but nobody listens
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/a.zip"
        with pytest.raises(UserError, match=r"cannot download .*place a\.zip") as caught:
            fetch(url, tmp_path / "a.zip", SHA256, print)
    assert SHA256 in str(caught.value)
    assert "\n" not in str(caught.value)
    assert left_over(tmp_path) == []


@pytest.mark.parametrize("url", ["ftp://example.org/a.zip", "file:///etc/hostname"])
def test_only_the_web(tmp_path, url):
    with pytest.raises(ValueError, match="https"):
        fetch(url, tmp_path / "a.zip", SHA256, print)


def test_verify(tmp_path):
    path = tmp_path / "a.zip"
    path.write_bytes(BODY)
    verify(path, SHA256)
    with pytest.raises(UserError, match=f"{len(BODY)} bytes"):
        verify(path, "sha256:" + "0" * 64)
    with pytest.raises(UserError, match="cannot be read"):
        verify(tmp_path / "absent", SHA256)


@pytest.mark.parametrize("path", ["untold", "unnumbered"])
def test_a_length_that_is_missing_or_no_number_is_not_needed(server, tmp_path, path):
    calls = []
    fetch(f"{server.address}/{path}", tmp_path / "a.zip", SHA256, print, lambda *done: calls.append(done))
    assert (tmp_path / "a.zip").read_bytes() == BODY
    assert calls == [(len(BODY), 0)]


def test_a_transfer_without_end_is_ended(server, tmp_path):
    with pytest.raises(UserError, match="the server sends more than 100000 bytes, and the published file is smaller"):
        fetch(f"{server.address}/endless", tmp_path / "a.zip", SHA256, print, most=100_000)
    assert left_over(tmp_path) == []


def test_a_file_that_says_it_is_too_large_is_not_read(server, tmp_path):
    calls = []
    with pytest.raises(UserError, match=f"the server sends {len(BODY)} bytes, and the published file is smaller"):
        fetch(f"{server.address}/good", tmp_path / "a.zip", SHA256, print, lambda *done: calls.append(done), most=99)
    assert calls == left_over(tmp_path) == []


def test_an_empty_answer_is_said(server, tmp_path):
    with pytest.raises(UserError, match="the server sends nothing"):
        fetch(f"{server.address}/empty", tmp_path / "a.zip", SHA256, print)
    assert left_over(tmp_path) == []


def test_published_sizes_bound_what_is_downloaded():
    assert (cub.RELEASE.archive.size, cub.RELEASE.archive.most >> 20) == ("1.1 GiB", 1239)
    assert (sop.RELEASE.archive.size, sop.RELEASE.archive.most >> 20) == ("2.9 GiB", 3266)


@pytest.mark.parametrize("path", ["/whole", "/wrong", "/good"])
def test_a_partial_file_of_a_browser_stays(server, tmp_path, path):
    (tmp_path / "a.zip.part").write_bytes(b"of a browser")
    with suppress(UserError):
        fetch(f"{server.address}{path}", tmp_path / "a.zip", SHA256, print)
    assert (tmp_path / "a.zip.part").read_bytes() == b"of a browser"
