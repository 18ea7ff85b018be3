import errno
import json
import os
import threading
import time
from dataclasses import asdict
from pathlib import Path

import pytest

from dmlbench.results import locks as claims
from dmlbench.results.locks import LostClaimError, Owner, claim, holder, read_owner, this_host

ELSEWHERE = ("another-boot", "node2")
HOUR = 3600.0


@pytest.fixture
def quick(monkeypatch):
    """Hearts that beat ten times a second."""
    monkeypatch.setattr(claims, "BEAT", 0.1)
    monkeypatch.setattr(claims, "WATCH", 0.5)


def abandoned(folder: Path, age: float = HOUR, content: str | None = None) -> Path:
    """The claim of a host that died so many seconds ago (negative: by a clock that was ahead)."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ".claim"
    path.write_text(json.dumps(asdict(Owner(*ELSEWHERE, 1))) if content is None else content)
    os.utime(path, (time.time() - age,) * 2)
    return path


def test_a_claim_is_exclusive_across_processes_and_dies_with_its_holder(tmp_path, hold):
    folder = tmp_path / "cell"
    first, claimed = hold(folder)
    assert claimed
    _, second_claimed = hold(folder)
    assert not second_claimed
    with claim(folder) as ours:
        assert not ours
    first.kill()
    first.wait()
    with claim(folder) as ours:
        assert ours
        _, third_claimed = hold(folder)
        assert not third_claimed
    with claim(folder) as ours:
        assert ours


def test_a_claim_ends_with_an_error(tmp_path):
    with pytest.raises(RuntimeError, match="boom"), claim(tmp_path):
        raise RuntimeError("boom")
    with claim(tmp_path) as claimed:
        assert claimed


def test_nothing_stays_of_a_claim_but_the_lock_file_while_there_is_no_result(tmp_path):
    with claim(tmp_path):
        assert read_owner(tmp_path).pid == os.getpid()
    assert [path.name[:6] for path in tmp_path.iterdir()] == [".lock-"]
    with claim(tmp_path):
        (tmp_path / "summary.json").touch()
    assert [path.name for path in tmp_path.iterdir()] == ["summary.json"]


def test_a_living_claim_of_another_host_is_respected_at_once(tmp_path):
    begun = time.monotonic()
    with claim(tmp_path, ELSEWHERE) as theirs:
        assert theirs
        with claim(tmp_path) as ours:
            assert ours is None
        assert holder(tmp_path).name == "node2"
    assert time.monotonic() - begun < 2
    with claim(tmp_path) as ours:
        assert ours
        assert holder(tmp_path).name == this_host()[1]


@pytest.mark.parametrize("age", [HOUR, -HOUR])
@pytest.mark.parametrize("content", [None, "", "{}"])
def test_a_host_that_does_not_beat_while_watched_is_dead(tmp_path, quick, age, content):
    abandoned(tmp_path, age, content)
    begun = time.monotonic()
    with claim(tmp_path) as ours:
        assert time.monotonic() - begun >= claims.WATCH
        assert read_owner(tmp_path) == ours.owner
        ours.check()


@pytest.mark.parametrize("age", [HOUR, -HOUR])
def test_a_host_whose_clock_is_wrong_but_whose_heart_beats_lives(tmp_path, quick, age):
    path, ended = abandoned(tmp_path, age), threading.Event()

    def beat():
        while not ended.wait(0.1):
            os.utime(path, (time.time() - age,) * 2)

    heart = threading.Thread(target=beat)
    heart.start()
    try:
        with claim(tmp_path) as ours:
            assert ours is None
    finally:
        ended.set()
        heart.join()


def test_the_heart_beats_while_a_claim_is_held(tmp_path, quick):
    with claim(tmp_path):
        path = tmp_path / ".claim"
        os.utime(path, (time.time() - HOUR,) * 2)
        time.sleep(0.5)
        assert time.time() - path.stat().st_mtime < HOUR / 2


def test_who_was_taken_over_may_not_write_and_leaves_the_new_claim(tmp_path, quick):
    with claim(tmp_path, ELSEWHERE) as theirs:
        theirs.check()
        abandoned(tmp_path)  # another owner's, by its token
        with pytest.raises(LostClaimError, match="taken over"):
            theirs.check()
        before = read_owner(tmp_path)
    assert read_owner(tmp_path) == before


def test_a_dead_process_of_this_host_is_no_holder_and_no_hindrance(tmp_path, hold):
    process, claimed = hold(tmp_path)
    assert claimed
    assert holder(tmp_path).pid == process.pid
    process.kill()
    process.wait()
    assert read_owner(tmp_path).pid == process.pid
    assert holder(tmp_path) is None
    begun = time.monotonic()
    with claim(tmp_path) as ours:
        assert ours
    assert time.monotonic() - begun < 2


@pytest.mark.parametrize("age", [HOUR, -HOUR])
def test_an_old_claim_of_another_host_is_nobody_s_for_those_who_look(tmp_path, age):
    abandoned(tmp_path, age)
    assert holder(tmp_path) is None
    assert holder(tmp_path / "nowhere") is None


@pytest.mark.parametrize("host", [this_host()[0], "another"])
def test_a_turn_at_burying_whose_process_was_killed_is_no_hindrance(tmp_path, quick, host):
    abandoned(tmp_path)
    turn = tmp_path / ".claim-turn"
    turn.write_text(host)
    os.utime(turn, (time.time() + HOUR,) * 2)  # by a clock that was ahead
    with claim(tmp_path) as ours:
        ours.check()
        assert not turn.exists()


def test_drafts_of_killed_writers_are_swept_and_plans_are_not(tmp_path):
    names = (".checkpoint.pt.0123.tmp", ".claim-0123.tmp", ".now-0123.tmp", ".spec.yaml.0123.tmp", "history.csv")
    for name in names:
        (tmp_path / name).touch()
    with claim(tmp_path):
        assert sorted(path.name for path in tmp_path.iterdir() if not path.name.startswith((".lock", ".claim"))) == [
            ".spec.yaml.0123.tmp",
            "history.csv",
        ]


def test_a_claim_that_cannot_be_read_is_not_lost(tmp_path, monkeypatch):
    with claim(tmp_path) as ours:

        def broken(*_, **__):
            raise OSError(errno.EIO, "Input/output error")

        with monkeypatch.context() as patch:
            patch.setattr(Path, "read_text", broken)
            with pytest.raises(OSError, match="Input/output"):
                ours.check()
        ours.check()


@pytest.mark.parametrize("links", [True, False])
def test_of_many_hosts_that_find_a_dead_claim_one_gets_it(tmp_path, quick, monkeypatch, links):
    if not links:

        def refuse(*_):
            raise PermissionError(1, "Operation not permitted")

        monkeypatch.setattr(os, "link", refuse)
    abandoned(tmp_path)
    winners, done = [], threading.Barrier(8)

    def contend(number):
        with claim(tmp_path, (f"host{number:04}", f"node{number}")) as ours:
            if ours:
                winners.append(ours)
            done.wait()  # nobody lets go before all have tried
            if ours:
                ours.check()

    threads = [threading.Thread(target=contend, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(winners) == 1
