"""Box AP in the COCO way."""

from __future__ import annotations

import csv
import io
import logging
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from maskrcnn_benchmark.evaluation.attributes import attribute_accuracies
from maskrcnn_benchmark.evaluation.average_precision import (
    PrecisionRecall,
    precision_recall,
    with_renumbered_ids,
)
from maskrcnn_benchmark.evaluation.base import Scores
from maskrcnn_benchmark.evaluation.boxes_evaluator import (
    BoxesEvaluator,
    GroundTruthSource,
    inclusive_box_form,
)
from maskrcnn_benchmark.evaluation.detections import Detections
from maskrcnn_benchmark.evaluation.files import write_tensors, write_text
from maskrcnn_benchmark.evaluation.ground_truth import GroundTruth

logger = logging.getLogger(__name__)

MAX_DETECTIONS = (1, 10, 100)
# name: (overlap, area, detections per image); precision first, then recall, as COCO prints them.
PRECISIONS = {
    "AP": (None, "all", 100),
    "AP50": (0.5, "all", 100),
    "AP75": (0.75, "all", 100),
    "APs": (None, "small", 100),
    "APm": (None, "medium", 100),
    "APl": (None, "large", 100),
}
RECALLS = {
    "AR@1": (None, "all", 1),
    "AR@10": (None, "all", 10),
    "AR@100": (None, "all", 100),
    "ARs": (None, "small", 100),
    "ARm": (None, "medium", 100),
    "ARl": (None, "large", 100),
}
CSV_ROWS = ("AP", "AP50", "APs", "APm", "APl")


class CocoEvaluator(BoxesEvaluator):
    """AP of boxes, equal to pycocotools; for categories with attributes also their accuracies.

    Files: ``bbox.json``, ``bbox.csv``, ``coco_results.pth``, ``predictions.pth``,
    ``metrics.json``.

    Args:
        renumber_annotations: give the annotations ids from 1 before matching. pycocotools takes
            a match with annotation id 0 for no match, so in files that number from 0 one box can
            never be found; the default keeps that, to agree with published numbers.
        ground_truth, image_sizes, label_to_category, output_folder, only_predicted: see
            :class:`BoxesEvaluator`.
    """

    kind = "coco"
    primary = "AP"

    def __init__(
        self,
        ground_truth: GroundTruthSource,
        *,
        image_sizes: Mapping[int, tuple[int, int]] | None = None,
        label_to_category: Mapping[int, int] | None = None,
        output_folder: str | Path | None = None,
        only_predicted: bool = False,
        renumber_annotations: bool = False,
    ) -> None:
        super().__init__(
            ground_truth,
            image_sizes=image_sizes,
            label_to_category=label_to_category,
            output_folder=output_folder,
            only_predicted=only_predicted,
        )
        self.renumber_annotations = renumber_annotations

    @staticmethod
    def _box_form(corners: np.ndarray) -> np.ndarray:
        return inclusive_box_form(corners)

    def _score_boxes(self, ground_truth: GroundTruth, detections: Detections) -> Scores:
        if self.renumber_annotations:
            ground_truth = with_renumbered_ids(ground_truth)
        elif 0 in ground_truth.ids:
            logger.warning(
                "%s has an annotation with id 0, which pycocotools never counts as found; AP is "
                "therefore slightly low (TEST.RENUMBER_ANNOTATIONS True, or --renumber-annotations of "
                "tools/score_results.py, counts it)",
                ground_truth.source,
            )
        curves = precision_recall(ground_truth, detections, max_detections=MAX_DETECTIONS)
        metrics = {
            name: curves.average_precision(iou, area) for name, (iou, area, _) in PRECISIONS.items()
        }
        for name, (iou, area, limit) in RECALLS.items():
            metrics[name] = curves.average_recall(area, limit, iou)
        if self.output_folder is not None:
            write_text(self.output_folder / "bbox.csv", _csv(curves, ground_truth))
            write_tensors(
                self.output_folder / "coco_results.pth",
                {"bbox": {name: metrics[name] for name in PRECISIONS}},
            )
        table = _table(metrics)
        accuracies = attribute_accuracies(ground_truth, detections)
        if accuracies:
            metrics |= accuracies
            table += "\n " + "  ".join(f"{name} {value:.3f}" for name, value in accuracies.items())
        return Scores(metrics, table, per_category_precision(curves, ground_truth))


def per_category_precision(curves: PrecisionRecall, ground_truth: GroundTruth) -> dict[str, float]:
    """AP of every category that has a box; names that occur twice get their id appended."""
    names = display_names(ground_truth)
    values = {
        names[category]: curves.average_precision(category_ids=[category])
        for category in curves.category_ids
    }
    return {name: value for name, value in values.items() if value > -1}


def display_names(ground_truth: GroundTruth) -> dict[int, str]:
    """Category id to a name that no other category has."""
    names = {category: ground_truth.category_name(category) for category in ground_truth.categories}
    times = Counter(names.values())
    return {
        category: name if times[name] == 1 else f"{name} ({category})"
        for category, name in names.items()
    }


def _title(name: str) -> str:
    kind = "Average Precision  (AP)" if name in PRECISIONS else "Average Recall     (AR)"
    iou, area, limit = (PRECISIONS | RECALLS)[name]
    overlap = "0.50:0.95" if iou is None else f"{iou:0.2f}"
    return f"{kind} @[ IoU={overlap:<9} | area={area:>6s} | maxDets={limit:>3d} ]"


def _table(metrics: Mapping[str, float]) -> str:
    return "\n".join(f" {_title(name)} = {value:0.3f}" for name, value in metrics.items())


def _csv(curves: PrecisionRecall, ground_truth: GroundTruth) -> str:
    """One row per metric, one column per category; empty where a category has no such box."""
    names = display_names(ground_truth)
    rows = [["metric", *(names[category] for category in curves.category_ids), "avg"]]
    for metric in CSV_ROWS:
        iou, area, _ = PRECISIONS[metric]
        values = [
            curves.average_precision(iou, area, [category]) for category in curves.category_ids
        ]
        present = [value for value in values if value > -1]
        average = str(float(np.mean(present))) if present else ""
        rows.append([_title(metric), *(str(v) if v > -1 else "" for v in values), average])
    return "".join(", ".join(_quoted(cell) for cell in row) + "\n" for row in rows)


def _quoted(cell: str) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow([cell])
    return "" if cell == "" else line.getvalue()
