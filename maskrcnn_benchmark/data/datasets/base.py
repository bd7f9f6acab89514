"""What every dataset offers."""

import logging
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import torch
from torch.utils.data import Dataset

from maskrcnn_benchmark.data.image_files import (
    BrokenSampleError,
    PictureReader,
    read_outline,
    read_rgb,
)
from maskrcnn_benchmark.data.sample_key import SampleKey, read_key
from maskrcnn_benchmark.errors import DataError
from maskrcnn_benchmark.grounding import RandomSource

logger = logging.getLogger(__name__)

MAX_BROKEN = 100
"""So many different broken samples end the run: then the data needs attention, not luck."""


class ImageDataset(Dataset):
    """`dataset[key]` -> (image, target, index), `key` an index or a `SampleKey`.

    A picture that cannot be decoded, or a malformed record, is an error that names it. With
    `skip_broken` each is named in a warning, counted, and the next sample that can be read takes
    its place; after `MAX_BROKEN` different ones in one process the run ends. A missing file is
    always an error: then the folder is wrong rather than the picture.

    Args:
        name: what messages call the dataset.
        transforms: called with (image, target, rng); None returns the PIL image untouched.
        skip_broken: see above. For training only: an evaluation counts such samples as ones in
            which nothing was found (`engine/unreadable.py`).

    Attributes:
        has_captions: whether each sample has a sentence, the only thing to learn from; of its class.
        read_picture: how pictures are decoded; INPUT.IMAGE_BACKEND sets another one.
    """

    has_captions: ClassVar[bool] = False
    read_picture: PictureReader = staticmethod(read_rgb)

    def __init__(self, name: str, transforms: Callable | None, *, skip_broken: bool = False):
        self.name = name
        self.transforms = transforms
        self.skip_broken = skip_broken
        self.broken: set[int] = set()
        self._known: torch.Tensor | None = None

    def load(self, index: int, rng: RandomSource) -> tuple:
        """(image, target, index) of one sample; `rng` makes every random choice about it."""
        raise NotImplementedError

    def sizes(self) -> np.ndarray:
        """(num_samples, 2) heights and widths of the pictures, without opening them where
        possible.
        """
        raise NotImplementedError

    def image_id(self, index: int) -> int:
        """Id of the picture in the annotation file."""
        raise NotImplementedError

    def pictures(self) -> np.ndarray | None:
        """(num_samples,) number of the picture that each sample shows; None: all differ."""
        return None

    def get_img_info(self, index: int) -> dict:
        """{"height", "width"} of the picture."""
        height, width = self.sizes()[index].tolist()
        return {"height": height, "width": width}

    def __getitem__(self, key: int | SampleKey) -> tuple:
        index, seed = read_key(key)
        for _ in range(len(self)):
            try:
                return self._load(index, RandomSource(seed))
            except BrokenSampleError as error:
                self._count_broken(index, error)
            index = (index + 1) % len(self)
        raise BrokenSampleError(f"Dataset {self.name}: not one sample can be read")

    def skip_known_pictures(self) -> torch.Tensor:
        """Let pictures be left unread.

        Returns:
            (num_samples,) flags, all False, shared with the loader processes that start from now
            on. Where one is set, the sample has an `Outline` in place of its picture.
        """
        self._known = torch.zeros(len(self), dtype=torch.bool).share_memory_()
        return self._known

    def picture(self, index: int) -> torch.Tensor:
        """Transformed picture of one sample, also where it is left unread otherwise."""
        return self.load(index, RandomSource(0))[0]

    def _load(self, index: int, rng: RandomSource) -> tuple:
        if self._known is None or not self._known[index]:
            return self.load(index, rng)
        reader, self.read_picture = self.read_picture, read_outline
        try:
            return self.load(index, rng)
        finally:
            self.read_picture = reader

    def apply_transforms(self, image: Any, target: Any, rng: RandomSource) -> tuple[Any, Any]:
        """Transformed (image, target)."""
        if self.transforms is None:
            return image, target
        return self.transforms(image, target, rng)

    def _count_broken(self, index: int, error: BrokenSampleError) -> None:
        if not self.skip_broken:
            raise error
        if index in self.broken:
            return
        self.broken.add(index)
        logger.warning(
            "Dataset %s, sample %d skipped (broken sample no. %d of this process): %s",
            self.name,
            index,
            len(self.broken),
            error,
        )
        if len(self.broken) >= MAX_BROKEN:
            raise DataError(
                f"Dataset {self.name}: {MAX_BROKEN} samples cannot be read; the last was: {error}"
            ) from error
