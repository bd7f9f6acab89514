"""Which samples every process evaluates."""

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

from maskrcnn_benchmark.data.samplers.aspect_ratio import group_batches


class EvaluationBatchSampler(Sampler[list[int]]):
    """Every sample exactly once over all processes, in order, without padding.

    Samples of one picture stay together, in one process and one after the other.

    Args:
        num_samples: size of the dataset.
        images_per_process: batch size of one process; the last batch may be smaller.
        groups: (num_samples,) aspect group of every sample, or None.
        pictures: (num_samples,) number of the picture that every sample shows; None: all differ.
    """

    def __init__(
        self,
        num_samples: int,
        images_per_process: int,
        *,
        rank: int = 0,
        world_size: int = 1,
        groups: np.ndarray | None = None,
        pictures: np.ndarray | None = None,
    ):
        order = np.arange(num_samples)
        if pictures is None:
            order = order[rank::world_size]
        else:
            _, first, picture = np.unique(pictures, return_index=True, return_inverse=True)
            place = np.argsort(np.argsort(first))[picture]  # of pictures, by first appearance
            order = np.argsort(place, kind="stable")
            order = order[place[order] % world_size == rank]
        self._batches = group_batches(order, groups, images_per_process)

    def __iter__(self) -> Iterator[list[int]]:
        return iter([batch.tolist() for batch in self._batches])

    def __len__(self) -> int:
        return len(self._batches)
