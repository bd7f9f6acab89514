"""What evaluators of boxes with category ids share: annotations, sizes, label ids, result files."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from maskrcnn_benchmark.evaluation.base import (
    DatasetEvaluator,
    EvaluationError,
    Scores,
    report_missing,
    to_arrays,
)
from maskrcnn_benchmark.evaluation.detections import Detections, ImageDetections
from maskrcnn_benchmark.evaluation.files import write_predictions, write_results
from maskrcnn_benchmark.evaluation.ground_truth import GroundTruth, load_ground_truth
from maskrcnn_benchmark.structures.bounding_box import BoxList

logger = logging.getLogger(__name__)

BOX_FORM = "x, y, width, height in pixels of the original image; labels are category ids"
SHOWN = 5

GroundTruthSource = GroundTruth | str | Path | Callable[[], GroundTruth]


class BoxesEvaluator(DatasetEvaluator):
    """Boxes with category ids against an annotation file.

    Args:
        ground_truth: annotations, the path of their file, or a function that makes them. The last
            two are used when needed: on rank 0 alone if ``image_sizes`` is given.
        image_sizes: image id to (width, height); None takes them from the annotations.
        label_to_category: label of a prediction to category id; labels that it lacks are dropped.
            None: labels are category ids.
        output_folder, only_predicted: see :class:`DatasetEvaluator`.
    """

    def __init__(
        self,
        ground_truth: GroundTruthSource,
        *,
        image_sizes: Mapping[int, tuple[int, int]] | None = None,
        label_to_category: Mapping[int, int] | None = None,
        output_folder: str | Path | None = None,
        only_predicted: bool = False,
    ) -> None:
        super().__init__(output_folder, only_predicted=only_predicted)
        self._source = ground_truth
        self._loaded = ground_truth if isinstance(ground_truth, GroundTruth) else None
        self._image_sizes = image_sizes
        self._category_of_label = _lookup_table(label_to_category)

    @property
    def ground_truth(self) -> GroundTruth:
        """The annotations."""
        if self._loaded is None:
            source = self._source
            self._loaded = source() if callable(source) else load_ground_truth(source)
        return self._loaded

    def _convert(self, image_id: int, boxes: BoxList) -> ImageDetections:
        found = to_arrays(boxes, self._size_of(image_id))
        labels, known = self._to_categories(found.labels)
        form = self._box_form(found.boxes)
        return ImageDetections(form[known], found.scores[known], labels[known])

    def _size_of(self, image_id: int) -> tuple[int, int]:
        if self._image_sizes is None:
            return self.ground_truth.image_size(image_id)
        if image_id not in self._image_sizes:
            raise EvaluationError(f"predictions name image {image_id}, which the dataset lacks")
        return self._image_sizes[image_id]

    def _to_categories(self, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if self._category_of_label is None:
            return labels, np.ones(len(labels), bool)
        table, known = self._category_of_label
        inside = (labels >= 0) & (labels < len(table))
        positions = np.where(inside, labels, 0)
        return table[positions], inside & known[positions]

    def _write_predictions(self, detections: Detections) -> None:
        write_results(self.output_folder / "bbox.json", detections)
        write_predictions(self.output_folder / "predictions.pth", detections, BOX_FORM)

    def _score(self, detections: Detections) -> Scores:
        ground_truth = self.ground_truth
        unknown = np.setdiff1d(detections.image_ids, np.fromiter(ground_truth.images, np.int64))
        if len(unknown):
            raise EvaluationError(
                f"predictions name {len(unknown)} images that {ground_truth.source} lacks "
                f"(first: {unknown[:SHOWN].tolist()})"
            )
        self._check_categories(detections, ground_truth)
        if not ground_truth.has_annotations:
            return Scores({}, f"{ground_truth.source} has no annotations: nothing to score")
        if self.only_predicted:
            ground_truth = ground_truth.restricted_to(detections.image_ids)
        else:
            report_missing(self.kind, len(ground_truth.images), len(detections.image_ids))
        return self._score_boxes(ground_truth, detections)

    def _check_categories(self, detections: Detections, ground_truth: GroundTruth) -> None:
        categories = np.fromiter(ground_truth.categories, np.int64)
        known = np.isin(detections.labels, categories)
        if known.all():
            return
        unknown = np.unique(detections.labels[~known])
        message = (
            f"{(~known).sum()} of {len(known)} detections are of {len(unknown)} categories that "
            f"{ground_truth.source} lacks (first: {unknown[:SHOWN].tolist()})"
        )
        if not known.any():
            raise EvaluationError(f"{message}; are these results of another set?")
        logger.warning("%s; they are left out", message)

    @staticmethod
    @abstractmethod
    def _box_form(corners: np.ndarray) -> np.ndarray:
        """``(n, 4)`` corners as x, y, width, height by the rule of this evaluation."""

    @abstractmethod
    def _score_boxes(self, ground_truth: GroundTruth, detections: Detections) -> Scores:
        """Numbers of checked detections; writes the evaluation's own files."""


def inclusive_box_form(corners: np.ndarray) -> np.ndarray:
    """x, y, width, height where a box covers both corner pixels (COCO output of the original)."""
    return np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2] + 1], axis=1)


def plain_box_form(corners: np.ndarray) -> np.ndarray:
    """x, y, width, height with width = x2 - x1 (LVIS output of the original)."""
    return np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)


def _lookup_table(
    label_to_category: Mapping[int, int] | None,
) -> tuple[np.ndarray, np.ndarray] | None:
    if label_to_category is None:
        return None
    size = max(label_to_category, default=0) + 1
    table, known = np.zeros(size, np.int64), np.zeros(size, bool)
    for label, category in label_to_category.items():
        table[label], known[label] = category, True
    return table, known
