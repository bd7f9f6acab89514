"""Which attribute of a class a model reads: accuracy of each, for categories that list attributes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from maskrcnn_benchmark.evaluation.detections import Detections
from maskrcnn_benchmark.evaluation.ground_truth import GroundTruth
from maskrcnn_benchmark.evaluation.overlap import corners, iou

MINIMAL_OVERLAP = 0.5
METRIC_PREFIX = "acc_"


def attribute_accuracies(ground_truth: GroundTruth, detections: Detections) -> dict[str, float]:
    """Share of the annotated boxes whose attributes the best detection on them has right.

    A box is read as the category of the highest-scoring detection that overlaps it by IoU 0.5 or
    more. One without such a detection has every attribute wrong, so ``acc_found`` is the limit of
    all others. ``acc_all`` asks for all attributes at once.

    Args:
        ground_truth: categories with an entry ``attributes`` (name to value); crowd boxes are left
            out.
        detections: boxes x, y, width, height; labels are category ids.

    Returns:
        ``acc_<attribute>``, ``acc_all`` and ``acc_found`` in 0..1; empty if no category has
        attributes or there is no box.
    """
    names = sorted(
        {name for entry in ground_truth.categories.values() for name in entry.get("attributes", ())}
    )
    considered = ~ground_truth.crowd
    if not names or not considered.any():
        return {}
    known = np.isin(detections.labels, np.fromiter(ground_truth.categories, np.int64))
    read_as = _best_category(ground_truth, detections.select(known))
    rows = np.flatnonzero(considered)
    correct = np.array(
        [
            _agreement(ground_truth, names, int(ground_truth.category_ids[row]), int(read_as[row]))
            for row in rows
        ]
    )
    shares = dict(zip(names, correct.mean(axis=0).tolist()))
    shares["all"] = float(correct.all(axis=1).mean())
    shares["found"] = float((read_as[rows] >= 0).mean())
    return {f"{METRIC_PREFIX}{name}": share for name, share in shares.items()}


def _best_category(ground_truth: GroundTruth, detections: Detections) -> np.ndarray:
    """``(num_boxes,)`` category of the best detection on each annotated box, -1 for none."""
    best = np.full(len(ground_truth.ids), -1, np.int64)
    annotated = corners(ground_truth.boxes)
    for image_id, found in detections.image_rows():
        rows = np.flatnonzero(ground_truth.image_ids == image_id)
        if not len(rows) or not len(found.scores):
            continue
        overlaps = iou(annotated[rows], corners(found.boxes)) >= MINIMAL_OVERLAP
        scores = np.where(overlaps, found.scores, -np.inf)
        best[rows] = np.where(overlaps.any(axis=1), found.labels[scores.argmax(axis=1)], -1)
    return best


def _agreement(
    ground_truth: GroundTruth, names: Sequence[str], category: int, read_as: int
) -> list[bool]:
    if read_as < 0:
        return [False] * len(names)
    true = ground_truth.categories[category].get("attributes", {})
    read = ground_truth.categories[read_as].get("attributes", {})
    return [true.get(name) == read.get(name) for name in names]
