"""Suppression and merging of overlapping boxes in a BoxList.

All functions return the boxes in the mode in which they came, with all their fields.
"""

from __future__ import annotations

import torch
from torch import Tensor

from maskrcnn_benchmark.layers import ml_nms, nms, soft_nms
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.boxlist_ops import box_iou


def boxlist_nms(
    boxlist: BoxList,
    iou_threshold: float,
    max_proposals: int = -1,
    score_field: str = "scores",
) -> BoxList:
    """Greedy suppression of all boxes against each other (overlap without inclusive pixels).

    Args:
        boxlist: boxes with the field ``score_field``.
        iou_threshold: above it the weaker box goes; 0 or less keeps all.
        max_proposals: kept at most, the best; 0 or less for no limit.

    Returns:
        The survivors, best score first; ``boxlist`` itself if nothing is to be suppressed.
    """
    if iou_threshold <= 0:
        return boxlist
    keep = nms(boxlist.convert("xyxy").bbox, boxlist.get_field(score_field), iou_threshold)
    return boxlist[keep[:max_proposals] if max_proposals > 0 else keep]


def boxlist_ml_nms(
    boxlist: BoxList,
    iou_threshold: float,
    max_proposals: int = -1,
    score_field: str = "scores",
    label_field: str = "labels",
) -> BoxList:
    """Greedy suppression among boxes of equal label (overlap with inclusive pixels).

    Args:
        boxlist: boxes with the fields ``score_field`` and ``label_field``.
        iou_threshold: above it the weaker box goes; 0 or less keeps all.
        max_proposals: kept at most, the best; 0 or less for no limit.

    Returns:
        The survivors, best score first; ``boxlist`` itself if nothing is to be suppressed.
    """
    if iou_threshold <= 0:
        return boxlist
    scores = boxlist.get_field(score_field)
    boxes = boxlist.convert("xyxy").bbox
    keep = ml_nms(boxes, scores, boxlist.get_field(label_field), iou_threshold)
    keep = keep[scores[keep].argsort(descending=True, stable=True)]
    return boxlist[keep[:max_proposals] if max_proposals > 0 else keep]


def boxlist_soft_nms(
    boxlist: BoxList, score_threshold: float, sigma: float = 0.95, score_field: str = "scores"
) -> BoxList:
    """Gaussian soft suppression, https://arxiv.org/abs/1704.04503.

    Args:
        boxlist: boxes with the field ``score_field``.
        score_threshold: boxes whose decayed *score* falls below it go.
        sigma: width of the Gaussian in overlap.

    Returns:
        The survivors with decayed scores, best score first.
    """
    boxes = boxlist.convert("xyxy").bbox
    keep, scores = soft_nms(boxes, boxlist.get_field(score_field), score_threshold, sigma)
    kept = boxlist[keep]
    kept.add_field(score_field, scores)
    return kept


def boxlist_voting(boxlist: BoxList, iou_threshold: float, score_field: str = "scores") -> BoxList:
    """Replace every cluster of overlapping boxes by their score-weighted mean.

    The best box and all boxes that overlap it by ``iou_threshold`` or more form a cluster and
    leave; repeat. A cluster has the score and the other fields of its best box.

    Args:
        boxlist: boxes with the field ``score_field``.
        iou_threshold: overlap with inclusive pixels.

    Returns:
        One box per cluster, best score first.
    """
    order, boxes, scores = _by_score(boxlist, score_field)
    head, _ = _clusters(boxes, iou_threshold)
    return _voted(boxlist, order, boxes, scores, head)


def boxlist_soft_voting(
    boxlist: BoxList,
    iou_threshold: float,
    score_floor: float = 0.05,
    score_field: str = "scores",
) -> BoxList:
    """As :func:`boxlist_voting`, but the boxes that were outvoted stay with a lower score.

    A member that overlaps the best box of its cluster by ``o`` stays where it was, with its score
    times ``1 - o``, if that reaches ``score_floor``.

    Returns:
        Best score first.
    """
    order, boxes, scores = _by_score(boxlist, score_field)
    head, overlap = _clusters(boxes, iou_threshold)
    voted = _voted(boxlist, order, boxes, scores, head)
    softened = scores * (1 - overlap)
    outvoted = (head != torch.arange(len(head), device=head.device)) & (softened >= score_floor)
    members = boxlist[order[outvoted]].convert("xyxy")
    members.add_field(score_field, softened[outvoted])
    merged = BoxList.concate_box_list([voted.convert("xyxy"), members]).convert(boxlist.mode)
    return merged[merged.get_field(score_field).argsort(descending=True, stable=True)]


def _by_score(boxlist: BoxList, score_field: str) -> tuple[Tensor, Tensor, Tensor]:
    """Order by descending score, and the xyxy boxes and scores in that order."""
    scores = boxlist.get_field(score_field)
    order = scores.argsort(descending=True, stable=True)
    return order, boxlist.convert("xyxy").bbox[order], scores[order]


def _clusters(boxes: Tensor, iou_threshold: float) -> tuple[Tensor, Tensor]:
    """For boxes by descending score: int64 index of the cluster's best box, and overlap with it."""
    device, boxes = boxes.device, boxes.cpu()  # one step per cluster: no work for a GPU
    head = torch.empty(len(boxes), dtype=torch.int64)
    overlap = torch.empty(len(boxes))
    remaining = torch.arange(len(boxes))
    while len(remaining):
        best = remaining[0]
        with_best = box_iou(boxes[best][None], boxes[remaining])[0]
        members = with_best >= iou_threshold
        members[0] = True  # also where its overlap with itself is not a number
        head[remaining[members]] = best
        overlap[remaining[members]] = with_best[members]
        remaining = remaining[~members]
    return head.to(device), overlap.to(device)


def _voted(boxlist: BoxList, order: Tensor, boxes: Tensor, scores: Tensor, head: Tensor) -> BoxList:
    """Best boxes of all clusters, moved to the score-weighted mean of their members."""
    weighted = torch.zeros_like(boxes).index_add_(0, head, boxes * scores[:, None])
    weight = torch.zeros_like(scores).index_add_(0, head, scores)
    size = torch.zeros_like(head).index_add_(0, head, torch.ones_like(head))
    # A box alone stays exactly where it is.
    mean = torch.where(size[:, None] > 1, weighted / weight[:, None], boxes)
    best = (size > 0).nonzero().squeeze(1)
    voted = boxlist[order[best]].convert("xyxy")
    voted.bbox = mean[best]
    return voted.convert(boxlist.mode)
