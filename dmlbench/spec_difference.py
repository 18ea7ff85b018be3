"""What two cells of one name were made from that is not the same."""

from collections.abc import Mapping
from typing import Any

from dmlbench.spec import Cell

SHOWN = 3


def differences(first: Cell, second: Cell) -> str:
    """The values in which two cells differ, seeds apart: `method.loss.parameters.alpha 2.0, 3.0`.

    Of two different methods only dataset and protocol are compared.

    Args:
        first: A cell.
        second: Another, whose values stand second.

    Returns:
        At most three values and how many more there are; empty where only the seeds differ.
    """
    left_out = {"seed"} if first.method.name == second.method.name else {"seed", "method"}
    mine, other = (
        dict(_flat({key: value for key, value in cell.identity().items() if key not in left_out}))
        for cell in (first, second)
    )
    names = [name for name in {**mine, **other} if mine.get(name) != other.get(name)]
    shown = [_in_words(name, mine.get(name), other.get(name)) for name in names[:SHOWN]]
    more = [f"and {len(names) - SHOWN} more"] if len(names) > SHOWN else []
    return "; ".join(shown + more)


def _flat(content: Mapping[str, Any], above: str = "") -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for key, value in content.items():
        name = f"{above}{key}"
        pairs += _flat(value, f"{name}.") if isinstance(value, Mapping) else [(name, value)]
    return pairs


def _in_words(name: str, mine: Any, other: Any) -> str:  # noqa: ANN401 - any value of a spec
    if name.endswith(("sha256", ".plugin")):  # a digest tells a reader nothing but that the file changed
        return f"{name} changed"
    return f"{name} {mine}, {other}"
