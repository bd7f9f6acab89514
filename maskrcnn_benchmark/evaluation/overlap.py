"""Overlap of boxes in double precision, without the ``+ 1`` of :func:`structures.box_iou`."""

from __future__ import annotations

import numpy as np


def iou(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union of all pairs; a box without area overlaps nothing.

    Args:
        boxes: ``(n, 4)`` x1, y1, x2, y2.
        others: ``(m, 4)``.
    Returns:
        ``(n, m)`` float64.
    """
    intersection, union = _intersection_and_union(boxes, others)
    return _ratio(intersection, union)


def generalised_iou(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Generalised IoU of all pairs (Rezatofighi et al., 2019): IoU minus the empty share of the
    smallest box around both.

    Args:
        boxes: ``(n, 4)`` x1, y1, x2, y2.
        others: ``(m, 4)``.
    Returns:
        ``(n, m)`` float64, between -1 and 1.
    """
    intersection, union = _intersection_and_union(boxes, others)
    top_left = np.minimum(boxes[:, None, :2], others[None, :, :2])
    bottom_right = np.maximum(boxes[:, None, 2:], others[None, :, 2:])
    enclosing = (bottom_right - top_left).clip(min=0).prod(axis=-1)
    return _ratio(intersection, union) - _ratio(enclosing - union, enclosing)


def corners(boxes: np.ndarray) -> np.ndarray:
    """``(n, 4)`` x, y, width, height as x1, y1, x2, y2, in double precision."""
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


def _intersection_and_union(boxes: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    boxes, others = (np.asarray(given, np.float64).reshape(-1, 4) for given in (boxes, others))
    top_left = np.maximum(boxes[:, None, :2], others[None, :, :2])
    bottom_right = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    intersection = (bottom_right - top_left).clip(min=0).prod(axis=-1)
    areas, other_areas = ((given[:, 2:] - given[:, :2]).prod(axis=1) for given in (boxes, others))
    return intersection, areas[:, None] + other_areas[None] - intersection


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.zeros_like(part, np.float64), where=whole > 0)
