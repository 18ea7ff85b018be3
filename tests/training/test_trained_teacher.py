"""A teacher that was trained before: `--set distillation.teacher_weights=FILE`."""

import pytest
import torch
from safetensors.torch import save_file

from dmlbench.data.loader import Batch
from dmlbench.errors import UserError
from dmlbench.models.model import weights_of
from dmlbench.modifiers.rkd import angular_loss, relational_loss
from dmlbench.seeding import stream_seed
from dmlbench.specs.registry import MethodSettings, Registry
from dmlbench.training.build import TrainingSet, build_seeded_model, build_trainer

CPU = torch.device("cpu")


@pytest.fixture
def trained(make_protocol, tmp_path):
    """A file of another network's weights, and that network."""
    network = build_seeded_model(make_protocol(), 7, CPU)
    path = tmp_path / "teacher.safetensors"
    save_file(weights_of([network]), path)
    return path, network


def resolve(name, **given):
    return Registry().resolve(name, "glyphs", "tiny", MethodSettings({}, given))


def trainer_of(method, protocol):
    model = build_seeded_model(protocol, 0, CPU)
    torch.manual_seed(stream_seed(0, 0, "loss"))
    return build_trainer(method, protocol, model, TrainingSet(4, 24), CPU)


def batch(seed=0) -> Batch:
    images = torch.randn(8, 1, 16, 16, generator=torch.Generator().manual_seed(seed))
    return Batch(images, torch.arange(8) // 2, torch.arange(8))


def test_the_student_learns_from_it_from_the_first_step_on(make_protocol, trained):
    path, network = trained
    trainer = trainer_of(resolve("ms+rkd", teacher_weights=str(path)), make_protocol())
    trainer.train()
    own = trainer.model(batch().images)
    _, added = trainer.step(batch(), 0, torch.Generator())
    targets = network.eval()(batch().images)
    expected = (relational_loss(own, targets) + 2 * angular_loss(own, targets)).detach()
    assert float(added) == pytest.approx(float(expected), rel=1e-4)


def test_it_stays_as_it_is(make_protocol, trained):
    path, network = trained
    trainer = trainer_of(resolve("ms+rkd", teacher_weights=str(path)), make_protocol())
    trainer.train()
    for epoch in range(2):
        trainer.step(batch(epoch), epoch, torch.Generator())
        trainer.end_epoch()
    teacher = trainer.modifier.teacher.network.state_dict()
    assert all(torch.equal(teacher[name], value) for name, value in network.state_dict().items())


def test_the_base_starts_as_without_it(make_protocol, trained):
    plain, with_teacher = (
        trainer_of(resolve("ms+psd", **given), make_protocol()) for given in ({}, {"teacher_weights": str(trained[0])})
    )
    first, second = (one.model.state_dict() for one in (plain, with_teacher))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_its_content_is_hashed_and_its_folder_is_not_named(trained, tmp_path):
    method = resolve("ms+rkd", teacher_weights=str(trained[0]))
    copied = tmp_path / "other.safetensors"
    copied.write_bytes(trained[0].read_bytes())
    assert resolve("ms+rkd", teacher_weights=str(copied)).identity() == method.identity()
    assert method.identity() != resolve("ms+rkd").identity()
    assert method.distillation.settings()["teacher_weights"] == "teacher.safetensors"
    copied.write_bytes(copied.read_bytes() + b" ")
    assert resolve("ms+rkd", teacher_weights=str(copied)).identity() != method.identity()
    assert not any("adaptation" in mark for mark in method.marks)  # this is the paper's kind of teacher
    assert (method.distillation.teacher, method.distillation.teacher_mode) == ("weights", "eval")


def test_files_that_are_none(tmp_path):
    with pytest.raises(UserError, match=r"teacher_weights: no file of weights .*; `run --keep weights` writes"):
        resolve("ms+rkd", teacher_weights=str(tmp_path / "none.safetensors"))


def test_weights_of_another_network(make_protocol, tmp_path):
    save_file({"head.weight": torch.zeros(2, 2)}, path := tmp_path / "teacher.safetensors")
    with pytest.raises(UserError, match="does not fit the network of its spec"):
        trainer_of(resolve("ms+rkd", teacher_weights=str(path)), make_protocol())


@pytest.mark.parametrize("name", ["ms+psd-ema", "ms+psd-mem", "ms+s2sd", "ms"])
def test_methods_with_another_teacher_take_none(name):
    spec = Registry().resolve(name, "glyphs", "conv4-64")
    assert "teacher_weights" not in (spec.distillation or spec.loss).accepted()
