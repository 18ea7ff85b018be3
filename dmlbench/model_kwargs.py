"""What `model.kwargs` may hold: what shapes the network, found by inspection of the class that is built.

A backbone's library takes far more: files of weights and of pickles, addresses, caches, wrappers. Those would load
what the hash does not know, or run code, so a key counts only where the class's own constructor has it.
"""

import inspect
import typing
from collections.abc import Callable, Collection
from types import UnionType
from typing import Any

from dmlbench.errors import UserError
from dmlbench.spec import ModelSpec

# What the protocol gives a constructor by settings of its own.
ELSEWHERE = {
    "num_classes": "the head has model.embedding_dim",
    "in_chans": "the images have input.channels",
    "channels": "the images have input.channels",
    "global_pool": "model.pooling chooses it",
}
LARGEST = 8192  # of a whole number: a mistyped depth or width would take minutes or all memory before it fails
WEIGHTS = "weights come from --set model.weights=FILE"


def check_kwargs(spec: ModelSpec, network: type, *, also: Collection[str] = (), never: Collection[str] = ()) -> None:
    """Raise UserError for the first key of `model.kwargs` that does not shape the network, or makes it absurdly large.

    Args:
        spec: The model.
        network: The class that is built.
        also: Keys that the library turns into parameters of its layers.
        never: Keys that the library keeps to itself, whatever the class has.
    """
    valid = ({*shape_parameters(network), *also}).difference(never, ELSEWHERE)
    for key in spec.kwargs:
        if key not in valid:
            where = f"model.kwargs.{key}: not a setting of {spec.backbone}'s shape"
            names = f"valid: {', '.join(sorted(valid)) or 'none'}"
            raise UserError(where, hint="; ".join([ELSEWHERE.get(key, WEIGHTS), names]))
    for key, value in spec.kwargs.items():
        if isinstance(value, int) and abs(value) > LARGEST:
            raise UserError(f"model.kwargs.{key}: must be at most {LARGEST}, not {value}")


def shape_parameters(network: type) -> set[str]:
    """The constructor's named parameters that are truth values, numbers or names.

    Where it hands all others on (`**kwargs`), those of the class it extends count too.
    """
    found: set[str] = set()
    for owner in network.__mro__:
        constructor = vars(owner).get("__init__")
        if constructor is None:
            continue
        parameters, hints = inspect.signature(constructor).parameters, _hints(constructor)
        found |= {name for name, own in parameters.items() if _is_simple(own, hints.get(name))}
        if not any(own.kind is own.VAR_KEYWORD for own in parameters.values()):
            break
    return found


def returned_class(builder: Callable[..., Any]) -> type | None:
    """The class that a function says it returns; None where it does not say."""
    returned = _hints(builder).get("return")
    return returned if isinstance(returned, type) else None


def _is_simple(parameter: inspect.Parameter, hint: Any) -> bool:  # noqa: ANN401 - an annotation
    if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
        return False
    return type(parameter.default) in (bool, int, float, str) or not {bool, int, float}.isdisjoint(_members(hint))


def _members(hint: Any) -> list[Any]:  # noqa: ANN401 - an annotation
    if typing.get_origin(hint) in (typing.Union, UnionType):
        return [member for part in typing.get_args(hint) for member in _members(part)]
    return [hint]


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function)
    except (NameError, TypeError):  # names that exist for type checkers alone
        return {}
