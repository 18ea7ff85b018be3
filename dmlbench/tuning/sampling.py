"""Which values a search tries: points of a low-discrepancy sequence, which fill the ranges evenly from the first on.

The sequence is Roberts' R (2018): multiples of powers of the generalised golden ratio, modulo 1, from a start that the
study's seed draws. More points go on where fewer ended, so that a larger budget uses the trainings of a smaller one.
"""

import math
from collections.abc import Iterator, Mapping

from dmlbench.seeding import stream
from dmlbench.specs.method import Search
from dmlbench.specs.protocol_spec import Scalar

DIGITS = 4  # of a value that is tried: it can be read, and a library that rounds otherwise changes nothing
ATTEMPTS = 50  # points looked at for each value wanted: few choices may hold fewer


def candidates(
    searches: Mapping[str, Search], files: Mapping[str, Scalar], count: int, study_seed: int = 0
) -> list[dict[str, Scalar]]:
    """The first `count` values of a study that differ from each other and from the files'.

    Args:
        searches: Where values are looked for, by name.
        files: The values of the method's files, by name; a whole one between whole ends is searched by whole numbers.
        count: How many are wanted; there are fewer where the ranges do not hold as many.
        study_seed: The study's.
    """
    found: list[dict[str, Scalar]] = []
    points = _points(len(searches), study_seed)
    for _, point in zip(range(ATTEMPTS * count), points, strict=False):
        values = {
            key: _value(search, part, whole=search.is_whole(files[key]))
            for (key, search), part in zip(searches.items(), point, strict=True)
        }
        if values not in (*found, dict(files)):
            found.append(values)
        if len(found) == count:
            break
    return found


def _points(dimensions: int, study_seed: int) -> Iterator[list[float]]:
    """Points of the unit cube."""
    ratio = 2.0
    for _ in range(100):  # to the root of x^(d + 1) = x + 1
        ratio = (1 + ratio) ** (1 / (dimensions + 1))
    steps = [ratio ** -(axis + 1) for axis in range(dimensions)]
    start = stream(study_seed, 0, "tuning values").random(dimensions)
    number = 0
    while True:
        yield [float(begin + number * step) % 1 for begin, step in zip(start, steps, strict=True)]
        number += 1


def _value(search: Search, part: float, *, whole: bool) -> Scalar:
    """The value at a fraction of a range."""
    low, high = search.low, search.high
    if low is None or high is None:
        return search.choices[int(part * len(search.choices))]
    if whole:
        return min(math.floor(_between(low, high + 1, part, log=search.log)), int(high))
    value = float(f"{_between(low, high, part, log=search.log):.{DIGITS}g}")
    return float(min(max(value, low), high))


def _between(low: float, high: float, part: float, *, log: bool) -> float:
    return low * (high / low) ** part if log else low + (high - low) * part
