"""What a protocol sets, the same for all methods: network, images, optimisation, evaluation.

Every contradiction is one line: of two settings that exclude each other, or one that has no effect.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt
from pydantic import Field, NonNegativeFloat, PositiveFloat, model_validator

from dmlbench.specs.dataset import Section

Scalar = bool | int | float | str
PROSE = ("title", "description", "family")  # of a protocol: they change no number
# Above these nobody trains, and a mistyped number would take minutes or all memory before it fails.
Count = Annotated[int, Gt(0), Le(1_000_000)]
Dimension = Annotated[int, Gt(0), Le(65_536)]
Batch = Annotated[int, Gt(0), Le(65_536)]
Pixels = Annotated[int, Gt(0), Le(4096)]
Threads = Annotated[int, Gt(0), Le(1024)]
Fraction = Annotated[float, Ge(0), Lt(1)]
Share = Annotated[float, Gt(0), Le(1)]
Pattern = Annotated[str, Field(pattern=r"^[\w.*?\[\]-]+$", max_length=200)]
# One of torchvision's v2 transforms by its class's name, with the arguments of its constructor.
Transform = dict[Annotated[str, Field(pattern=r"^[A-Z]\w*$", max_length=100)], dict[str, Any]]


class ModelSpec(Section):
    """The network: a backbone, pooling and an embedding head, L2-normalised.

    `head` is a linear layer; one after a layer norm without parameters (as in ProxyNCA++ and HIST); or none, where
    `embedding_dim` is the backbone's number of features. `head_init` draws the linear layer as torch does, or, with a
    bias of 0, by Kaiming's rule (normal, fan-out) or orthogonal. `frozen` names parameters or modules of the backbone,
    `*` in them matching anything, that are never trained.
    """

    backbone: str
    kwargs: dict[str, Scalar] = Field(default_factory=dict)
    weights: str | None = None
    weights_sha256: str | None = None
    pooling: Literal["average", "average+max", "max", "token"] = "average"
    head: Literal["linear", "layernorm+linear", "none"] = "linear"
    head_init: Literal["default", "kaiming", "orthogonal"] = "default"
    embedding_dim: Dimension
    freeze_batchnorm: bool = False
    frozen: tuple[Pattern, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> "ModelSpec":
        if self.head == "none" and self.head_init != "default":
            raise ValueError("head_init has no effect with head: none")
        return self


class InputSpec(Section):
    """Image geometry, normalisation and augmentation. Sizes in pixels, rotation in degrees.

    `augmentation: transforms` runs `transforms`, torchvision's v2 transforms by name in order, from the decoded image
    to `size` x `size`, and takes none of the settings of the others. `interpolation` is that of every other resizing.
    """

    channels: Literal[1, 3] = 3
    size: Pixels
    resize: Pixels
    mean: tuple[float, ...]
    std: tuple[PositiveFloat, ...]
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    augmentation: Literal["crop", "affine", "none", "transforms"]
    flip: bool = False
    crop_scale: tuple[PositiveFloat, PositiveFloat] = (0.08, 1.0)
    crop_ratio: tuple[PositiveFloat, PositiveFloat] = (3 / 4, 4 / 3)
    rotation: NonNegativeFloat = 0.0
    translation: Fraction = 0.0
    scale: tuple[PositiveFloat, PositiveFloat] = (1.0, 1.0)
    transforms: tuple[Annotated[Transform, Field(min_length=1, max_length=1)], ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> "InputSpec":
        if not len(self.mean) == len(self.std) == self.channels:
            raise ValueError(f"mean and std need one value per channel ({self.channels})")
        if self.resize < self.size:
            raise ValueError("resize (the shorter side before the centre crop) must be at least size")
        for name in ("crop_scale", "crop_ratio", "scale"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name} is [low, high]")
        if bool(self.transforms) != (self.augmentation == "transforms"):
            raise ValueError("augmentation: transforms and a list of transforms need each other")
        return self


class WarmupSpec(Section):
    """The beginning of a training: rates that rise to their value, the backbone at rest, or both.

    Over `epochs` or `steps` rates rise linearly from `start` times their value; with `start: 1` they are as they are.
    With `frozen: backbone` the embedding head and what the loss learns are trained alone for these epochs. The schedule
    counts from the beginning of the training all the same.
    """

    epochs: Count | None = None
    steps: Count | None = None
    start: Share = 1.0
    frozen: Literal["none", "backbone"] = "none"

    @model_validator(mode="after")
    def _consistent(self) -> "WarmupSpec":
        if (self.epochs is None) == (self.steps is None):
            raise ValueError("needs epochs or steps, and not both")
        if self.start == 1 and self.frozen == "none":
            raise ValueError("has no effect with start: 1 and frozen: none; give start below 1, or frozen: backbone")
        if self.steps and self.frozen != "none":
            raise ValueError("frozen: backbone needs epochs, not steps")
        return self

    def shortened(self, share: float, epochs: int) -> "WarmupSpec | None":
        """The same of a training that takes this share of the epochs; None where no epoch is left for it."""
        own = {"epochs": self.epochs, "steps": self.steps}
        scaled = {name: value and max(1, round(share * value)) for name, value in own.items()}
        if scaled["epochs"]:
            scaled["epochs"] = min(scaled["epochs"], epochs - 1)
        return self.model_copy(update=scaled) if any(scaled.values()) else None


class TrainingSpec(Section):
    """Optimisation.

    - `optimizer`: torch's Adam, AdamW or SGD. Weight decay is L2 in the gradient for Adam and SGD, decoupled for AdamW.
    - Rates and decay are the backbone's; `head_learning_rate` and `head_weight_decay` are the head's where it has its
      own. What a loss learns has the rates of its method file, and `loss_weight_decay`.
    - `schedule`: `multistep` multiplies rates by `gamma` after each epoch of `milestones`, `step` after every
      `step_size` epochs; `cosine` lets them fall from epoch to epoch, to 0 where the training ends.
    - `clip_norm` bounds the norm of a network's whole gradient, `clip_value` each of its values.
    - `accumulate`: batches to each step of the optimiser, which takes their mean gradient.
    - `micro_batch_size`: images in one forward pass of the backbone. The loss is that of the whole batch, and so is its
      gradient; activations are computed twice instead of kept (torch.utils.checkpoint).
    - `float32_convolutions`: on CUDA, `tf32` lets convolutions of float32 round their inputs to 10 bits, which is
      torch's own default; matrix products keep all bits.
    - `compile`: whether torch.compile makes fewer, larger kernels of the backbone's training step and of a teacher's
      forward pass, equal but for rounding. Evaluation runs the backbone as it is.
    - `sampler`: see `dmlbench.data.samplers`; `steps_per_epoch` replaces the number of batches that it gives an epoch.
    - `vary` is what a seed decides: everything; the initial weights alone; the order alone, with augmentations and
      mining; or the split alone, which classes train and which test. What it does not decide is as in seed 0.
    """

    epochs: Count
    steps_per_epoch: Count | None = None
    batch_size: Batch = 112
    samples_per_class: Batch = 2
    sampler: Literal["replacement", "class-balanced", "m-per-class", "shuffle"] = "replacement"
    accumulate: Annotated[int, Gt(0), Le(1000)] = 1
    micro_batch_size: Batch | None = None
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    eps: PositiveFloat | None = None
    momentum: Fraction = 0.0
    nesterov: bool = False
    learning_rate: PositiveFloat
    head_learning_rate: PositiveFloat | None = None
    weight_decay: NonNegativeFloat = 4e-4
    head_weight_decay: NonNegativeFloat | None = None
    loss_weight_decay: NonNegativeFloat = 0.0
    schedule: Literal["multistep", "step", "cosine"] = "multistep"
    milestones: tuple[Count, ...] = ()
    step_size: Count | None = None
    gamma: Share = 1.0
    warmup: WarmupSpec | None = None
    clip_norm: PositiveFloat | None = None
    clip_value: PositiveFloat | None = None
    autocast: Literal["none", "bfloat16", "float16"] = "none"
    float32_convolutions: Literal["ieee", "tf32"] = "ieee"
    channels_last: bool = True
    compile: bool = False
    cpu_threads: Threads = 1
    deterministic: bool = True
    vary: Literal["all", "init", "order", "split"] = "all"

    @model_validator(mode="after")
    def _consistent(self) -> "TrainingSpec":
        self._check_batches()
        self._check_optimizer()
        if self.float32_convolutions != "ieee" and self.autocast != "none":
            raise ValueError(f"float32_convolutions has no effect with autocast: {self.autocast}")
        self._check_schedule()
        return self

    def _check_batches(self) -> None:
        if self.batch_size % self.samples_per_class:
            sizes = f"batch_size ({self.batch_size}) must be a multiple of samples_per_class"
            raise ValueError(f"{sizes} ({self.samples_per_class})")
        if self.sampler == "shuffle" and self.samples_per_class != 1:
            raise ValueError("samples_per_class must be 1 with sampler: shuffle, which draws images and not classes")
        if self.micro_batch_size and self.micro_batch_size >= self.batch_size:
            raise ValueError(f"micro_batch_size has no effect: it must be below batch_size ({self.batch_size})")
        if self.accumulate > 1 and self.autocast == "float16":
            raise ValueError("accumulate needs autocast: none or bfloat16: the scale of float16's gradients may change")

    def _check_optimizer(self) -> None:
        if self.optimizer != "sgd" and (self.momentum or self.nesterov):
            raise ValueError(f"momentum and nesterov are for optimizer: sgd, not {self.optimizer}")
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov needs a momentum above 0")
        if self.optimizer == "sgd" and self.eps is not None:
            raise ValueError("eps is for optimizer: adam and adamw, not sgd")
        if self.clip_norm and self.clip_value:
            raise ValueError("clip_norm and clip_value exclude each other")

    def _check_schedule(self) -> None:
        if self.milestones and self.schedule != "multistep":
            raise ValueError(f"milestones are for schedule: multistep, not {self.schedule}")
        if bool(self.step_size) != (self.schedule == "step"):
            raise ValueError("schedule: step and step_size need each other")
        if self.warmup and self.warmup.epochs and self.warmup.epochs >= self.epochs:
            raise ValueError(f"warmup.epochs ({self.warmup.epochs}) must be below epochs ({self.epochs})")


class EvaluationSpec(Section):
    """What is measured on the test classes, and how often. `every` counts epochs; the last is always measured.

    `nmi_revisiting` adds NMI as Roth et al. 2020 measure it, which is what their published figures are.
    """

    every: Count = 1
    ks: tuple[Count, ...] = (1, 2, 4, 8)
    clustering: Literal["last", "every"] = "last"
    clustering_runs: Annotated[int, Gt(0), Le(1000)] = 3
    batch_size: Batch = 256
    nmi_revisiting: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> "EvaluationSpec":
        if 1 not in self.ks:
            raise ValueError("ks must hold 1: recall_at_1 is what epochs are selected by")
        return self


class ValidationSpec(Section):
    """Training classes held out for choosing an epoch, as a fraction; 0 holds none out."""

    classes: Fraction = 0.0


class ProtocolSpec(Section):
    """Everything that is the same for all methods.

    `family` names the protocol whose published values count as published for this one, too.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    title: str
    description: str = ""
    family: str | None = None
    model: ModelSpec
    input: InputSpec
    training: TrainingSpec
    evaluation: EvaluationSpec = EvaluationSpec()
    validation: ValidationSpec = ValidationSpec()

    @model_validator(mode="after")
    def _consistent(self) -> "ProtocolSpec":
        training = self.training
        if self.model.head == "none":
            for name in ("head_learning_rate", "head_weight_decay"):
                if getattr(training, name) is not None:
                    raise ValueError(f"training.{name} has no effect with model.head: none")
            if training.warmup and training.warmup.frozen == "backbone":
                raise ValueError("training.warmup.frozen: with model.head: none nothing would be left to train")
        return self


# What only some kinds of augmentation read.
READ_BY = {
    "flip": ("crop",),
    "crop_scale": ("crop",),
    "crop_ratio": ("crop",),
    "rotation": ("affine",),
    "translation": ("affine",),
    "scale": ("affine",),
}


def without_effect(protocol: ProtocolSpec, given: Mapping[str, Any]) -> str:
    """The first of the settings given that changes nothing, as an error; empty where there is none.

    Not part of the schema: results of before may have such settings, and stay readable. What a file sets for one kind
    of augmentation may stay where `--set` chooses another.

    Args:
        protocol: With the settings.
        given: By section and name: those of a file, or of the command line.
    """
    image, training = protocol.input, protocol.training
    for name, kinds in READ_BY.items():
        default = InputSpec.model_fields[name].default
        if name in given.get("input", {}) and getattr(image, name) != default and image.augmentation not in kinds:
            return f"input.{name} has no effect with augmentation: {image.augmentation}"
    own = given.get("training", {})
    decays = "milestones" if training.milestones else "step_size" if training.step_size else ""
    if decays in own and training.gamma == 1:
        return f"training.{decays} has no effect with gamma: 1"
    if "gamma" in own and training.gamma != 1 and not decays:
        return "training.gamma has no effect without milestones or step_size"
    return ""


# Fields that came after the first results were committed: at their defaults they leave hashes as they were.
ADDED = {
    "model": ("head", "head_init", "frozen"),
    "input": ("interpolation", "transforms"),
    "training": (
        "vary",
        "steps_per_epoch",
        "sampler",
        "accumulate",
        "micro_batch_size",
        "optimizer",
        "eps",
        "momentum",
        "nesterov",
        "head_weight_decay",
        "loss_weight_decay",
        "schedule",
        "step_size",
        "warmup",
        "clip_norm",
        "clip_value",
        "float32_convolutions",
        "compile",
    ),
    "evaluation": ("nmi_revisiting",),
}


def protocol_identity(protocol: ProtocolSpec) -> dict[str, Any]:
    """The protocol without its prose; a local weights file counts by content, not by path."""
    identity = protocol.model_dump(mode="json", exclude={*PROSE})
    if protocol.model.weights_sha256:
        identity["model"].pop("weights")
    for section, names in ADDED.items():
        fields = type(getattr(protocol, section)).model_fields
        for name in names:
            if getattr(getattr(protocol, section), name) == fields[name].default:
                identity[section].pop(name)
    return identity
