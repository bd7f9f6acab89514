"""Referring expressions: is the described object among the best 1, 5, 10 boxes?"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from maskrcnn_benchmark.evaluation.base import (
    DatasetEvaluator,
    EvaluationError,
    Scores,
    report_missing,
    to_arrays,
)
from maskrcnn_benchmark.evaluation.detections import Detections, ImageDetections
from maskrcnn_benchmark.evaluation.files import write_metric_lines, write_predictions
from maskrcnn_benchmark.evaluation.overlap import generalised_iou, iou
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.utils.box_values import is_box
from maskrcnn_benchmark.utils.json_files import list_of_entries, read_json

logger = logging.getLogger(__name__)

IOU_THRESHOLD = 0.5
RANKS = (1, 5, 10)
# Name of a set as annotation files give it, in the order in which results are shown.
KNOWN_SETS = ("refcoco", "refcoco+", "refcocog")


@dataclass(frozen=True)
class Expression:
    """A referring expression and the box that it means.

    Attributes:
        dataset_name: "refcoco", "refcoco+" or "refcocog".
        box: ``(4,)`` float64 corners x1, y1, x2, y2.
        size: (width, height) of the image.
    """

    dataset_name: str
    box: np.ndarray
    size: tuple[int, int]


class RefExpEvaluator(DatasetEvaluator):
    """Share of expressions whose box is met by one of the best k boxes, k = 1, 5, 10.

    ``precision@k`` asks for plain IoU 0.5, the field's measure. ``precision@k (GIoU)`` asks for
    generalised IoU 0.5, which FIBER's published numbers use and which is never higher. Both are
    over all expressions, and by set as ``<set>: precision@k``. An expression without a box counts
    as missed.

    Files: ``Recall_results.csv``, ``predictions.pth``, ``metrics.json``.

    Args:
        expressions: id of the image entry to :class:`Expression`.
        output_folder, only_predicted: see :class:`DatasetEvaluator`.
    """

    kind = "refexp"
    primary = "precision@1"

    def __init__(
        self,
        expressions: Mapping[int, Expression],
        *,
        output_folder: str | Path | None = None,
        only_predicted: bool = False,
    ) -> None:
        super().__init__(output_folder, only_predicted=only_predicted)
        self.expressions = expressions

    def _convert(self, image_id: int, boxes: BoxList) -> ImageDetections:
        if image_id not in self.expressions:
            raise EvaluationError(f"predictions name entry {image_id}, which the dataset lacks")
        return to_arrays(boxes, self.expressions[image_id].size)

    def _write_predictions(self, detections: Detections) -> None:
        form = "x1, y1, x2, y2 in pixels of the original image; keys are expression ids"
        write_predictions(self.output_folder / "predictions.pth", detections, form)

    def _score(self, detections: Detections) -> Scores:
        found = dict(detections.image_rows())
        unknown = [image_id for image_id in found if image_id not in self.expressions]
        if unknown:
            raise EvaluationError(
                f"predictions name {len(unknown)} entries that the annotations lack "
                f"(first: {unknown[:5]})"
            )
        if not self.only_predicted:
            report_missing(self.kind, len(self.expressions), len(found))
        hits: dict[str, list[np.ndarray]] = {}
        for entry_id, expression in self.expressions.items():
            if entry_id in found or not self.only_predicted:
                hit = expression_hits(expression, found.get(entry_id))
                hits.setdefault(expression.dataset_name, []).append(hit)
        metrics = _metrics(hits)
        if self.output_folder is not None:
            write_metric_lines(
                self.output_folder / "Recall_results.csv", _recall_lines(metrics, hits)
            )
        return Scores(metrics, _table(metrics, hits))


def expression_hits(expression: Expression, found: ImageDetections | None) -> np.ndarray:
    """Whether the best k boxes meet the expression's box.

    Returns:
        ``(2, 3)`` bool: rows plain and generalised IoU, columns k = 1, 5, 10.
    """
    hits = np.zeros((2, len(RANKS)), bool)
    if found is None or len(found.scores) == 0:
        return hits
    boxes = found.boxes.astype(np.float64)
    # Descending score; of equal ones the box with the larger coordinates, as the original sorts.
    best = np.lexsort((*boxes.T[::-1], found.scores))[::-1][: RANKS[-1]]
    target = expression.box[None]
    for row, overlap in enumerate((iou, generalised_iou)):
        reached = overlap(boxes[best], target)[:, 0] >= IOU_THRESHOLD
        hits[row] = [reached[:rank].any() for rank in RANKS]
    return hits


def load_expressions(path: str | Path) -> dict[int, Expression]:
    """Read an annotation file in MDETR's form, see :func:`read_expressions`.

    Raises:
        FileNotFoundError: if it is not there.
        EvaluationError: if it is no such file.
    """
    return read_expressions(read_json(path, error=EvaluationError), str(path))


def read_expressions(data: Any, source: str) -> dict[int, Expression]:
    """Expressions of an annotation file in MDETR's form: one image entry and one box each.

    Args:
        data: content of the file.
        source: what to call it in messages.
    Raises:
        EvaluationError: an entry has no box or several, or is malformed.
    """
    boxes: dict[int, list[list[float]]] = {}
    for number, annotation in enumerate(
        list_of_entries(data, "annotations", source, EvaluationError)
    ):
        image_id, box = annotation.get("image_id"), annotation.get("bbox")
        if not isinstance(image_id, int) or not is_box(box):
            raise EvaluationError(
                f"{source}: annotation {annotation.get('id', number)!r} has image_id {image_id!r} "
                f"and bbox {box!r}; a whole number and [x, y, width, height] are needed"
            )
        boxes.setdefault(image_id, []).append(box)
    expressions = {}
    for number, image in enumerate(list_of_entries(data, "images", source, EvaluationError)):
        try:
            size = int(image["width"]), int(image["height"])
            entry_boxes = boxes.get(image["id"], [])
        except (KeyError, TypeError, ValueError, OverflowError) as problem:
            raise EvaluationError(
                f"{source}: image {image.get('id', number)!r} needs id, width and height: "
                f"{problem!r}"
            ) from problem
        if len(entry_boxes) != 1:
            raise EvaluationError(
                f"{source}: expression {image['id']} has {len(entry_boxes)} boxes; exactly one is "
                "needed"
            )
        x, y, width, height = entry_boxes[0]
        expressions[image["id"]] = Expression(
            dataset_name=image.get("dataset_name") or KNOWN_SETS[0],
            box=np.array([x, y, x + width, y + height], np.float64),
            size=size,
        )
    return expressions


def _metrics(hits: Mapping[str, list[np.ndarray]]) -> dict[str, float]:
    """Shares over everything, then by set; nothing for a set without expressions."""
    metrics: dict[str, float] = {}
    everything = [hit for of_set in hits.values() for hit in of_set]
    groups = {"": everything} | {f"{name}: ": hits[name] for name in _ordered(hits)}
    for prefix, of_group in groups.items():
        if not of_group:
            continue
        shares = np.mean(of_group, axis=0)
        for suffix, row in zip(("", " (GIoU)"), shares.tolist()):
            for rank, share in zip(RANKS, row):
                metrics[f"{prefix}precision@{rank}{suffix}"] = share
    return metrics


def _ordered(names: Mapping[str, Any]) -> list[str]:
    known = [name for name in KNOWN_SETS if name in names]
    return known + sorted(set(names) - set(known))


def _table(metrics: Mapping[str, float], hits: Mapping[str, list[np.ndarray]]) -> str:
    lines = []
    for name in _ordered(hits):
        for suffix, measure in (("", "IoU"), (" (GIoU)", "GIoU")):
            values = [f"{metrics[f'{name}: precision@{rank}{suffix}']:.4f}" for rank in RANKS]
            lines.append(
                f" Dataset: {name} - Precision @ 1, 5, 10 by {measure} >= 0.5: {', '.join(values)} "
                f"({len(hits[name])} expressions)"
            )
    return "\n".join(lines)


def _recall_lines(
    metrics: Mapping[str, float], hits: Mapping[str, list[np.ndarray]]
) -> Iterator[str]:
    for name in _ordered(hits):
        for suffix in ("", " (GIoU)"):
            for rank in RANKS:
                value = metrics[f"{name}: precision@{rank}{suffix}"]
                yield f"{name}: Recall@{rank}{suffix} = {value}"
