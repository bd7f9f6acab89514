"""The one source of randomness that a training sample may use."""

import hashlib
import random
import struct

import numpy as np


def mix_seed(*parts: int) -> int:
    """Fold integers (base seed, pass number, sample index, ...) into one 32-bit seed.

    Neighbouring inputs give unrelated seeds, and the result is the same on every machine and Python
    version.
    """
    packed = struct.pack(f"<{len(parts)}q", *parts)
    return int.from_bytes(hashlib.blake2b(packed, digest_size=4).digest(), "little")


class RandomSource:
    """A Python and a NumPy generator that start from the same seed.

    The streams are those of `random.seed(seed)` and `numpy.random.seed(seed)`, without touching the
    global generators, so that captions sampled here repeat those of the original for equal seeds.

    Args:
        seed: 32-bit seed; None takes one from Python's global generator (so `random.seed` still
            governs it).
    """

    def __init__(self, seed: int | None = None):
        self.seed = random.getrandbits(32) if seed is None else seed
        self.python = random.Random(self.seed)
        self._numpy: np.random.RandomState | None = None

    @property
    def numpy(self) -> np.random.RandomState:
        """Legacy NumPy generator; made on first use because most samples never need it."""
        if self._numpy is None:
            self._numpy = np.random.RandomState(self.seed)
        return self._numpy
