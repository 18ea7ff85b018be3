"""What a cell is made of, in columns: every table of results begins with them."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from dmlbench.specs.cell import Cell, digest
from dmlbench.specs.overrides import Settings, changes


@dataclass(frozen=True)
class Facts:
    """What a cell is made of, as the columns `INDEX` of a table have it.

    Attributes:
        protocol: Its name.
        overrides: What `--set` changed of the protocol.
        dataset: Its name in tables.
        method: Its name, `BASE[+MODIFIER]`.
        base: The loss's name.
        base_settings: What `--set` changed of the loss.
        modifier: The modifier's name; "" of a base.
        modifier_settings: What `--set` changed of the modifier.
        tuned: Whether its values are those of tuning.
        seed: The seed.
        hash: Of the whole spec.
        protocol_hash: Of the protocol's values.
        dataset_version: Of the dataset's contents.
        method_hash: Of the method's values; `base_hash` and `modifier_hash` of those of its parts.
    """

    protocol: str
    overrides: Settings
    dataset: str
    method: str
    base: str
    base_settings: Settings
    modifier: str
    modifier_settings: Settings
    tuned: bool
    seed: int
    hash: str
    protocol_hash: str
    dataset_version: str
    method_hash: str
    base_hash: str
    modifier_hash: str


def facts(cell: Cell) -> Facts:
    """What a cell is made of, from its spec."""
    method, index, changed = cell.method, cell.index(), changes(cell)
    return Facts(
        protocol=cell.protocol.name,
        overrides=changed.protocol,
        dataset=cell.dataset.label,
        method=method.name,
        base=method.base,
        base_settings=changed.loss,
        modifier=method.distillation.name if method.distillation else "",
        modifier_settings=changed.distillation,
        tuned=method.tuned is not None,
        seed=cell.seed,
        hash=cell.hash,
        protocol_hash=index["protocol_hash"],
        dataset_version=cell.dataset.version,
        method_hash=digest(method.identity()),
        base_hash=digest(method.loss.identity()),
        modifier_hash=digest(method.distillation.identity()) if method.distillation else "",
    )


def one_wording(found: Iterable[Facts]) -> list[Facts]:
    """The same with one wording for equal values: of those that results of one hash have, the shortest.

    Two results of one protocol, or of one method, are then of one group, however their settings were given: an older
    release wrote down what was typed, and a user's own file may have got the value that `--set` gave before.
    """
    shortest: dict[tuple[object, ...], Settings] = {}

    def by_hash(one: Facts) -> tuple[tuple[tuple[object, ...], Settings], ...]:
        group = (one.protocol_hash, one.dataset)
        base = (*group, one.base, one.base_hash, one.tuned)
        modifier = (*group, one.base, one.modifier, one.modifier_hash, one.tuned, "modifier")
        return (group, one.overrides), (base, one.base_settings), (modifier, one.modifier_settings)

    every = [(one, by_hash(one)) for one in found]
    for _, parts in every:
        for key, own in parts:
            shortest[key] = min(shortest.get(key, own), own, key=lambda settings: (len(settings.pairs), settings))
    return [
        replace(one, overrides=shortest[group], base_settings=shortest[base], modifier_settings=shortest[modifier])
        for one, ((group, _), (base, _), (modifier, _)) in every
    ]
