"""Times the interleaved steps of all methods in several processes, one after the other; each builds its trainers anew.

Ratios vary more between processes than between the rounds of one: memory is laid out differently, and caches hold
other things. So a measurement is of several processes, and its intervals are over them.
"""

import multiprocessing
import signal
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from multiprocessing.connection import Connection

import torch

from dmlbench.data.images import Split, load_dataset, split_classes
from dmlbench.data.loader import Batch, TrainingBatches
from dmlbench.errors import UserError
from dmlbench.modifiers.teachers import PreviousEpoch, SelfDistillation
from dmlbench.overhead.plan import CostPlan, modifier_of
from dmlbench.overhead.timing import BATCHES, SYNTHETIC_SET, StepCost, measure_steps, synthetic_batches
from dmlbench.results import environment as provenance
from dmlbench.results.measurements import SYNTHETIC, UNFOLDED, UNFOLDED_MARK, Measured, Measurement
from dmlbench.results.records import Code, Environment
from dmlbench.specs.cell import MethodSpec, digest
from dmlbench.specs.protocol_spec import protocol_identity
from dmlbench.training.build import TrainingSet, build_seeded_model, build_trainer
from dmlbench.training.device import prepare, resolve_device
from dmlbench.training.trainer import Trainer

WARM_UP = 3
SEED = 0


@dataclass(frozen=True)
class Effort:
    """How much is measured: processes, one after the other, and rounds of each that count, after `WARM_UP` more."""

    processes: int
    rounds: int

    @property
    def total(self) -> int:
        """Rounds in all, those of the warm-up too."""
        return self.processes * (WARM_UP + self.rounds)


@dataclass(frozen=True)
class _Share:
    """What one process measured, and what it ran on."""

    costs: dict[str, StepCost]
    environment: Environment
    code: Code


def measure(plan: CostPlan, device: str, effort: Effort, command: str, tell: Callable[[], None]) -> Measurement:
    """Measure all methods of a plan on a device (`auto`, `cpu` or `cuda`), for a command line that is written down.

    Raises:
        UserError: where the device is not there, or a process ended early.
    """
    started, protocol = datetime.now(UTC), plan.protocol
    shares = [_apart((plan, device, effort.rounds, order), tell) for order in range(effort.processes)]
    if len({share.code.digest for share in shares}) > 1:
        raise UserError("the training code changed while it was measured", hint="measure again")
    return Measurement(
        started=started.isoformat(timespec="seconds"),
        command=command,
        protocol=protocol.name,
        variant=plan.variant,
        protocol_hash=digest(protocol_identity(protocol)),
        dataset=plan.dataset.name if plan.dataset else SYNTHETIC,
        epochs=protocol.training.epochs,
        batch_size=protocol.training.batch_size,
        cpu_threads=protocol.training.cpu_threads,
        environment=shares[0].environment,
        code=shares[0].code,
        processes=effort.processes,
        rounds=effort.rounds,
        methods={name: _measured(plan, name, [share.costs[name] for share in shares]) for name in shares[0].costs},
    )


def _measured(plan: CostPlan, name: str, costs: list[StepCost]) -> Measured:
    method = next(method for method in plan.methods if method.name == name.removesuffix(UNFOLDED))
    suffix, marks = (UNFOLDED, (UNFOLDED_MARK,)) if name != method.name else ("", ())
    return Measured(
        base=method.base,
        modifier=modifier_of(method) + suffix,
        marks=(*method.marks, *marks),
        step_ms=tuple(value for cost in costs for value in cost.step_ms),
        phases_ms={key: tuple(value for cost in costs for value in cost.phases_ms[key]) for key in costs[0].phases_ms},
        peak_mb=max(cost.peak_mb for cost in costs),
        gflop=costs[0].gflop,
    )


def _apart(task: tuple[CostPlan, str, int, int], tell: Callable[[], None]) -> _Share:
    """Measure in a fresh process; the last number of the task is that of its order of turns."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(theirs, *task), daemon=True)
    process.start()
    theirs.close()
    try:
        while (message := ours.recv()) is None:
            tell()
    except EOFError as error:
        process.join()
        what = f"the process that measures ended early (exit code {process.exitcode})"
        raise UserError(what, hint="see whether memory ran out") from error
    else:
        process.join(timeout=10)  # at its own end it also clears what torch's compiler started
    finally:
        process.terminate()
        process.join()
    if isinstance(message, UserError):
        raise message
    share: _Share = message
    return share


def _child(parent: Connection, plan: CostPlan, device: str, rounds: int, order: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this process
    try:
        parent.send(_share(plan, device, rounds, order, lambda: parent.send(None)))
    except UserError as error:
        parent.send(error)
    except Exception as error:  # noqa: BLE001 - the parent reports it in one line, such as a GPU without memory
        parent.send(UserError(f"cannot measure: {type(error).__name__}: {str(error).partition(chr(10))[0]}"))


def _share(plan: CostPlan, device: str, rounds: int, order: int, tell: Callable[[], None]) -> _Share:
    where, protocol = resolve_device(device), plan.protocol
    prepare(protocol.training, where)
    images = _images(plan)
    size = TrainingSet(len(images.class_names), len(images.labels)) if images else SYNTHETIC_SET
    trainers: dict[str, Trainer] = {}
    for method in plan.methods:
        trainers |= _trainers(method, plan, size, where)
    batches = _batches(plan, images, max(trainer.views for trainer in trainers.values()), where)
    costs = measure_steps(trainers, batches, rounds, WARM_UP, tell, order=order)
    return _Share(costs, provenance.environment(str(where)), provenance.code_state())


def _trainers(method: MethodSpec, plan: CostPlan, size: TrainingSet, device: torch.device) -> dict[str, Trainer]:
    """A method's trainer; where its teacher is folded also one whose teacher is not."""
    trainer, plain = (
        build_trainer(method, plan.protocol, build_seeded_model(plan.protocol, SEED, device), size, device, seed=SEED)
        for _ in range(2)
    )
    trainers, modifier = {method.name: trainer}, plain.modifier
    teacher = modifier.teacher if isinstance(modifier, SelfDistillation) else None
    if isinstance(modifier, SelfDistillation) and isinstance(teacher, PreviousEpoch) and teacher.folds(plain.model):
        modifier.teacher = PreviousEpoch(teacher.mode, fold=False, autocast=teacher.autocast)
        trainers[f"{method.name}{UNFOLDED}"] = plain
    return trainers


def _images(plan: CostPlan) -> Split | None:
    """The dataset's training images; None for synthetic ones."""
    if plan.dataset is None:
        return None
    dataset = load_dataset(plan.dataset, plan.data_dir, lambda _: None)
    return split_classes(dataset.train, plan.protocol.validation.classes)[0]


def _batches(plan: CostPlan, images: Split | None, views: int, device: torch.device) -> list[Batch]:
    """A few batches, on the device."""
    if images is None:
        return synthetic_batches(plan.protocol, device, views)
    with TrainingBatches(images, plan.protocol, SEED, device, views=views) as source:
        return list(islice(source.epoch(0), BATCHES))
