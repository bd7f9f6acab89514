"""Samples to batches."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from maskrcnn_benchmark.data.image_files import Outline
from maskrcnn_benchmark.errors import DataError
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.image_list import ImageList, to_image_list


class Batch(NamedTuple):
    """What a loader yields.

    Attributes:
        images: padded batch (or, for multi-scale tests, a tuple of PIL images).
        targets: one BoxList per image (LVIS evaluation: one dict).
        ids: index of each sample in its dataset.
        positive_map: (boxes of all images in order, 256), 0/1 float: which tokens each box is
            described by.
        positive_map_eval: likewise for the phrases asked for in evaluation, rows of all images in
            order.
        greenlight_map: (batch, 256), see `grounding.create_greenlight_map`.
    Maps are None where no sample has them.
    """

    images: ImageList | tuple
    targets: tuple[Any, ...]
    ids: tuple[int, ...]
    positive_map: torch.Tensor | None = None
    positive_map_eval: torch.Tensor | None = None
    greenlight_map: torch.Tensor | None = None


class BatchCollator:
    """Pads images to a common size and joins token maps.

    Args:
        size_divisible: padded height and width are rounded up to a multiple of this; 0: not.
        numbered: tell the images of a batch by their place in the dataset, see `ImageList`.
    """

    def __init__(self, size_divisible: int = 0, *, numbered: bool = False):
        self.size_divisible = size_divisible
        self.numbered = numbered

    def __call__(self, samples: Sequence[tuple]) -> Batch:
        images, targets, ids = zip(*samples)
        return Batch(
            self._join(images, ids),
            targets,
            ids,
            _join_positive_maps(targets, "positive_map"),
            _join_positive_maps(targets, "positive_map_eval"),
            _join_greenlight_maps(targets),
        )

    def _join(self, images: Sequence[torch.Tensor | Outline], ids: Sequence[int]) -> ImageList:
        unread = [place for place, image in enumerate(images) if isinstance(image, Outline)]
        padded = to_image_list(
            [image.blank() if isinstance(image, Outline) else image for image in images],
            self.size_divisible,
        )
        numbers = ids if self.numbered else None
        return ImageList(padded.tensors, padded.image_sizes, ids=numbers, unread=unread)


class RawImageCollator:
    """Leaves the images as they are, for multi-scale tests, which resize them themselves."""

    def __call__(self, samples: Sequence[tuple]) -> Batch:
        images, targets, ids = zip(*samples)
        return Batch(images, targets, ids, None, _join_positive_maps(targets, "positive_map_eval"))


def _fields(targets: Sequence[Any], name: str) -> list[torch.Tensor] | None:
    """The field of every target; None when no target has it.

    Raises:
        DataError: only some have it, which would shift the rows of the joined map.
    """
    have = [isinstance(target, BoxList) and target.has_field(name) for target in targets]
    if not any(have):
        return None
    if not all(have):
        raise DataError(
            f"Only {sum(have)} of {len(have)} samples of a batch have {name!r}: datasets with and "
            "without captions cannot be mixed in one training set."
        )
    return [target.get_field(name) for target in targets]


def _join_positive_maps(targets: Sequence[Any], name: str) -> torch.Tensor | None:
    maps = _fields(targets, name)
    # The datasets share a row out over its tokens; the model reads it as a plain mask.
    return None if maps is None else torch.cat(maps).ne(0).float()


def _join_greenlight_maps(targets: Sequence[Any]) -> torch.Tensor | None:
    maps = _fields(targets, "greenlight_map")
    return None if maps is None else torch.stack(maps)
