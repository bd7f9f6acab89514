"""What the loops do with a batch: move it, look into it, name its images."""

from collections.abc import Sequence

import torch

from maskrcnn_benchmark.data.collate import Batch
from maskrcnn_benchmark.structures.bounding_box import BoxList


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
