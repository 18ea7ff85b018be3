import os

from dmlbench.runner.signals import starting


def test_workers_keep_freed_memory_unless_the_user_has_a_say(monkeypatch):
    monkeypatch.setenv("MALLOC_MMAP_MAX_", "7")
    monkeypatch.delenv("MALLOC_TRIM_THRESHOLD_", raising=False)
    before = dict(os.environ)
    with starting():
        assert os.environ["MALLOC_MMAP_MAX_"] == "7"
        assert int(os.environ["MALLOC_TRIM_THRESHOLD_"]) > 1 << 35
    assert dict(os.environ) == before
    monkeypatch.delenv("MALLOC_MMAP_MAX_")
    with starting():
        assert os.environ["MALLOC_MMAP_MAX_"] == "0"
    assert "MALLOC_MMAP_MAX_" not in os.environ
