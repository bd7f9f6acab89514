"""AP on LVIS, where an image is annotated for some of the categories only.

Fixed AP (Dave et al., "Evaluating Large-Vocabulary Object Detectors: The Devil is in the
Details", 2021; the evaluator that MDETR and GLIP report): instead of 300 detections per image,
10,000 detections per category over the whole set.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from maskrcnn_benchmark.evaluation.average_precision import precision_recall
from maskrcnn_benchmark.evaluation.base import EvaluationError, Scores
from maskrcnn_benchmark.evaluation.boxes_evaluator import (
    BoxesEvaluator,
    GroundTruthSource,
    plain_box_form,
)
from maskrcnn_benchmark.evaluation.coco import per_category_precision
from maskrcnn_benchmark.evaluation.detections import Detections, join
from maskrcnn_benchmark.evaluation.files import write_metric_lines
from maskrcnn_benchmark.evaluation.ground_truth import GroundTruth

logger = logging.getLogger(__name__)

PER_CATEGORY = 10_000
PER_IMAGE = 300
FREQUENCIES = ("r", "c", "f")
AREA_LETTERS = {"small": "s", "medium": "m", "large": "l"}
# Fixed AP alone needs every detection of every chunk; cut again whenever so many have come.
ROWS_BETWEEN_CUTS = 2_000_000


class LvisEvaluator(BoxesEvaluator):
    """AP on LVIS, equal to MDETR's fixed-AP evaluator or to the ``lvis`` package.

    Files: ``bbox.csv``, ``bbox.json``, ``predictions.pth``, ``metrics.json``.

    Args:
        fixed: fixed AP; otherwise the usual AP with ``per_image`` detections per image.
        per_category: detections per category over all images that fixed AP keeps.
        per_image: detections per image that the usual AP keeps, over all categories.
        ground_truth, image_sizes, label_to_category, output_folder, only_predicted: see
            :class:`BoxesEvaluator`; labels are LVIS category ids.
    """

    primary = "AP"

    def __init__(
        self,
        ground_truth: GroundTruthSource,
        *,
        fixed: bool = True,
        per_category: int = PER_CATEGORY,
        per_image: int = PER_IMAGE,
        image_sizes: Mapping[int, tuple[int, int]] | None = None,
        label_to_category: Mapping[int, int] | None = None,
        output_folder: str | Path | None = None,
        only_predicted: bool = False,
    ) -> None:
        super().__init__(
            ground_truth,
            image_sizes=image_sizes,
            label_to_category=label_to_category,
            output_folder=output_folder,
            only_predicted=only_predicted,
        )
        self.kind = "lvis-fixed" if fixed else "lvis"
        self.fixed = fixed
        self.per_category = per_category
        self.per_image = per_image

    @staticmethod
    def _box_form(corners: np.ndarray) -> np.ndarray:
        return plain_box_form(corners)

    def _join_waiting(self) -> None:
        super()._join_waiting()
        if sum(len(part) for part in self._parts[1:]) > ROWS_BETWEEN_CUTS:
            self._parts = [self._trim(join(self._parts))]

    def _trim(self, detections: Detections) -> Detections:
        if self.fixed:
            return detections.best_per_label(self.per_category)
        return detections.best_per_image(self.per_image)

    def _score_boxes(self, ground_truth: GroundTruth, detections: Detections) -> Scores:
        groups = _frequency_groups(ground_truth)
        if self.fixed:
            _report_short_categories(ground_truth, detections, self.per_category)
            limit, limit_name = max(1, int(detections.counts.max(initial=1))), -1
        else:
            limit, limit_name = self.per_image, self.per_image
        curves = precision_recall(ground_truth, detections, max_detections=(limit,), federated=True)
        metrics = {
            "AP": curves.average_precision(),
            "AP50": curves.average_precision(0.5),
            "AP75": curves.average_precision(0.75),
            **{
                f"AP{letter}": curves.average_precision(area=area)
                for area, letter in AREA_LETTERS.items()
            },
            **{
                f"AP{letter}": curves.average_precision(category_ids=categories)
                for letter, categories in groups.items()
            },
            f"AR@{limit_name}": curves.average_recall(),
            **{
                f"AR{letter}@{limit_name}": curves.average_recall(area)
                for area, letter in AREA_LETTERS.items()
            },
        }
        lines = {_title(name, limit_name): value for name, value in metrics.items()}
        if self.output_folder is not None:
            write_metric_lines(
                self.output_folder / "bbox.csv",
                (f"{title.strip()}, {value:0.3f}" for title, value in lines.items()),
            )
        table = "\n".join(f" {title} = {value:0.3f}" for title, value in lines.items())
        return Scores(metrics, table, per_category_precision(curves, ground_truth))


def _frequency_groups(ground_truth: GroundTruth) -> dict[str, list[int]]:
    groups: dict[str, list[int]] = {letter: [] for letter in FREQUENCIES}
    for category, entry in ground_truth.categories.items():
        if entry.get("frequency") not in groups:
            raise EvaluationError(
                f"{ground_truth.source}: category {category} has frequency "
                f"{entry.get('frequency')!r}, LVIS categories have r, c or f; is it an LVIS file?"
            )
        groups[entry["frequency"]].append(category)
    missing = [
        image_id
        for image_id, entry in ground_truth.images.items()
        if "neg_category_ids" not in entry or "not_exhaustive_category_ids" not in entry
    ]
    if missing:
        raise EvaluationError(
            f"{ground_truth.source}: image {missing[0]} has no neg_category_ids and "
            "not_exhaustive_category_ids; is it an LVIS file?"
        )
    return groups


def _report_short_categories(
    ground_truth: GroundTruth, detections: Detections, per_category: int
) -> None:
    counts = np.unique(detections.labels, return_counts=True)[1]
    short = len(ground_truth.categories) - int((counts >= per_category).sum())
    if short:
        logger.info(
            "%d of %d categories have fewer than %d detections",
            short,
            len(ground_truth.categories),
            per_category,
        )


def _title(name: str, limit: int) -> str:
    kind = "Average Precision  (AP)" if name.startswith("AP") else "Average Recall     (AR)"
    suffix = name[2:].split("@")[0]
    overlap = f"0.{suffix}" if suffix.isdigit() else "0.50:0.95"
    area = suffix if suffix in AREA_LETTERS.values() else "all"
    categories = suffix if suffix in FREQUENCIES else "all"
    return f"{kind} @[ IoU={overlap:<9} | area={area:>6s} | maxDets={limit:>3d} catIds={categories:>3s}]"
