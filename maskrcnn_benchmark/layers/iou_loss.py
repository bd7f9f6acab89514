"""Losses on the overlap of boxes."""

from __future__ import annotations

import torch
from torch import Tensor

# Keeps the two divisions finite when both boxes are points.
EPSILON = 1e-7


def generalized_iou(boxes: Tensor, targets: Tensor) -> Tensor:
    """Generalised intersection over union of pairs of boxes, https://arxiv.org/abs/1902.09630.

    ``inter / union - (enclosing - union) / enclosing``, here *without* the inclusive-corner
    ``+ 1`` that the rest of the package uses.

    Args:
        boxes: ``[..., 4]`` xyxy. A corner left of or above its counterpart is taken to be equal to
            it, so a prediction turned inside out has no area.
        targets: ``[..., 4]`` xyxy with ``x2 >= x1`` and ``y2 >= y1``.

    Returns:
        ``[...]`` in (-1, 1]; about 1 for equal boxes, negative for distant ones.
    """
    top_left = boxes[..., :2]
    bottom_right = torch.maximum(boxes[..., :2], boxes[..., 2:])
    target_top_left, target_bottom_right = targets[..., :2], targets[..., 2:]

    inner = torch.minimum(bottom_right, target_bottom_right) - torch.maximum(
        top_left, target_top_left
    )
    outer = torch.maximum(bottom_right, target_bottom_right) - torch.minimum(
        top_left, target_top_left
    )
    meets = (inner > 0).all(dim=-1)
    intersection = torch.where(meets, _area(inner), 0.0)
    area = _area(bottom_right - top_left)
    target_area = _area(target_bottom_right - target_top_left)
    union = area + target_area - intersection + EPSILON
    enclosing = _area(outer) + EPSILON
    return intersection / union - (enclosing - union) / enclosing


def giou_loss(boxes: Tensor, targets: Tensor) -> Tensor:
    """``1 - generalized_iou`` of each pair, ``[...]`` in [0, 2); the caller weights and sums."""
    return 1 - generalized_iou(boxes, targets)


def _area(size: Tensor) -> Tensor:
    # Not .prod(): its backward asks the device for the number of zeros.
    return size[..., 0] * size[..., 1]
