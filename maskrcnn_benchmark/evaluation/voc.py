"""Mean AP in the manner of PASCAL VOC 2007."""

from __future__ import annotations

import numpy as np

from maskrcnn_benchmark.evaluation.base import Scores
from maskrcnn_benchmark.evaluation.boxes_evaluator import BoxesEvaluator, inclusive_box_form
from maskrcnn_benchmark.evaluation.coco import display_names
from maskrcnn_benchmark.evaluation.detections import Detections
from maskrcnn_benchmark.evaluation.files import write_text
from maskrcnn_benchmark.evaluation.ground_truth import GroundTruth
from maskrcnn_benchmark.evaluation.overlap import iou

IOU_THRESHOLD = 0.5
RECALL_LEVELS = np.arange(0.0, 1.1, 0.1)


class VocEvaluator(BoxesEvaluator):
    """Mean over classes of the 11-point AP at IoU 0.5, difficult boxes aside.

    The original counts the inclusive pixel twice: corners are shifted by one and IoU adds one
    again. That is kept. An image in which nothing was found keeps its boxes (the original lost
    them, which raised recall).

    Files: ``result.txt``, ``bbox.json``, ``predictions.pth``, ``metrics.json``. Annotations are
    in COCO form; a box is difficult where it has ``"difficult": 1``.
    """

    kind = "voc"
    primary = "mAP"

    @staticmethod
    def _box_form(corners: np.ndarray) -> np.ndarray:
        return inclusive_box_form(corners)

    def _score_boxes(self, ground_truth: GroundTruth, detections: Detections) -> Scores:
        names = display_names(ground_truth)
        per_class = {
            names[category]: class_average_precision(ground_truth, detections, category)
            for category in sorted(ground_truth.categories)
        }
        present = [value for value in per_class.values() if not np.isnan(value)]
        mean = float(np.mean(present)) if present else float("nan")
        lines = [f"mAP: {mean:.4f}"]
        lines += [f"{name:<16}: {value:.4f}" for name, value in per_class.items()]
        if self.output_folder is not None:
            write_text(self.output_folder / "result.txt", "\n".join(lines) + "\n")
        annotated = {name: value for name, value in per_class.items() if not np.isnan(value)}
        return Scores({"mAP": mean}, "\n".join(lines), annotated)


def class_average_precision(
    ground_truth: GroundTruth, detections: Detections, category: int
) -> float:
    """AP of one class: mean, over recall 0, 0.1 ... 1, of the best precision at or beyond it.

    Returns:
        NaN if the class has no box that is not difficult.
    """
    in_class = ground_truth.category_ids == category
    num_boxes = int((in_class & ~ground_truth.difficult).sum())
    if num_boxes == 0:
        return float("nan")
    scores, outcomes = [np.zeros(0)], [np.zeros(0, np.int64)]
    boxes = _split_by_image(ground_truth, in_class)
    for image_id, found in detections.image_rows():
        of_class = found.labels == category
        if of_class.any():
            order = np.argsort(-found.scores[of_class], kind="stable")
            scores.append(found.scores[of_class][order])
            outcomes.append(_outcomes(found.boxes[of_class][order], *boxes.get(image_id, _NONE)))
    order = np.argsort(-np.concatenate(scores), kind="stable")
    outcome = np.concatenate(outcomes)[order]
    hits, misses = np.cumsum(outcome == 1), np.cumsum(outcome == 0)
    counted = hits + misses
    precision = np.divide(hits, counted, out=np.zeros(len(hits)), where=counted > 0)
    recall = hits / num_boxes
    best = [precision[recall >= level].max(initial=0.0) for level in RECALL_LEVELS]
    return float(np.sum(best) / len(RECALL_LEVELS))


_NONE = (np.zeros((0, 4)), np.zeros(0, bool))


def _split_by_image(
    ground_truth: GroundTruth, in_class: np.ndarray
) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    by_image = {}
    for image_id in np.unique(ground_truth.image_ids[in_class]).tolist():
        rows = in_class & (ground_truth.image_ids == image_id)
        by_image[image_id] = (ground_truth.boxes[rows], ground_truth.difficult[rows])
    return by_image


def _outcomes(found: np.ndarray, boxes: np.ndarray, difficult: np.ndarray) -> np.ndarray:
    """1 for a hit, 0 for a false alarm, -1 for what meets a difficult box and is not counted.

    Args:
        found: ``(n, 4)`` x, y, width, height by descending score, of one image and class.
        boxes: ``(m, 4)`` likewise.
        difficult: ``(m,)`` bool.
    """
    if not len(boxes):
        return np.zeros(len(found), np.int64)
    overlap = iou(_doubly_inclusive_corners(found), _doubly_inclusive_corners(boxes))
    nearest = overlap.argmax(axis=1)
    outcomes = np.zeros(len(found), np.int64)
    taken = np.zeros(len(boxes), bool)
    for row, box in enumerate(nearest.tolist()):
        if overlap[row, box] < IOU_THRESHOLD:
            continue
        if difficult[box]:
            outcomes[row] = -1
        elif not taken[box]:
            outcomes[row] = 1
        taken[box] = True
    return outcomes


def _doubly_inclusive_corners(boxes: np.ndarray) -> np.ndarray:
    """Corners with one pixel added on top of the inclusive width, x, y, width, height given."""
    boxes = boxes.astype(np.float64)
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:] + 1], axis=1)
