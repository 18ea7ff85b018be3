"""Tries a method on a few random images: two epochs of two steps, with its state saved and restored between them."""

import difflib
import io

import torch

from dmlbench.data.images import Split
from dmlbench.errors import UserError
from dmlbench.modifiers import Modifier
from dmlbench.seeding import stream_seed
from dmlbench.specs.cell import MethodSpec
from dmlbench.specs.protocol_spec import ProtocolSpec
from dmlbench.training.build import TrainingSet, at_networks_rate, build_seeded_model, build_trainer
from dmlbench.training.plugins import described
from dmlbench.training.trainer import Trainer

CPU = torch.device("cpu")
CLASSES, IMAGES, BATCH, EPOCHS = 4, 32, 16, 2
KEPT = "what it keeps from step to step belongs in buffers, parameters or get_extra_state"
DRAWN = (
    "draw from torch, NumPy's rng that a sampler is given, or the generator of a loss, a miner or context.generator(): "
    "Python's random and NumPy's global generator are not seeded"
)
INFINITE_LOSS = (
    "a logarithm of 0, or a mean of no pairs? A batch without a valid pair needs the loss 0, as embeddings.sum() * 0"
)
INFINITE_GRADIENT = "a root or a norm of 0? Add a small number below it"
CLOSE = 0.8  # of a misspelt hook's name to the hook's


def check_method(method: MethodSpec, protocol: ProtocolSpec) -> tuple[float, list[str]]:
    """Train a method for two epochs, once at a stretch and once interrupted.

    Batch size and epochs are the check's, and nothing is compiled.

    Returns:
        The last loss, and what the ranking loss learns at the network's rate because its file gives no other.

    Raises:
        UserError: where a step fails, a loss is not finite, or the state does not survive.
    """
    training = protocol.training.model_copy(
        update={"epochs": EPOCHS, "batch_size": BATCH, "samples_per_class": 2, "milestones": (), "compile": False}
    )
    protocol = protocol.model_copy(update={"training": training})
    whole, resumed = _built(method, protocol), _built(method, protocol)
    _check_hooks(whole.modifier, method.name)
    first = _epoch(whole, method, protocol, 0)
    _pass_on(whole, resumed, method.name)
    expected, found = (_epoch(trainer, method, protocol, 1) for trainer in (whole, resumed))
    if not torch.equal(expected, found):
        again = _built(method, protocol)
        if not torch.equal(
            torch.cat([first, expected]), torch.cat([_epoch(again, method, protocol, n) for n in (0, 1)])
        ):
            raise UserError(
                f"{method.name}: draws numbers that nothing seeds: the same steps give other losses", hint=DRAWN
            )
        values = f"{float(expected[-1]):.6g} and {float(found[-1]):.6g}"
        what = f"{method.name}: its state is not restored: an interruption changes a loss ({values})"
        raise UserError(what, hint=KEPT)
    return float(expected[-1]), at_networks_rate(whole.networks[0].criterion, method.loss)


def _built(method: MethodSpec, protocol: ProtocolSpec) -> Trainer:
    model = build_seeded_model(protocol, 0, CPU)
    torch.manual_seed(stream_seed(0, 0, "loss"))
    return build_trainer(method, protocol, model, TrainingSet(CLASSES, IMAGES), CPU)


def _check_hooks(modifier: Modifier | None, name: str) -> None:
    """Raise UserError for a method that is named almost as a hook: it would never be called."""
    hooks = [hook for hook in vars(Modifier) if not hook.startswith("_")]
    for cls in type(modifier).__mro__:
        if cls is Modifier or not issubclass(cls, Modifier):
            continue
        for own in [own for own in vars(cls) if not hasattr(Modifier, own)]:
            meant = [hook for hook in difflib.get_close_matches(own, hooks, cutoff=CLOSE) if hook not in vars(cls)]
            if meant:
                what = f"{name}: {cls.__name__}.{own} is no hook and never called"
                raise UserError(what, hint=f"did you mean {meant[0]}")


def _epoch(trainer: Trainer, method: MethodSpec, protocol: ProtocolSpec, epoch: int) -> torch.Tensor:
    """Losses of an epoch's steps; whatever a plugin raises in them is one line."""
    size = protocol.input.size
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (IMAGES, protocol.input.channels, size, size), generator=generator, dtype=torch.uint8)
    split = Split(images, torch.arange(IMAGES) // (IMAGES // CLASSES), tuple("abcd"))
    mining = torch.Generator().manual_seed(epoch)
    torch.manual_seed(stream_seed(0, epoch, "model"))
    try:
        trainer.train()
        losses = []
        with trainer.batches(split, protocol, 0) as batches:
            for step, batch in enumerate(batches.epoch(epoch), start=1):
                losses.append(torch.stack(trainer.step(batch, epoch, mining)).sum())
                _check_finite(trainer, losses[-1], f"{method.name}: training step {step} of epoch {epoch + 1}")
        trainer.end_epoch()
    except (KeyboardInterrupt, UserError):
        raise
    except BaseException as error:
        part = method.distillation or method.loss
        raise UserError(f"{method.name}: a training step failed ({described(error, part)})") from error
    return torch.stack(losses)


def _check_finite(trainer: Trainer, loss: torch.Tensor, step: str) -> None:
    """Raise UserError where a step's loss, or what it made of the networks' weights, is not finite."""
    if not loss.isfinite():
        raise UserError(f"{step} gave the loss {float(loss)}", hint=INFINITE_LOSS)
    weights = (own for network in trainer.networks for own in network.model.parameters())
    if not all(bool(own.isfinite().all()) for own in weights):
        raise UserError(f"{step} gave the loss {float(loss):.4g} and no finite gradient", hint=INFINITE_GRADIENT)


def _pass_on(whole: Trainer, resumed: Trainer, name: str) -> None:
    """Write a trainer's state as a checkpoint does, and let another one continue from it."""
    file = io.BytesIO()
    try:
        torch.save(whole.state(), file)
        file.seek(0)
        state = torch.load(file, weights_only=True)
    except Exception as error:
        what = f"{name}: its state cannot be saved and read back ({described(error)})"
        raise UserError(what, hint="a state holds tensors, numbers, texts, lists and dictionaries alone") from error
    try:
        resumed.restore(state)
    except Exception as error:
        raise UserError(f"{name}: its state cannot be restored ({described(error)})", hint=KEPT) from error
