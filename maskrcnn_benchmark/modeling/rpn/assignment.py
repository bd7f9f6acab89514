"""Which anchors learn which boxes: adaptive training sample selection (ATSS).

Zhang et al., "Bridging the Gap Between Anchor-based and Anchor-free Detection via Adaptive Training
Sample Selection", https://arxiv.org/abs/1912.02424, section 3.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# A positive anchor has its centre inside the box by more than this many pixels.
CENTRE_MARGIN = 0.01

# Distances are computed for so many boxes at a time that their table stays below this many values.
MAX_DISTANCES = 2**25


@dataclass(frozen=True)
class Assignment:
    """Result of :func:`atss_assign` for a batch of ``B`` images with ``A`` anchors each.

    Nothing in it has a size that depends on the data beyond the number of boxes, so that neither
    making nor using it waits for the device: the ``P`` *pairs* are all candidates, ``K`` per box,
    and ``positive`` tells which of them hold.

    Attributes:
        matched_box: int64 ``[B, A]``, row of the anchor's box among the boxes of the whole batch,
            -1 for background.
        pair_anchor: int64 ``[P]``, index into the flattened ``[B * A]`` anchors.
        pair_box: int64 ``[P]``, row of the box.
        positive: bool ``[P]``, True where the anchor belongs to the box. An anchor is positive in
            one pair at most.
    """

    matched_box: Tensor
    pair_anchor: Tensor
    pair_box: Tensor
    positive: Tensor


@torch.no_grad()
def atss_assign(
    anchors: Sequence[Tensor],
    boxes: Tensor,
    boxes_per_image: Sequence[int],
    topk: int = 9,
) -> Assignment:
    """Assign the anchors of every image of a batch to its boxes.

    For each box the ``topk`` anchors of every level with the nearest centre are candidates. Those
    are positive whose overlap with the box reaches the mean plus the (unbiased) standard deviation
    of the candidates' overlaps and whose centre lies inside the box. An anchor claimed by several
    boxes goes to the one it overlaps most, at equal overlap to the first. All others are
    background; an image without boxes is background throughout.

    Equal distances (neighbours of a box centre, often) are resolved as ``torch.topk`` does.

    Args:
        anchors: per level ``[A_l, 4]`` xyxy, shared by the images.
        boxes: ``[G, 4]`` xyxy, the boxes of all images in batch order.
        boxes_per_image: how many of them belong to each of the ``B`` images.
        topk: candidates per level and box; a level with fewer anchors gives all of them.

    Returns:
        The assignment, with inclusive-corner overlaps.

    Raises:
        ValueError: if ``boxes_per_image`` does not add up to ``G``.
    """
    num_boxes, num_images = len(boxes), len(boxes_per_image)
    if sum(boxes_per_image) != num_boxes:
        raise ValueError(f"boxes_per_image adds up to {sum(boxes_per_image)} for {num_boxes} boxes")
    all_anchors = torch.cat(tuple(anchors))
    num_anchors = len(all_anchors)
    if num_boxes == 0:
        none = boxes.new_empty(0, dtype=torch.int64)
        background = none.new_full((num_images, num_anchors), -1)
        return Assignment(background, none, none, none.bool())

    candidates = _nearest_anchors(anchors, boxes, topk)
    overlap = _paired_iou(all_anchors[candidates], boxes)
    # A lone candidate has no deviation; torch would give NaN and a warning.
    deviation = overlap.std(dim=0) if len(overlap) > 1 else 0.0
    positive = overlap >= overlap.mean(dim=0) + deviation
    positive &= _centre_inside(all_anchors[candidates], boxes)

    image = torch.cat(
        [boxes.new_full((n,), i, dtype=torch.int64) for i, n in enumerate(boxes_per_image)]
    )
    box = torch.arange(num_boxes, device=boxes.device).expand_as(candidates)
    slot = (candidates + image * num_anchors).flatten()
    overlap, positive, box = overlap.flatten(), positive.flatten(), box.flatten()

    # Anchors claimed several times: the largest overlap wins, then the first box.
    best = overlap.new_full((num_images * num_anchors,), -torch.inf)
    claim = overlap.masked_fill(~positive, -torch.inf)
    best = best.scatter_reduce(0, slot, claim, "amax")
    positive = positive & (overlap == best[slot])
    owner = box.new_full((num_images * num_anchors,), num_boxes)
    owner = owner.scatter_reduce(0, slot, box.masked_fill(~positive, num_boxes), "amin")
    positive = positive & (box == owner[slot])

    matched = owner.masked_fill(owner == num_boxes, -1).view(num_images, num_anchors)
    return Assignment(matched, slot, box, positive)


def _nearest_anchors(anchors: Sequence[Tensor], boxes: Tensor, topk: int) -> Tensor:
    """Candidates: int64 ``[K, G]`` indices into the concatenated anchors, K over all levels."""
    box_centres = _centres(boxes)
    candidates = []
    start = 0
    for level in anchors:
        centres, count = _centres(level), min(topk, len(level))
        chunk = max(1, MAX_DISTANCES // max(1, len(level)))
        nearest = [
            _distances(part, centres).topk(count, dim=1, largest=False)[1]
            for part in box_centres.split(chunk)
        ]
        candidates.append(torch.cat(nearest).t() + start)
        start += len(level)
    return torch.cat(candidates)


def _distances(points: Tensor, others: Tensor) -> Tensor:
    """``[N, 2]`` against ``[M, 2]``: ``[N, M]``."""
    x = points[:, None, 0] - others[:, 0]
    y = points[:, None, 1] - others[:, 1]
    # The root matters: it makes ties of distances whose squares differ in the last bit.
    return x.square_().add_(y.square_()).sqrt_()


def _centres(boxes: Tensor) -> Tensor:
    return (boxes[..., :2] + boxes[..., 2:]) / 2


def _centre_inside(anchors: Tensor, boxes: Tensor) -> Tensor:
    """``[K, G, 4]`` anchors against ``[G, 4]`` boxes: bool ``[K, G]``."""
    centres = _centres(anchors)
    sides = torch.cat((centres - boxes[:, :2], boxes[:, 2:] - centres), dim=-1)
    return sides.amin(dim=-1) > CENTRE_MARGIN


def _paired_iou(anchors: Tensor, boxes: Tensor) -> Tensor:
    """Inclusive-corner overlap of ``[K, G, 4]`` anchors with their boxes ``[G, 4]``: ``[K, G]``."""
    top_left = torch.maximum(anchors[..., :2], boxes[:, :2])
    bottom_right = torch.minimum(anchors[..., 2:], boxes[:, 2:])
    inner = (bottom_right - top_left + 1).clamp(min=0)
    intersection = inner[..., 0] * inner[..., 1]
    return intersection / (_areas(anchors) + _areas(boxes) - intersection)


def _areas(boxes: Tensor) -> Tensor:
    return (boxes[..., 2] - boxes[..., 0] + 1) * (boxes[..., 3] - boxes[..., 1] + 1)
