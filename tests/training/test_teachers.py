import copy

import pytest
import torch
from torch.nn.functional import normalize

from dmlbench.data.loader import Batch
from dmlbench.errors import UserError
from dmlbench.models.model import build_model
from dmlbench.modifiers import StepContext, distillation_loss, obdsd_targets, psd_targets
from dmlbench.modifiers.teachers import Memory, PreviousEpoch, folded
from dmlbench.specs.protocol_spec import InputSpec, ModelSpec
from dmlbench.specs.registry import Registry
from tests.training.conftest import step_context

CONV4 = ModelSpec(backbone="conv4", embedding_dim=64)
INPUT = InputSpec(channels=1, size=28, resize=28, mean=(0.5,), std=(0.25,), augmentation="none")


def embeddings(seed: int, count: int = 3) -> torch.Tensor:
    return normalize(torch.randn(count, 4, generator=torch.Generator().manual_seed(seed)))


def batch_of(*indices: int, images: torch.Tensor | None = None) -> StepContext:
    images = torch.zeros(len(indices), 1, 2, 2) if images is None else images
    return step_context(Batch(images, torch.zeros(len(indices), dtype=torch.int64), torch.tensor(indices)))


def test_an_image_is_remembered_as_it_was_seen_last():
    memory = Memory(images=5, embedding_dim=4)
    first, second, now = embeddings(1), embeddings(2), embeddings(3)
    memory.after_step(batch_of(0, 1, 2), first)
    memory.after_step(batch_of(2, 3, 0), second)
    taught = memory.embeddings(batch_of(0, 1, 2), now)
    assert torch.equal(taught, torch.stack([second[2], first[1], second[0]]))


def test_an_image_not_seen_yet_stands_for_itself():
    memory = Memory(images=5, embedding_dim=4)
    first, now = embeddings(1), embeddings(2)
    memory.after_step(batch_of(0, 1, 2), first)
    taught = memory.embeddings(batch_of(3, 1, 4), now)
    assert torch.equal(taught, torch.stack([now[0], first[1], now[2]]))


def test_recalling_changes_nothing():
    memory = Memory(images=5, embedding_dim=4)
    memory.after_step(batch_of(0, 1, 2), embeddings(1))
    before = {name: tensor.clone() for name, tensor in memory.state_dict().items()}
    memory.embeddings(batch_of(0, 3, 4), embeddings(2))
    assert all(torch.equal(before[name], tensor) for name, tensor in memory.state_dict().items())


def test_of_an_image_drawn_twice_the_later_embedding_stays():
    memory = Memory(images=5, embedding_dim=4)
    given = embeddings(1)
    memory.after_step(batch_of(1, 1, 0), given)
    assert torch.equal(memory.embeddings(batch_of(1, 0, 1), embeddings(2)), given[[1, 2, 1]])


def test_the_first_epoch_fills_the_memory_and_teaches_nothing(make_trainer, train):
    trainer = make_trainer("ms+psd-mem", 75)
    (row,) = train(trainer, range(1))
    assert row["train/distillation_loss"] == 0.0
    assert trainer.modifier.teacher.seen.any()
    kept = trainer.modifier.teacher.kept[trainer.modifier.teacher.seen]
    torch.testing.assert_close(kept.norm(dim=1), torch.ones(len(kept)))
    assert (trainer.modifier.teacher.kept[~trainer.modifier.teacher.seen] == 0).all()


@pytest.mark.parametrize("modifier", ["psd-mem", "obdsd-mem"])
def test_targets_come_from_the_memory(modifier, make_trainer, train, batch, mining):
    trainer = make_trainer(f"ms+{modifier}", 75)
    train(trainer, range(1))
    trainer.model.eval()  # a forward pass below must not move the statistics
    with torch.no_grad():
        student = trainer.model(batch.images)
        taught = torch.where(
            trainer.modifier.teacher.seen[batch.indices, None], trainer.modifier.teacher.kept[batch.indices], student
        )
        targets = psd_targets(taught, 1.0) if modifier == "psd-mem" else obdsd_targets(taught, 1.0, 0.99, 1.0)
        expected = 75 * 2 / 4 * distillation_loss(student, targets, 1.0)
    _, distilled = trainer.step(batch, 2, mining)
    assert float(distilled) == float(expected)
    assert torch.equal(trainer.modifier.teacher.kept[batch.indices], student)


def test_a_memory_needs_no_second_forward_pass(make_trainer, train):
    trainer, passes = make_trainer("ms+psd-mem", 75), []
    trainer.model.head.register_forward_hook(lambda *_: passes.append(1))
    train(trainer, range(2))
    steps = len(passes)
    plain, passes_of_base = make_trainer("ms"), []
    plain.model.head.register_forward_hook(lambda *_: passes_of_base.append(1))
    train(plain, range(2))
    assert steps == len(passes_of_base)
    assert not any(isinstance(module, type(trainer.model)) for module in trainer.modifier.teacher.modules())


def random_statistics(network):
    """As after training: BatchNorm that is no identity."""
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean):
                torch.nn.init.normal_(tensor, 0.5)
            torch.nn.init.uniform_(module.running_var, 0.1, 2)
    return network.eval().requires_grad_(False)


def test_folding_changes_nothing_but_the_time():
    network = random_statistics(build_model(CONV4, INPUT))
    images = torch.randn(32, 1, 28, 28)
    reference, quick = network(images), folded(copy.deepcopy(network))
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in quick.modules())
    assert sum(isinstance(module, torch.nn.BatchNorm2d) for module in network.modules()) == 4
    torch.testing.assert_close(quick(images), reference, rtol=0, atol=4e-7)
    in_doubles = copy.deepcopy(network).double()(images.double())
    assert (quick(images) - in_doubles).abs().max() <= 4e-7


def test_only_neighbours_in_a_sequence_are_folded():
    apart = torch.nn.ModuleDict({"conv": torch.nn.Conv2d(1, 2, 3), "norm": torch.nn.BatchNorm2d(2)}).eval()
    folded(apart)
    assert isinstance(apart["norm"], torch.nn.BatchNorm2d)
    others = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.ReLU(), torch.nn.BatchNorm2d(2)).eval()
    assert [type(module) for module in folded(others)] == [torch.nn.Conv2d, torch.nn.ReLU, torch.nn.BatchNorm2d]


class Skipping(torch.nn.Sequential):
    """Reads its convolution's output a second time, as a dense block does."""

    def forward(self, images):
        convolved = self[0](images)
        return convolved + self[1](convolved)


def test_a_sequence_with_a_way_of_its_own_stays():
    network = Skipping(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2)).eval()
    images = torch.randn(4, 1, 8, 8)
    expected = network(images)
    assert torch.equal(folded(network)(images), expected)


def test_a_resnet_is_folded_where_it_is_a_sequence():
    rgb = InputSpec(channels=3, size=32, resize=32, mean=(0.5,) * 3, std=(0.25,) * 3, augmentation="none")
    plain = random_statistics(build_model(ModelSpec(backbone="torchvision:resnet18", embedding_dim=16), rgb))
    quick = folded(copy.deepcopy(plain))
    left = [sum(isinstance(part, torch.nn.BatchNorm2d) for part in one.modules()) for one in (plain, quick)]
    assert left == [20, 17]
    images = torch.randn(4, 3, 32, 32)
    torch.testing.assert_close(quick(images), plain(images), rtol=0, atol=1e-5)


class NormAndActivation(torch.nn.BatchNorm2d):
    """As timm has it: folding it would lose the activation."""

    def forward(self, images):
        return super().forward(images).relu()


@pytest.mark.parametrize(
    "following", [NormAndActivation(2), torch.nn.BatchNorm2d(2, track_running_stats=False), torch.nn.InstanceNorm2d(2)]
)
def test_what_computes_something_else_stays(following):
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), following).eval()
    images = torch.randn(4, 1, 8, 8)
    expected = network(images)
    assert folded(network)[1] is following
    assert torch.equal(network(images), expected)


def test_a_parametrised_convolution_stays():
    convolution = torch.nn.utils.parametrizations.weight_norm(torch.nn.Conv2d(1, 2, 3))
    network = folded(torch.nn.Sequential(convolution, torch.nn.BatchNorm2d(2)).eval())
    assert isinstance(network[1], torch.nn.BatchNorm2d)


def test_an_interrupted_training_remembers(make_trainer, train):
    whole, begun, resumed = (make_trainer("ms+obdsd-mem", 75) for _ in range(3))
    train(whole, range(3))
    train(begun, range(2))
    resumed.restore(begun.state())
    train(resumed, range(2, 3))
    for name, tensor in whole.modifier.teacher.state_dict().items():
        assert torch.equal(tensor, resumed.modifier.teacher.state_dict()[name])
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[name])


def test_a_measurement_may_leave_the_teacher_as_it_is():
    network = build_model(CONV4, INPUT)
    images = torch.randn(3, 1, 28, 28)
    plain, quick = PreviousEpoch("eval", fold=False), PreviousEpoch("eval")
    for teacher in (plain, quick):
        teacher.after_epoch(network)
    batch = batch_of(0, 1, 2, images=images)
    assert plain.folds(network)
    assert norms(plain.network) == 4
    assert norms(quick.network) == 0
    assert torch.allclose(plain.embeddings(batch, images), quick.embeddings(batch, images), atol=1e-5)


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_weights_rounded_once_give_the_bits_of_autocast(mode, precision):
    network = random_statistics(build_model(CONV4, INPUT)).train()
    images = torch.randn(8, 1, 28, 28)
    batch = batch_of(*range(8), images=images)
    plain, once = PreviousEpoch(mode), PreviousEpoch(mode, autocast=precision)
    with torch.autocast("cpu", dtype=precision), torch.no_grad():
        for _ in range(2):
            plain.after_epoch(network)
            once.after_epoch(network)
            assert torch.equal(once.embeddings(batch, images), plain.embeddings(batch, images))
            network.head.weight.add_(0.1)
    assert {own.weight.dtype for own in once.network.modules() if type(own) in (torch.nn.Conv2d, torch.nn.Linear)} == {
        precision
    }
    assert {own.dtype for own in network.parameters()} == {torch.float32}


def norms(network):
    return sum(isinstance(module, torch.nn.BatchNorm2d) for module in network.modules())


def test_a_teacher_in_training_mode_uses_the_batchs_statistics():
    """As in the official code: its embeddings are those of the student in training mode, whose statistics stay."""
    network = random_statistics(build_model(CONV4, INPUT)).train()
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    teacher = PreviousEpoch()
    teacher.after_epoch(network)
    assert not teacher.folds(network)
    images = torch.randn(8, 1, 28, 28)
    batch = batch_of(*range(8), images=images)
    taught = teacher.embeddings(batch, images)
    assert all(torch.equal(before[name], buffer) for name, buffer in network.named_buffers())
    assert torch.equal(taught, copy.deepcopy(network)(images))
    assert not torch.allclose(taught, copy.deepcopy(network).eval()(images), atol=1e-2)


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_frozen_batchnorm_is_folded_and_makes_the_modes_equal(mode):
    network = random_statistics(build_model(CONV4.model_copy(update={"freeze_batchnorm": True}), INPUT)).train()
    teacher = PreviousEpoch(mode)
    teacher.after_epoch(network)
    assert teacher.folds(network)
    assert norms(teacher.network) == 0
    images = torch.randn(8, 1, 28, 28)
    batch = batch_of(*range(8), images=images)
    torch.testing.assert_close(teacher.embeddings(batch, images), network.eval()(images), rtol=0, atol=4e-7)


def test_dropout_of_a_teacher_leaves_the_students_stream(make_trainer, batch, mining):
    ends = []
    for name in ("ms", "ms+psd"):
        trainer = make_trainer(name)
        trainer.model.backbone.pool = torch.nn.Sequential(trainer.model.backbone.pool, torch.nn.Dropout(0.5))
        trainer.step(batch, 0, mining)
        trainer.end_epoch()
        torch.manual_seed(5)
        trainer.step(batch, 1, mining)
        ends.append(torch.get_rng_state())
    assert torch.equal(*ends)


EMA = """\
name: psd-ema
title: Self-distillation from a moving average
kind: modifier
class: psd
paper: null
teacher: ema
parameters:
  lambda: {value: 75.0, source: a test}
  tau: {value: 1.0, source: a test}
  momentum: {value: 0.9, source: a test}
"""


@pytest.fixture
def make_averaged(make_trainer, tmp_path):
    (tmp_path / "psd-ema.yaml").write_text(EMA)

    def make(lambda_=75, **settings):
        return make_trainer("ms+psd-ema", lambda_, methods_dir=tmp_path, settings=settings)

    return make


def test_a_moving_average_follows_the_student_after_every_step(make_averaged, batch, mining):
    trainer = make_averaged(momentum=0.75)
    before = [parameter.detach().clone() for parameter in trainer.model.parameters()]
    trainer.step(batch, 1, mining)
    teacher = trainer.modifier.teacher.network
    for own, old, new in zip(teacher.parameters(), before, trainer.model.parameters(), strict=True):
        torch.testing.assert_close(own, 0.75 * old + 0.25 * new)
    for own, new in zip(teacher.buffers(), trainer.model.buffers(), strict=True):
        assert torch.equal(own, new)


def test_a_moving_average_teaches_the_same_images(make_averaged, batch, mining):
    trainer = make_averaged(teacher_mode="eval")
    trainer.step(batch, 0, mining)
    trainer.model.eval()
    with torch.no_grad():
        targets = psd_targets(trainer.modifier.teacher.network(batch.images), 1.0)
        expected = 75 * 2 / 4 * distillation_loss(trainer.model(batch.images), targets, 1.0)
    assert float(trainer.step(batch, 2, mining)[1]) == float(expected)


def test_a_moving_average_survives_an_interruption(make_averaged, train):
    whole, begun, resumed = (make_averaged() for _ in range(3))
    train(whole, range(3))
    train(begun, range(2))
    resumed.restore(begun.state())
    train(resumed, range(2, 3))
    assert whole.state()["modifier"].keys() == resumed.state()["modifier"].keys() != set()
    for one, other in ((whole.model, resumed.model), (whole.modifier, resumed.modifier)):
        assert all(torch.equal(own, other.state_dict()[name]) for name, own in one.state_dict().items())


def test_a_moving_average_of_weight_zero_is_the_base(make_averaged, make_trainer, train):
    base, averaged = make_trainer("ms"), make_averaged(0)
    train(base, range(2))
    train(averaged, range(2))
    assert all(torch.equal(own, averaged.model.state_dict()[name]) for name, own in base.model.state_dict().items())


def test_a_momentum_is_for_a_moving_average(make_averaged, tmp_path):
    with pytest.raises(UserError, match="momentum: must be below 1"):
        make_averaged(momentum=1.0)
    (tmp_path / "psd-ema.yaml").write_text(EMA.replace("teacher: ema", "teacher: memory"))
    with pytest.raises(UserError, match="unknown key 'momentum'"):
        Registry(tmp_path).resolve("ms+psd-ema", "glyphs", "conv4-64")
