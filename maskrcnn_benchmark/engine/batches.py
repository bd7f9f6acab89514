"""What the loops do with a batch: move it, look into it, name its images."""

from collections.abc import Sequence

import torch

from maskrcnn_benchmark.data.collate import Batch
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.image_list import ImageList


def move_batch(batch: Batch, device: torch.device) -> Batch:
    """Copy with images, targets and token maps on the device."""
    return batch._replace(
        images=batch.images.to(device, non_blocking=True),
        targets=tuple(target.to(device) for target in batch.targets),
        positive_map=_moved(batch.positive_map, device),
        greenlight_map=_moved(batch.greenlight_map, device),
    )


def _moved(tensor: torch.Tensor | None, device: torch.device) -> torch.Tensor | None:
    return None if tensor is None else tensor.to(device, non_blocking=True)


def captions_of(targets: Sequence[BoxList]) -> list[str] | None:
    """Caption of every target; None when the targets have none."""
    captions = [t.get_field("caption") for t in targets if t.has_field("caption")]
    return captions or None


def count_empty(targets: Sequence[BoxList]) -> int:
    """Number of images without a box."""
    return sum(len(target) == 0 for target in targets)


def name_images(batch: Batch) -> list[str]:
    """One readable name per image: its id in the annotations where known, else its place."""
    names = []
    for target, index in zip(batch.targets, batch.ids):
        if isinstance(target, BoxList) and target.has_field("image_id"):
            names.append(f"image {int(torch.as_tensor(target.get_field('image_id')))}")
        else:
            names.append(f"sample {index}")
    return names


def groups_of_equal_padding(
    images: ImageList, size_divisible: int
) -> list[tuple[list[int], ImageList]]:
    """Cut a batch into parts in which every image has exactly the padding it would have alone.

    Padded pixels take part in the fusion with the text and in the statistics of normalisation, so
    an image padded to the size of a larger neighbour gives other detections than alone.

    Args:
        images: batch padded on the right and at the bottom.
        size_divisible: multiple to which a lone image is padded; 0 or 1 for none.
    Returns:
        (places in the batch, their images) in order of first appearance.
    """
    multiple = max(1, size_divisible)
    members: dict[tuple[int, int], list[int]] = {}
    for place, (height, width) in enumerate(images.image_sizes):
        padded = (-(-height // multiple) * multiple, -(-width // multiple) * multiple)
        members.setdefault(padded, []).append(place)
    return [
        (
            places,
            ImageList(
                images.tensors[places, :, :height, :width],
                [images.image_sizes[place] for place in places],
            ),
        )
        for (height, width), places in members.items()
    ]
