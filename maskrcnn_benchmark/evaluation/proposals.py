"""Recall of boxes without classes, for region proposals."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from maskrcnn_benchmark.evaluation.average_precision import AREAS, IOU_THRESHOLDS
from maskrcnn_benchmark.evaluation.base import Scores, to_arrays
from maskrcnn_benchmark.evaluation.boxes_evaluator import BoxesEvaluator, inclusive_box_form
from maskrcnn_benchmark.evaluation.detections import Detections, ImageDetections
from maskrcnn_benchmark.evaluation.files import write_json, write_predictions, write_tensors
from maskrcnn_benchmark.evaluation.ground_truth import GroundTruth
from maskrcnn_benchmark.evaluation.overlap import corners, iou
from maskrcnn_benchmark.structures.bounding_box import BoxList

LIMITS = (100, 1000)
AREA_SUFFIXES = {"all": "", "small": "s", "medium": "m", "large": "l"}


class ProposalEvaluator(BoxesEvaluator):
    """Average recall of the best 100 and 1,000 boxes of an image, whatever their class.

    A box covers both its corner pixels here. Files: ``box_proposals.pth``,
    ``box_proposals.json``, ``metrics.json``.

    Boxes rank by the field ``objectness``, by ``scores`` where it is missing.
    """

    kind = "box_proposals"
    primary = "AR@1000"

    def _convert(self, image_id: int, boxes: BoxList) -> ImageDetections:
        ranked = boxes.copy_with_fields([])
        name = "objectness" if boxes.has_field("objectness") else "scores"
        if boxes.has_field(name):
            ranked.add_field("scores", boxes.get_field(name))
        ranked.add_field("labels", torch.zeros(len(boxes), dtype=torch.int64))
        found = to_arrays(ranked, self._size_of(image_id))
        return found._replace(boxes=self._box_form(found.boxes))

    @staticmethod
    def _box_form(corners: np.ndarray) -> np.ndarray:
        return inclusive_box_form(corners)

    def _check_categories(self, detections: Detections, ground_truth: GroundTruth) -> None:
        """Proposals have no category."""

    def _write_predictions(self, detections: Detections) -> None:
        form = "x, y, width, height in pixels of the original image; labels mean nothing"
        write_predictions(self.output_folder / "predictions.pth", detections, form)

    def _score_boxes(self, ground_truth: GroundTruth, detections: Detections) -> Scores:
        metrics = {}
        for limit in LIMITS:
            for area, suffix in AREA_SUFFIXES.items():
                recalls = proposal_recall(ground_truth, detections, AREAS[area], limit)
                metrics[f"AR{suffix}@{limit}"] = float(np.mean(recalls))
        if self.output_folder is not None:
            write_tensors(self.output_folder / "box_proposals.pth", {"box_proposal": metrics})
            write_json(self.output_folder / "box_proposals.json", {"box_proposal": metrics})
        table = "\n".join(f" {name:<9} = {value:0.4f}" for name, value in metrics.items())
        return Scores(metrics, table)


def proposal_recall(
    ground_truth: GroundTruth, detections: Detections, area: tuple[float, float], limit: int
) -> np.ndarray:
    """Share of the annotated boxes that proposals reach at IoU 0.50, 0.55 ... 0.95.

    Each box is paired with one proposal: again and again the pair of the greatest overlap that is
    left.

    Args:
        detections: boxes x, y, width, height.
        area: lower and upper bound of the annotated area; crowd regions are left out.
        limit: proposals of an image that count, the best by score.
    Returns:
        ``(10,)`` float64, NaN where no box lies in the area range.
    """
    usable = ~ground_truth.crowd
    usable &= (ground_truth.areas >= area[0]) & (ground_truth.areas <= area[1])
    boxes = _boxes_by_image(ground_truth, usable)
    overlaps = []
    for image_id, found in detections.image_rows():
        if image_id in boxes and len(found.scores):
            best = np.argsort(-found.scores, kind="stable")[:limit]
            overlaps.append(greedy_overlaps(corners(found.boxes[best]), boxes[image_id]))
    reached = np.concatenate([np.zeros(0), *overlaps])
    hits = (reached[:, None] >= IOU_THRESHOLDS[None]).sum(axis=0)
    return np.divide(hits, usable.sum(), out=np.full(len(hits), np.nan), where=usable.any())


def greedy_overlaps(proposals: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Overlaps of the pairs that a greedy one-to-one pairing makes, greatest first.

    Args:
        proposals: ``(n, 4)`` corners, exclusive of the last pixel.
        boxes: ``(m, 4)`` likewise.
    Returns:
        ``(min(n, m),)`` float64.
    """
    overlap = iou(proposals, boxes)
    pairs = np.empty(min(overlap.shape))
    for number in range(len(pairs)):
        row, column = np.unravel_index(np.argmax(overlap), overlap.shape)
        pairs[number] = overlap[row, column]
        overlap[row], overlap[:, column] = -1, -1
    return pairs


def _boxes_by_image(ground_truth: GroundTruth, usable: np.ndarray) -> Mapping[int, np.ndarray]:
    image_ids, boxes = ground_truth.image_ids[usable], corners(ground_truth.boxes[usable])
    order = np.argsort(image_ids, kind="stable")
    unique_ids, starts = np.unique(image_ids[order], return_index=True)
    return dict(zip(unique_ids.tolist(), np.split(boxes[order], starts[1:])))
