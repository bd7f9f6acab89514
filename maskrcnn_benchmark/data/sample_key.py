"""What a sampler hands to a dataset: which sample, and the seed of everything random about it.

Training samplers yield a `SampleKey` per sample. Its seed depends on the base seed, the pass over
the data and the sample's number alone, so augmentation and caption sampling come out the same
whatever the number of workers, and also after a resume. Wrappers (copies, concatenation) rewrite
the index and keep the seed. A plain integer works too; then Python's global generator gives the
seed.
"""

from typing import NamedTuple

from maskrcnn_benchmark.grounding import RandomSource


class SampleKey(NamedTuple):
    """Number of a sample and the seed of its random choices."""

    index: int
    seed: int


def read_key(key: "int | SampleKey") -> SampleKey:
    """The key as a `SampleKey`; a bare index gets a fresh seed."""
    if isinstance(key, SampleKey):
        return key
    return SampleKey(int(key), RandomSource().seed)


def move_key(key: "int | SampleKey", index: int) -> "int | SampleKey":
    """The same request for another index, seed kept."""
    return key._replace(index=index) if isinstance(key, SampleKey) else index
