"""What every dataset offers."""

import logging
from collections.abc import Callable

import numpy as np
from torch.utils.data import Dataset

from maskrcnn_benchmark.data.image_files import UnreadableImageError
from maskrcnn_benchmark.data.sample_key import SampleKey, read_key
from maskrcnn_benchmark.grounding import RandomSource

logger = logging.getLogger(__name__)

MAX_UNREADABLE = 100
"""So many different broken pictures end the run: then the data needs attention, not luck."""


class ImageDataset(Dataset):
    """`dataset[key]` -> (image, target, index), `key` an index or a `SampleKey`.

    A picture that cannot be decoded is an error that names it. With `skip_broken` each is named in a warning, counted,
    and the next sample that can be read takes its place; after `MAX_UNREADABLE` different ones in one process the run
    ends. A missing file is always an error: then the folder is wrong rather than the picture.

    Args:
        name: what messages call the dataset.
        transforms: called with (image, target, rng); None returns the PIL image untouched.
        skip_broken: see above. For training only: an evaluation that leaves pictures out is falsified.
    """

    def __init__(self, name: str, transforms: Callable | None, *, skip_broken: bool = False):
        self.name = name
        self.transforms = transforms
        self.skip_broken = skip_broken
        self.unreadable: set[int] = set()

    def load(self, index: int, rng: RandomSource) -> tuple:
        """(image, target, index) of one sample; `rng` makes every random choice about it."""
        raise NotImplementedError

    def sizes(self) -> np.ndarray:
        """(num_samples, 2) heights and widths of the pictures, without opening them where possible."""
        raise NotImplementedError

    def image_id(self, index: int) -> int:
        """Id of the picture in the annotation file."""
        raise NotImplementedError

    def get_img_info(self, index: int) -> dict:
        """{"height", "width"} of the picture."""
        height, width = self.sizes()[index].tolist()
        return {"height": height, "width": width}

    def __getitem__(self, key: int | SampleKey) -> tuple:
        index, seed = read_key(key)
        for _ in range(len(self)):
            try:
                return self.load(index, RandomSource(seed))
            except UnreadableImageError as error:
                self._count_unreadable(index, error)
            index = (index + 1) % len(self)
        raise UnreadableImageError(f"Dataset {self.name}: not one picture can be decoded")

    def apply_transforms(self, image, target, rng: RandomSource):
        """Transformed (image, target)."""
        if self.transforms is None:
            return image, target
        return self.transforms(image, target, rng)

    def _count_unreadable(self, index: int, error: UnreadableImageError) -> None:
        if not self.skip_broken:
            raise error
        if index in self.unreadable:
            return
        self.unreadable.add(index)
        logger.warning(
            "Dataset %s, sample %d skipped (unreadable picture no. %d of this process): %s",
            self.name,
            index,
            len(self.unreadable),
            error,
        )
        if len(self.unreadable) >= MAX_UNREADABLE:
            raise RuntimeError(
                f"Dataset {self.name}: {MAX_UNREADABLE} pictures cannot be decoded; the last was: {error}"
            ) from error
