"""Functions on boxes: overlaps, concatenation, removal of small boxes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from maskrcnn_benchmark.structures.bounding_box import BoxList


def box_iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Intersection over union of all pairs, inclusive corners (``+ 1`` on widths and heights).

    Args:
        boxes1: ``(N, 4)`` xyxy.
        boxes2: ``(M, 4)`` xyxy.

    Returns:
        ``(N, M)``, zero where the boxes do not meet.
    """
    size1 = boxes1[:, 2:] - boxes1[:, :2] + 1
    size2 = boxes2[:, 2:] - boxes2[:, :2] + 1
    top_left = torch.maximum(boxes1[:, None, :2], boxes2[:, :2])
    bottom_right = torch.minimum(boxes1[:, None, 2:], boxes2[:, 2:])
    intersection = (bottom_right - top_left + 1).clamp(min=0).prod(dim=-1)
    area1 = size1[:, 0] * size1[:, 1]
    area2 = size2[:, 0] * size2[:, 1]
    return intersection / (area1[:, None] + area2 - intersection)


def boxlist_iou(boxlist1: BoxList, boxlist2: BoxList) -> Tensor:
    """``(len(boxlist1), len(boxlist2))`` overlaps of two lists of the same image.

    Raises:
        ValueError: if the image sizes differ.
    """
    if boxlist1.size != boxlist2.size:
        raise ValueError(
            f"boxes belong to images of different size: {boxlist1.size} and {boxlist2.size}"
        )
    return box_iou(boxlist1.convert("xyxy").bbox, boxlist2.convert("xyxy").bbox)


def remove_small_boxes(boxlist: BoxList, min_size: float) -> BoxList:
    """Keep the boxes whose width and height (inclusive corners) reach ``min_size`` pixels."""
    sizes = boxlist.convert("xywh").bbox[:, 2:]
    keep = (sizes >= min_size).all(dim=1).nonzero().squeeze(1)
    return boxlist[keep]


def cat_boxlist(boxlists: Sequence[BoxList]) -> BoxList:
    """Concatenate lists of the same image, mode and field names.

    A single list gives its own tensors, not copies.  List fields are joined as lists.

    Raises:
        ValueError: if there is no list, or if size, mode or field names differ.
    """
    if not boxlists:
        raise ValueError("cat_boxlist needs at least one BoxList")
    first = boxlists[0]
    for other in boxlists[1:]:
        for what in ("size", "mode"):
            if getattr(other, what) != getattr(first, what):
                raise ValueError(
                    f"cannot concatenate boxes of different {what}: "
                    f"{getattr(first, what)} and {getattr(other, what)}"
                )
        if set(other.fields()) != set(first.fields()):
            raise ValueError(
                f"cannot concatenate boxes with different fields: "
                f"{first.fields()} and {other.fields()}"
            )
    result = BoxList(_concatenate([boxes.bbox for boxes in boxlists]), first.size, first.mode)
    for name in first.fields():
        result.add_field(name, _concatenate([boxes.get_field(name) for boxes in boxlists]))
    return result


def _concatenate(values: list) -> Tensor | list:
    if len(values) == 1:
        return values[0]
    if isinstance(values[0], list):
        return [row for value in values for row in value]
    return torch.cat(values, dim=0)
