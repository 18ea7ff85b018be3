"""OBD-SD in training against the official code's own loop, with live BatchNorm.

`obdsd_trajectory.npz` holds what `main.py` of OBD-SD_Pytorch (commit d62fa86) gave on a CPU with its own criterion, for
3 epochs of the same 8 batches: Conv4 with 8 channels at 16 px, 16-d, Adam 1e-3 with weight decay 4e-4. Images, network
and logging were stand-ins; the loop, the teacher and the loss were the official ones.
"""

from pathlib import Path

import numpy as np
import pytest
import torch

from dmlbench.data.loader import Batch
from dmlbench.specs.protocol_spec import InputSpec, ModelSpec, ProtocolSpec, TrainingSpec
from dmlbench.specs.registry import MethodSettings, Registry
from dmlbench.training.build import TrainingSet, build_seeded_model, build_trainer

GOLDEN = Path(__file__).parents[1] / "goldens" / "obdsd_trajectory.npz"
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as content:
        return dict(content)


def trajectory(golden, **settings):
    """The losses (3, 8) of `ms+obdsd` on the golden's batches, from its weights."""
    weight, omega, tau_diffusion, tau, epochs, rate = golden["settings"].tolist()
    protocol = ProtocolSpec(
        name="golden",
        title="Golden",
        model=ModelSpec(backbone="conv4", kwargs={"width": 8}, embedding_dim=16),
        input=InputSpec(channels=1, size=16, resize=16, mean=(0.5,), std=(0.25,), augmentation="none"),
        training=TrainingSpec(epochs=int(epochs), batch_size=16, samples_per_class=4, learning_rate=rate),
    )
    values = {"lambda": weight, "omega": omega, "tau_diffusion": tau_diffusion, "tau": tau} | settings
    method = Registry().resolve("ms+obdsd", "glyphs", protocol.name, MethodSettings(distillation=values))
    model = build_seeded_model(protocol, 0, CPU)
    weights = {name.partition("/")[2]: value for name, value in golden.items() if name.startswith("weights/")}
    model.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
    trainer = build_trainer(method, protocol, model, TrainingSet(32, 128), CPU)
    images = (torch.from_numpy(golden["images"]).float() / 255 - 0.5) / 0.25
    losses = []
    for epoch in range(int(epochs)):
        trainer.train()
        for own, labels in zip(images, torch.from_numpy(golden["labels"]), strict=True):
            batch = Batch(own[:, None], labels, torch.arange(len(labels)))
            losses.append(float(sum(trainer.step(batch, epoch, torch.Generator()))))
        trainer.end_epoch()
    return np.array(losses).reshape(golden["losses"].shape)


def test_losses_follow_the_official_loop(golden):
    assert trajectory(golden) == pytest.approx(golden["losses"], rel=1e-4)


def test_a_teacher_in_eval_mode_goes_another_way(golden):
    """From the second epoch, the first with a teacher; this is what the golden tells apart."""
    found, official = trajectory(golden, teacher_mode="eval"), golden["losses"]
    assert found[0] == pytest.approx(official[0], rel=1e-4)
    assert (np.abs(found[1:] - official[1:]).max(axis=1) > 0.01).all()
