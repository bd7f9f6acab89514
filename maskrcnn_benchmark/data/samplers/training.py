"""Which samples every process trains on, iteration by iteration."""

import logging
from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

from maskrcnn_benchmark.data.sample_key import SampleKey
from maskrcnn_benchmark.data.samplers.aspect_ratio import full_batches
from maskrcnn_benchmark.errors import ConfigError
from maskrcnn_benchmark.grounding import mix_seed

logger = logging.getLogger(__name__)


class TrainingBatchSampler(Sampler[list[SampleKey]]):
    """Batches number `start` .. `num_batches` - 1 of one process.

    Pass number p over the data is a permutation drawn from (seed, p). It is cut into batches (of
    one aspect group each, where groups are given) that the processes take in turns. Without groups,
    therefore, the samples of an optimiser step depend on the total batch size only, not on how it
    is shared out over processes and accumulated batches. What does not fill a step is left out of
    that pass.

    Everything is a function of (seed, number of the batch): a run that starts at batch k gets the
    batches that an undisturbed run gets from k on, with the same seed for every sample, whatever
    the number of loader workers.

    Args:
        num_samples: size of the dataset.
        images_per_batch: samples in one batch of one process.
        num_batches: batches of the whole run (also `len(sampler)`).
        seed: base seed, equal on all processes.
        accumulation_steps: batches of a process that make one optimiser step.
        groups: (num_samples,) aspect group of every sample, or None.
        start: batch to begin with.
    Raises:
        ConfigError: the samples cannot fill one step.
    """

    def __init__(
        self,
        num_samples: int,
        images_per_batch: int,
        num_batches: int,
        *,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        accumulation_steps: int = 1,
        groups: np.ndarray | None = None,
        start: int = 0,
    ):
        self.num_samples = num_samples
        self.images_per_batch = images_per_batch
        self.num_batches = num_batches
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.accumulation_steps = accumulation_steps
        self.groups = groups
        self.start = start
        self.batches_per_pass = self._count_batches()

    def position(self, batch: int) -> tuple[int, int]:
        """(pass over the data, batch within it) of a batch."""
        return divmod(batch, self.batches_per_pass)

    def batches_of_pass(self, number: int) -> np.ndarray:
        """(batches, images_per_batch) sample numbers of this process in one pass."""
        generator = np.random.Generator(np.random.PCG64([self.seed, number]))
        order = generator.permutation(self.num_samples)
        batches = full_batches(order, self.groups, self.images_per_batch)
        return batches[self.rank :: self.world_size][: self.batches_per_pass]

    def __iter__(self) -> Iterator[list[SampleKey]]:
        position = self.start
        while position < self.num_batches:
            number, first = self.position(position)
            batches = self.batches_of_pass(number)[first:][: self.num_batches - position]
            for batch in batches:
                yield [
                    SampleKey(index, mix_seed(self.seed, number, index)) for index in batch.tolist()
                ]
            position += len(batches)

    def __len__(self) -> int:
        return self.num_batches

    def _count_batches(self) -> int:
        sizes = [self.num_samples] if self.groups is None else np.bincount(self.groups).tolist()
        starved = sum(size for size in sizes if size < self.images_per_batch)
        steps = sum(size // self.images_per_batch for size in sizes) // (
            self.world_size * self.accumulation_steps
        )
        if steps == 0:
            raise ConfigError(
                f"{self.num_samples} training samples cannot fill {self.accumulation_steps} "
                f"batch(es) of {self.images_per_batch} on each of {self.world_size} process(es) "
                f"(aspect groups: {sizes}). Lower SOLVER.IMS_PER_BATCH, raise "
                "DATASETS.GENERAL_COPY, or set DATALOADER.ASPECT_RATIO_GROUPING False."
            )
        if starved:
            logger.warning(
                "%d sample(s) of one aspect ratio never fill a batch of %d and will not be trained "
                "on: raise DATASETS.GENERAL_COPY or set DATALOADER.ASPECT_RATIO_GROUPING False",
                starved,
                self.images_per_batch,
            )
        return steps * self.accumulation_steps
