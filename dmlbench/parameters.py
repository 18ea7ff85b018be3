"""Hyperparameters of the registered losses and distillations: names, types and ranges, checked without torch.

A test holds these models to the constructors in `losses` and `distillation`.
"""

from typing import Annotated, Literal, Self

from annotated_types import Ge, Lt
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from dmlbench.spec import Section


class ContrastiveParameters(Section):
    """Contrastive loss."""

    positive_margin: NonNegativeFloat
    negative_margin: PositiveFloat
    mining: Literal["distance"]


class TripletParameters(Section):
    """Triplet loss."""

    margin: PositiveFloat
    mining: Literal["distance", "semihard"]


class MarginParameters(Section):
    """Margin loss with learned class boundaries."""

    margin: PositiveFloat
    beta: PositiveFloat
    mining: Literal["distance"]


class MultiSimilarityParameters(Section):
    """Multi-Similarity loss."""

    alpha: PositiveFloat
    beta: PositiveFloat
    base: float
    epsilon: NonNegativeFloat


class ProxyAnchorParameters(Section):
    """Proxy-Anchor loss."""

    alpha: PositiveFloat
    delta: NonNegativeFloat

    @model_validator(mode="after")
    def _exponents_fit(self) -> Self:
        # The loss subtracts no maximum from its exponents, which float32 bears up to e^80.
        if self.alpha * (1 + self.delta) > 80:
            raise ValueError("alpha * (1 + delta) must be at most 80")
        return self


class LearningRate(Section):
    """Rate of a parameter that a loss learns beside the network; 0 keeps it as it starts."""

    rate: NonNegativeFloat


class PSDParameters(Section):
    """Progressive self-distillation. `lambda` weighs the loss; it grows with the epoch from 0."""

    lambda_: NonNegativeFloat = Field(alias="lambda")
    tau: PositiveFloat


class OBDSDParameters(PSDParameters):
    """Self-distillation with online batch diffusion."""

    omega: Annotated[float, Ge(0), Lt(1)]
    tau_diffusion: PositiveFloat


class S2SDParameters(PSDParameters):
    """Self-distillation from wider embeddings; `dimensions` are whole numbers with commas between them.

    Its weight is above 0: with 0 the branches would go on training the network, and it would not be its base.
    """

    lambda_: PositiveFloat = Field(alias="lambda")
    dimensions: Annotated[str, Field(pattern=r"^[1-9]\d*(,[1-9]\d*)*$")]
    features: bool
    feature_weight: NonNegativeFloat
    feature_delay: NonNegativeInt


class DM2Parameters(Section):
    """A cohort that learns from itself; `period` 1 is no temporal diversity."""

    lambda_: NonNegativeFloat = Field(alias="lambda")
    members: Annotated[int, Ge(2)]
    model: bool
    view: bool
    period: PositiveInt


LOSS_PARAMETERS: dict[str, type[Section]] = {
    "contrastive": ContrastiveParameters,
    "triplet": TripletParameters,
    "margin": MarginParameters,
    "multi_similarity": MultiSimilarityParameters,
    "proxy_anchor": ProxyAnchorParameters,
}
DISTILLATION_PARAMETERS: dict[str, type[Section]] = {
    "psd": PSDParameters,
    "obdsd": OBDSDParameters,
    "s2sd": S2SDParameters,
    "dm2": DM2Parameters,
}

# Parameters a loss learns beside the network; a method file may give each a learning rate of its own.
LEARNED: dict[str, tuple[str, ...]] = {"margin": ("beta",), "proxy_anchor": ("proxies",)}
