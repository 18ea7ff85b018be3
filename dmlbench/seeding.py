"""Independent named random streams: every draw is a function of (seed, epoch, purpose) and nothing else.

A stream that one method uses and another does not (mining, for example) can therefore never shift the
initial weights, the batches or the augmentation of either, and a resumed run draws what it would have drawn.
"""

import zlib

import numpy as np


def stream(seed: int, epoch: int, purpose: str) -> np.random.Generator:
    """A NumPy generator for one purpose in one epoch of one seed."""
    return np.random.Generator(np.random.Philox(_sequence(seed, epoch, purpose)))


def stream_seed(seed: int, epoch: int, purpose: str) -> int:
    """The same stream's 63-bit integer seed, for libraries that take one (``torch.Generator.manual_seed``)."""
    return int(_sequence(seed, epoch, purpose).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _sequence(seed: int, epoch: int, purpose: str) -> np.random.SeedSequence:
    return np.random.SeedSequence([seed, epoch, zlib.crc32(purpose.encode())])
