import pickle
import random
import zipfile

import pytest
import torch

from dmlbench.training import checkpoint
from dmlbench.training.checkpoint import NAME, PREVIOUS, Checkpoint, Pace
from tests.training.test_trainer import BASES, state, without_timings

MADE_BY = {"cell": "0123", "code": "abcd"}


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def two(tmp_path):
    """A folder with the checkpoints of two epochs."""
    for epoch in (1, 2):
        rows = [{"epoch": past, "train/loss": past / 3} for past in range(epoch + 1)]
        checkpoint.save(tmp_path, Checkpoint(MADE_BY, epoch, {"weights": torch.full((50,), epoch / 7)}, rows))
    return tmp_path


@pytest.mark.parametrize("name", [f"{base}{modifier}" for base in BASES for modifier in ("", "+psd", "+obdsd")])
def test_a_training_that_goes_on_equals_one_that_was_not_interrupted(name, make_trainer, train, tmp_path, said):
    schedule = {"milestones": (2, 3), "gamma": 0.1}
    whole = make_trainer(name, **schedule)
    rows = train(whole, range(4))

    part = make_trainer(name, **schedule)
    first = train(part, range(2))
    checkpoint.save(tmp_path, Checkpoint(MADE_BY, 2, part.state(), first))
    resumed = make_trainer(name, **schedule)
    past = checkpoint.load(tmp_path, MADE_BY, said.append)
    resumed.restore(past.trainer)
    assert past.rows == first
    assert without_timings(first + train(resumed, range(2, 4))) == without_timings(rows)
    ours, theirs = state(whole), state(resumed)
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert said == ["resumes after epoch 2, from checkpoint.pt"]


KEEPING = """
import torch

class Keeping:
    tau = 1.0

    def __init__(self):
        self.seen = torch.zeros(3)

    def targets(self, teacher_embeddings):
        return torch.eye(len(teacher_embeddings))

    def state_dict(self):
        return {"seen": self.seen}

    def load_state_dict(self, state):
        self.seen = state["seen"]
"""


def test_what_a_distillation_keeps_is_kept(make_trainer, tmp_path):
    (tmp_path / "keeping.py").write_text(KEEPING)
    (tmp_path / "keeping.yaml").write_text(
        "{name: keeping, title: K, kind: distillation, class: Keeping, plugin: keeping.py, paper: null, parameters: {}}"
    )
    one, other = (make_trainer("ms+keeping", methods_dir=tmp_path) for _ in range(2))
    one.modifier.distillation.seen = torch.arange(3.0)
    other.restore(one.state())
    assert torch.equal(other.modifier.distillation.seen, torch.arange(3.0))


def test_the_last_one_is_taken_and_all_of_it_comes_back(two, said):
    found = checkpoint.load(two, MADE_BY, said.append)
    assert (found.epoch, found.made_by) == (2, MADE_BY)
    assert found.rows[2] == {"epoch": 2, "train/loss": 2 / 3}
    assert torch.equal(found.trainer["weights"], torch.full((50,), 2 / 7))
    assert sorted(path.name for path in two.iterdir()) == [PREVIOUS, NAME]
    checkpoint.clear(two)
    assert list(two.iterdir()) == []
    assert checkpoint.load(two, MADE_BY, said.append) == Checkpoint(MADE_BY)
    assert said == ["resumes after epoch 2, from checkpoint.pt"]


@pytest.mark.parametrize("kept", [0, 1, 100, 0.5, 0.9, 0.999])
def test_a_truncated_one_falls_back_to_the_one_before(two, said, kept):
    content = (two / NAME).read_bytes()
    (two / NAME).write_bytes(content[: int(kept if kept >= 1 else kept * len(content))])
    assert checkpoint.load(two, MADE_BY, said.append).epoch == 1
    assert said[0].startswith("checkpoint.pt: cannot be read (")
    assert said[1] == "resumes after epoch 1, from checkpoint.previous.pt"


def test_a_flipped_byte_never_changes_a_weight(two, said):
    content, draws = (two / NAME).read_bytes(), random.Random(0)  # noqa: S311 - no secret
    epochs = set()
    for _ in range(200):
        place = draws.randrange(len(content))
        (two / NAME).write_bytes(content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :])
        found = checkpoint.load(two, MADE_BY, said.append)
        epochs.add(found.epoch)
        assert torch.equal(found.trainer["weights"], torch.full((50,), found.epoch / 7))
    assert 1 in epochs


def test_both_damaged_means_from_the_start(two, said):
    (two / NAME).write_bytes(b"nothing")
    (two / PREVIOUS).unlink()
    assert checkpoint.load(two, MADE_BY, said.append) == Checkpoint(MADE_BY)
    assert said == ["checkpoint.pt: cannot be read (BadZipFile); it is left out"]


def test_a_foreign_one_is_left_out_and_says_what_differs(two, said):
    assert checkpoint.load(two, MADE_BY | {"code": "ef01"}, said.append).rows == []
    assert said[0] == "checkpoint.pt: is of another run (code abcd, now ef01); it is left out"
    assert len(said) == 2
    assert checkpoint.load(two, MADE_BY | {"gpu": "H200"}, said.append).rows == []
    assert "(gpu None, now H200)" in said[2]


def test_one_of_another_version_is_left_out(tmp_path, said, monkeypatch):
    monkeypatch.setattr(checkpoint, "VERSION", 7)
    checkpoint.save(tmp_path, Checkpoint(MADE_BY, 1))
    monkeypatch.undo()
    assert checkpoint.load(tmp_path, MADE_BY, said.append).epoch == 0
    assert said == ["checkpoint.pt: is of version 7, not 1; it is left out"]


def test_code_in_a_checkpoint_is_never_run(tmp_path, said):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "run"), "w"))

    torch.save({"version": 1, "made_by": MADE_BY, "trainer": Bomb()}, tmp_path / NAME)
    with zipfile.ZipFile(tmp_path / NAME) as archive:
        assert any(b"run" in archive.read(name) for name in archive.namelist())
    (tmp_path / PREVIOUS).write_bytes(pickle.dumps(Bomb()))
    assert checkpoint.load(tmp_path, MADE_BY, said.append).epoch == 0
    assert not (tmp_path / "run").exists()
    assert len(said) == 2


def test_cheap_checkpoints_are_written_every_epoch():
    pace = Pace()
    assert pace.due(0.0)
    pace.wrote(0.0, 0.2)
    assert pace.due(0.2)


def test_dear_checkpoints_take_a_twentieth_of_the_time_at_most():
    """A second to write and two to train: 40 epochs write four."""
    pace, now, written = Pace(), 0.0, []
    for epoch in range(40):
        now += 2
        if pace.due(now):
            pace.wrote(now, now + 1)
            now += 1
            written.append(epoch)
    assert written == [0, 10, 20, 30]


def test_a_slow_disk_costs_two_minutes_of_training_at_most():
    pace = Pace()
    pace.wrote(0.0, 30.0)
    assert not pace.due(149.0)
    assert pace.due(150.0)
