"""The shipped losses and modifiers by name, and what their constructors take: read from the source, without torch.

A constructor's annotations say the types and ranges of its parameters (`Annotated[float, Gt(0)]`). Of a class's
constants `LEARNED` names what it learns beside the network, and `AT_MOST` bounds several values together.
"""

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt
from pydantic import Field, StringConstraints, create_model, model_validator

from dmlbench.specs.cell import MOMENTUM
from dmlbench.specs.dataset import Section

REGISTERED: dict[str, dict[str, str]] = {
    "loss": {
        "contrastive": "dmlbench.losses.contrastive:ContrastiveLoss",
        "cosine_contrastive": "dmlbench.losses.cosine_contrastive:CosineContrastiveLoss",
        "triplet": "dmlbench.losses.triplet:TripletLoss",
        "margin": "dmlbench.losses.margin:MarginLoss",
        "multi_similarity": "dmlbench.losses.multi_similarity:MultiSimilarityLoss",
        "proxy_anchor": "dmlbench.losses.proxy_anchor:ProxyAnchorLoss",
        "normalised_softmax": "dmlbench.losses.normalised_softmax:NormalisedSoftmaxLoss",
        "cosface": "dmlbench.losses.cosface:CosFaceLoss",
        "arcface": "dmlbench.losses.arcface:ArcFaceLoss",
        "proxy_nca_pp": "dmlbench.losses.proxy_nca_pp:ProxyNCAPlusPlusLoss",
        "soft_triple": "dmlbench.losses.soft_triple:SoftTripleLoss",
        "supcon": "dmlbench.losses.supcon:SupConLoss",
        "nt_xent": "dmlbench.losses.nt_xent:NTXentLoss",
        "circle": "dmlbench.losses.circle:CircleLoss",
        "smooth_ap": "dmlbench.losses.smooth_ap:SmoothAPLoss",
        "recall_at_k": "dmlbench.losses.recall_at_k:RecallAtKLoss",
        "sphere_pair": "dmlbench.losses.sphere_pair:SpherePairLoss",
    },
    "distillation": {
        "psd": "dmlbench.modifiers.psd:PSD",
        "obdsd": "dmlbench.modifiers.obdsd:OBDSD",
        "s2sd": "dmlbench.modifiers.s2sd:S2SD",
        "dm2": "dmlbench.modifiers.dm2:DM2",
        "xbm": "dmlbench.modifiers.xbm:XBM",
        "rkd": "dmlbench.modifiers.rkd:RKD",
        "ema": "dmlbench.modifiers.ema:EMA",
    },
}
TEACHERS = ("Distillation", "SelfDistillation")  # classes whose subclasses learn from a teacher
SIZES = ("num_classes", "embedding_dim")  # given to constructors that ask for them, and never by a file
NAMES: dict[str, Any] = {  # what annotations are written with
    **{kind.__name__: kind for kind in (bool, int, float, str, Ge, Gt, Le, Lt, StringConstraints)},
    "Annotated": Annotated,
    "Literal": Literal,
}


@dataclass(frozen=True)
class Signature:
    """What a shipped class takes and learns.

    Attributes:
        parameters: The model of its values; a constructor's `lambda_` is `lambda` in a file.
        learned: Names of the parameters that it learns beside the network.
        has_teacher: Whether it learns from a teacher.
        references: Whether a loss takes references, or a modifier asks the loss to.
    """

    parameters: type[Section]
    learned: tuple[str, ...]
    has_teacher: bool
    references: bool


@cache
def signature(slot: str, name: str) -> Signature:
    """The signature of a shipped class.

    Args:
        slot: `loss` or `distillation`.
        name: Its registered name.

    Raises:
        KeyError: for a name that is not registered.
    """
    module, _, class_name = REGISTERED[slot][name].partition(":")
    path = Path(__file__).parents[1].joinpath(*module.split(".")[1:]).with_suffix(".py")
    definitions = {
        node.name: node for node in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(node, ast.ClassDef)
    }
    found = definitions[class_name]
    constants = {target: value for target, value in _assigned(found) if target in ("LEARNED", "AT_MOST")}
    known = {target: ast.literal_eval(value) for target, value in constants.items()}
    constructor = next(node for node in found.body if isinstance(node, ast.FunctionDef) and node.name == "__init__")
    return Signature(
        parameters=_model(class_name, constructor, known.get("AT_MOST", {})),
        learned=tuple(known.get("LEARNED", ())),
        has_teacher=any(isinstance(base, ast.Name) and base.id in TEACHERS for base in found.bases),
        references=_references(found),
    )


@cache
def with_momentum(parameters: type[Section]) -> type[Section]:
    """The model of values of a method whose teacher is a moving average."""
    fields: dict[str, Any] = {MOMENTUM: (Annotated[float, Ge(0), Lt(1)], ...)}
    return create_model(parameters.__name__, __base__=parameters, **fields)


def _references(component: ast.ClassDef) -> bool:
    forward = [node for node in component.body if isinstance(node, ast.FunctionDef) and node.name == "forward"]
    taken = {argument.arg for node in forward for argument in (*node.args.args, *node.args.kwonlyargs)}
    return "references" in taken or any(name == "references" for name, _ in _assigned(component))


def _model(name: str, constructor: ast.FunctionDef, at_most: dict[str, float]) -> type[Section]:
    fields: dict[str, Any] = {}
    for argument in (*constructor.args.args[1:], *constructor.args.kwonlyargs):
        if argument.arg not in SIZES and argument.annotation is not None:
            own = Field(alias=argument.arg.removesuffix("_")) if argument.arg.endswith("_") else Field()
            fields[argument.arg] = (_evaluated(argument.annotation, NAMES), own)

    def together(section: Section) -> Section:
        for expression, limit in at_most.items():
            if _evaluated(ast.parse(expression, mode="eval").body, vars(section)) > limit:
                raise ValueError(f"{expression} must be at most {limit}")
        return section

    validators: dict[str, Any] = {"together": model_validator(mode="after")(together)}
    return create_model(name, __base__=Section, __validators__=validators, **fields)


def _evaluated(node: ast.expr, names: Mapping[str, Any]) -> Any:  # noqa: ANN401, PLR0911 - one return a kind of node
    """The value of an annotation, or of a sum or product; nothing else is understood, and nothing runs."""
    match node:
        case ast.Constant():
            return node.value
        case ast.Name():
            return names[node.id]
        case ast.Tuple():
            return tuple(_evaluated(element, names) for element in node.elts)
        case ast.Subscript():
            return _evaluated(node.value, names)[_evaluated(node.slice, names)]
        case ast.Call():
            keywords = {str(keyword.arg): _evaluated(keyword.value, names) for keyword in node.keywords}
            return _evaluated(node.func, names)(*(_evaluated(each, names) for each in node.args), **keywords)
        case ast.BinOp(op=ast.Add()):
            return _evaluated(node.left, names) + _evaluated(node.right, names)
        case ast.BinOp(op=ast.Mult()):
            return _evaluated(node.left, names) * _evaluated(node.right, names)
    raise ValueError(f"not understood in a constructor's annotation: {ast.unparse(node)}")


def _assigned(node: ast.ClassDef) -> Iterator[tuple[str, ast.expr]]:
    for statement in node.body:
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            yield statement.targets[0].id, statement.value
