"""Non-maximum suppression: plain, per label, and soft.

The functions share the box layout ``(x1, y1, x2, y2)`` but not the pixel convention: `nms` measures
areas as torchvision does, `ml_nms` and `soft_nms` count pixels inclusively (width = x2 - x1 + 1),
because published models were trained and measured that way.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from maskrcnn_benchmark.layers import _native
from maskrcnn_benchmark.layers._checks import (
    at_least_single,
    check_device,
    check_floating,
    check_rank,
    check_shape,
)


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Greedy suppression by descending score; IoU without the inclusive pixel.

    Args:
        boxes: (num_boxes, 4) corners, floating point.
        scores: (num_boxes,); of equal scores the earlier box goes first.
        iou_threshold: a kept box suppresses later ones whose IoU is greater than this.

    Returns:
        int64 indices of the kept boxes by descending score. Empty for no boxes.

    Raises:
        ValueError, TypeError: naming the argument with a wrong shape, device or dtype.
    """
    _check(boxes, scores)
    boxes, scores = _same_precision(boxes, scores)
    if _native.usable(boxes):
        return torch.ops.glip.nms(boxes, scores, float(iou_threshold))
    return nms_reference(boxes, scores, iou_threshold)


def ml_nms(boxes: Tensor, scores: Tensor, labels: Tensor, iou_threshold: float) -> Tensor:
    """Greedy suppression among boxes of equal label, with inclusive pixels.

    Args:
        boxes: (num_boxes, 4) corners, floating point.
        scores: (num_boxes,); of equal scores the earlier box goes first.
        labels: (num_boxes,) integers, or floats that hold integers.
        iou_threshold: a kept box suppresses later ones of its label whose IoU is greater than this.

    Returns:
        int64 indices of the kept boxes, ascending (in the order of `boxes`, not of the scores).

    Raises:
        ValueError, TypeError: naming the argument with a wrong shape, device or dtype.
    """
    _check(boxes, scores)
    check_shape("labels", labels, (boxes.shape[0],), "one label per box")
    check_device("boxes", boxes, labels=labels)
    boxes, scores = _same_precision(boxes, scores)
    labels = labels.long()
    if _native.usable(boxes):
        return torch.ops.glip.ml_nms(boxes, scores, labels, float(iou_threshold))
    return ml_nms_reference(boxes, scores, labels, iou_threshold)


def soft_nms(
    boxes: Tensor, scores: Tensor, score_threshold: float, sigma: float
) -> tuple[Tensor, Tensor]:
    """Gaussian soft suppression (Bodla et al. 2017) with inclusive pixels.

    Repeatedly selects the best remaining box and multiplies the score of every other remaining box
    by ``exp(-IoU**2 / sigma)``; boxes that fall below `score_threshold` are dropped. The selected
    box itself is never compared with the threshold. Runs on the CPU; CUDA input is copied.

    Args:
        boxes: (num_boxes, 4) corners, floating point.
        scores: (num_boxes,).
        score_threshold: decayed scores below this drop out.
        sigma: width of the Gaussian, positive.

    Returns:
        int64 indices in the order of selection and the decayed scores in the same order.

    Raises:
        ValueError, TypeError: naming the argument with a wrong shape, device, dtype or value.
    """
    _check(boxes, scores)
    if not sigma > 0:
        raise ValueError(f"sigma must be positive, got {sigma}")
    boxes, scores = _same_precision(boxes, scores)
    device = boxes.device
    if device.type == "cuda":
        boxes, scores = boxes.cpu(), scores.cpu()
    if _native.usable(boxes):
        kept, decayed = torch.ops.glip.soft_nms(boxes, scores, float(score_threshold), float(sigma))
    else:
        kept, decayed = soft_nms_reference(boxes, scores, score_threshold, sigma)
    return kept.to(device), decayed.to(device)


def _check(boxes: Tensor, scores: Tensor) -> None:
    check_rank("boxes", boxes, 2, "(num_boxes, 4)")
    check_shape("boxes", boxes, (boxes.shape[0], 4), "x1, y1, x2, y2 per box")
    check_shape("scores", scores, (boxes.shape[0],), "one score per box")
    check_floating("boxes", boxes)
    check_floating("scores", scores)
    check_device("boxes", boxes, scores=scores)


def _same_precision(boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    """Both in the wider of their dtypes, at least float32 (autocast may hand over half scores)."""
    boxes, scores = at_least_single(boxes.detach()), at_least_single(scores.detach())
    dtype = torch.promote_types(boxes.dtype, scores.dtype)
    return boxes.to(dtype), scores.to(dtype)


def nms_reference(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """`nms` by torchvision."""
    import torchvision  # not needed, and not asked to match PyTorch, where native operators run

    return torchvision.ops.nms(boxes, scores, iou_threshold)


def ml_nms_reference(boxes: Tensor, scores: Tensor, labels: Tensor, iou_threshold: float) -> Tensor:
    """`ml_nms` by one torchvision call per label.

    The usual trick of shifting boxes by label loses sub-pixel precision in float32 and flips
    decisions; boxes are widened to float64 so that the inclusive pixel costs no precision either.
    """
    import torchvision  # not needed, and not asked to match PyTorch, where native operators run

    inclusive = boxes.double() + boxes.new_tensor([0, 0, 1, 1], dtype=torch.float64)
    keep = torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
    for label in labels.unique().tolist():
        members = torch.nonzero(labels == label).squeeze(1)
        kept = torchvision.ops.nms(inclusive[members], scores[members].double(), iou_threshold)
        keep[members[kept]] = True
    return torch.nonzero(keep).squeeze(1)


def soft_nms_reference(
    boxes: Tensor, scores: Tensor, score_threshold: float, sigma: float
) -> tuple[Tensor, Tensor]:
    """`soft_nms` in plain PyTorch, on lists: the selection is sequential by nature."""
    corners = boxes.double().tolist()
    decayed = scores.double().tolist()
    alive = list(range(len(corners)))
    place = 0
    while place < len(alive):
        best = max(range(place, len(alive)), key=lambda i: (decayed[alive[i]], -i))
        alive[place], alive[best] = alive[best], alive[place]
        other = place + 1
        while other < len(alive):
            box = alive[other]
            overlap = _inclusive_iou(corners[alive[place]], corners[box])
            decayed[box] *= math.exp(-(overlap**2) / sigma)
            if decayed[box] < score_threshold:
                alive[other] = alive[-1]
                alive.pop()
            else:
                other += 1
        place += 1
    order = torch.tensor(alive, dtype=torch.int64)
    return order, torch.tensor([decayed[i] for i in alive], dtype=scores.dtype)


def _inclusive_iou(a: list[float], b: list[float]) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]) + 1)
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]) + 1)
    intersection = width * height
    area_a = (a[2] - a[0] + 1) * (a[3] - a[1] + 1)
    area_b = (b[2] - b[0] + 1) * (b[3] - b[1] + 1)
    union = area_a + area_b - intersection
    return intersection / union if union != 0 else 0.0
