"""Precision and recall of detections in the COCO and in the LVIS way.

The matching itself is done by a library: faster-coco-eval where it is installed, else
pycocotools; both give the same numbers. What is done here is to cut the work into blocks of
categories. The libraries hold one entry per image *and* category, which for LVIS (19,809 images,
1,203 categories) is tens of millions, nearly all empty; a block looks only at the images in
which one of its categories occurs.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from maskrcnn_benchmark.errors import MissingPackageError
from maskrcnn_benchmark.evaluation.detections import Detections
from maskrcnn_benchmark.evaluation.ground_truth import GroundTruth

LIBRARIES = ("faster_coco_eval", "pycocotools")
IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALL_THRESHOLDS = np.linspace(0.0, 1.0, 101)
AREAS = {
    "all": (0.0, 1e5**2),
    "small": (0.0, 32.0**2),
    "medium": (32.0**2, 96.0**2),
    "large": (96.0**2, 1e5**2),
}
PAIRS_PER_BLOCK = 50_000


@dataclass(frozen=True)
class PrecisionRecall:
    """Curves of every category; -1 where a category has no box in the area range.

    Attributes:
        category_ids: ascending.
        max_detections: per image and category, ascending.
        precision: ``(iou thresholds, recall thresholds, categories, areas, max_detections)``.
        recall: ``(iou thresholds, categories, areas, max_detections)``.
    """

    category_ids: list[int]
    max_detections: tuple[int, ...]
    precision: np.ndarray
    recall: np.ndarray

    def average_precision(
        self, iou: float | None = None, area: str = "all", category_ids: Sequence[int] | None = None
    ) -> float:
        """Mean precision, at the largest number of detections.

        Args:
            iou: one overlap threshold, None for the mean over 0.50 to 0.95.
            area: a key of ``AREAS``.
            category_ids: only these, None for all.
        Returns:
            -1 if none of the categories has a box in the area range.
        """
        precision = self.precision[_thresholds(iou), :, :, list(AREAS).index(area), -1]
        return _mean(precision[:, :, self._positions(category_ids)])

    def average_recall(
        self, area: str = "all", max_detections: int | None = None, iou: float | None = None
    ) -> float:
        """Mean of the highest recall reached, -1 as for :meth:`average_precision`.

        Args:
            max_detections: one of ``self.max_detections``, None for the largest.
        """
        limit = self.max_detections[-1] if max_detections is None else max_detections
        column = self.max_detections.index(limit)
        return _mean(self.recall[_thresholds(iou), :, list(AREAS).index(area), column])

    def _positions(self, category_ids: Sequence[int] | None) -> slice | list[int]:
        if category_ids is None:
            return slice(None)
        position = {category: index for index, category in enumerate(self.category_ids)}
        return [position[category] for category in category_ids]


def available_library(name: str = "auto") -> str:
    """Name of the library that will match boxes.

    Args:
        name: one of ``LIBRARIES``, or "auto" for the first that is installed.
    Raises:
        MissingPackageError: if it is not installed.
    """
    candidates = LIBRARIES if name == "auto" else (name,)
    for candidate in candidates:
        if importlib.util.find_spec(candidate) is not None:
            return candidate
    raise MissingPackageError(
        f"evaluating boxes needs {' or '.join(candidates)}: pip install faster-coco-eval"
    )


def precision_recall(
    ground_truth: GroundTruth,
    detections: Detections,
    *,
    max_detections: Sequence[int] = (1, 10, 100),
    federated: bool = False,
    library: str = "auto",
) -> PrecisionRecall:
    """Match detections with boxes, category by category.

    Args:
        detections: boxes x, y, width, height; labels are category ids; categories that the
            annotations do not have are left out.
        max_detections: limits per image and category.
        federated: LVIS rules: a detection counts only where its category was checked in the image
            (annotated or listed in ``neg_category_ids``), and an unmatched one is ignored where
            the category is in ``not_exhaustive_category_ids``; crowd marks have no meaning.
        library: as in :func:`available_library`.
    Raises:
        MissingPackageError: as in :func:`available_library`.
    """
    library = available_library(library)
    limits = tuple(sorted(int(limit) for limit in max_detections))
    detections = detections.by_image_id()
    categories = np.array(sorted(ground_truth.categories), np.int64)
    keep = np.isin(detections.labels, categories)
    if federated:
        keep &= _checked_pairs(ground_truth, categories, detections)
    detections = detections.select(keep).best_per_image_and_label(limits[-1])

    shape = (len(IOU_THRESHOLDS), len(categories), len(AREAS), len(limits))
    precision = -np.ones((shape[0], len(RECALL_THRESHOLDS), *shape[1:]))
    recall = -np.ones(shape)
    boxes = _by_category(_ground_truth_columns(ground_truth, federated))
    found = _by_category(_detection_columns(detections))
    for block in _blocks(boxes, found, categories, len(ground_truth.images)):
        part = _match_block(
            library,
            ground_truth,
            categories[block].tolist(),
            _rows(boxes, categories[block]),
            _rows(found, categories[block]),
            limits,
            federated,
        )
        if part is not None:
            precision[:, :, block], recall[:, block] = part
    return PrecisionRecall(categories.tolist(), limits, precision, recall)


def _mean(values: np.ndarray) -> float:
    present = values[values > -1]
    return float(np.mean(present)) if present.size else -1.0


def _thresholds(iou: float | None) -> slice | np.ndarray:
    if iou is None:
        return slice(None)
    return np.flatnonzero(np.isclose(IOU_THRESHOLDS, iou))


def _checked_pairs(
    ground_truth: GroundTruth, categories: np.ndarray, detections: Detections
) -> np.ndarray:
    """Mask of detections whose category was looked for in their image."""
    negatives = [
        (image_id, category_id)
        for image_id, image in ground_truth.images.items()
        for category_id in image.get("neg_category_ids", ())
    ]
    negatives = np.array(negatives, np.int64).reshape(-1, 2)
    stride = max(categories.max(initial=0), detections.labels.max(initial=0)) + 1
    checked = np.concatenate(
        [
            ground_truth.image_ids * stride + ground_truth.category_ids,
            negatives[:, 0] * stride + negatives[:, 1],
        ]
    )
    return np.isin(detections.row_image_ids * stride + detections.labels, checked)


def _ground_truth_columns(ground_truth: GroundTruth, federated: bool) -> dict[str, np.ndarray]:
    crowd = np.zeros(len(ground_truth.ids), bool) if federated else ground_truth.crowd
    return {
        "id": ground_truth.ids,
        "image_id": ground_truth.image_ids,
        "category_id": ground_truth.category_ids,
        "bbox": ground_truth.boxes,
        "area": ground_truth.areas,
        "iscrowd": crowd.astype(np.int64),
    }


def _detection_columns(detections: Detections) -> dict[str, np.ndarray]:
    boxes = detections.boxes.astype(np.float64)
    return {
        "id": np.arange(1, len(detections) + 1),
        "image_id": detections.row_image_ids,
        "category_id": detections.labels,
        "bbox": boxes,
        "area": boxes[:, 2] * boxes[:, 3],
        "iscrowd": np.zeros(len(detections), np.int64),
        "score": detections.scores.astype(np.float64),
    }


def _by_category(columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Rows in ascending order of category; within a category they stay as they are."""
    order = np.argsort(columns["category_id"], kind="stable")
    return {name: column[order] for name, column in columns.items()}


def _rows(columns: dict[str, np.ndarray], block: np.ndarray) -> list[dict[str, Any]]:
    """The entries of a run of categories, as the libraries want them."""
    start = np.searchsorted(columns["category_id"], block[0], side="left")
    end = np.searchsorted(columns["category_id"], block[-1], side="right")
    values = [column[start:end].tolist() for column in columns.values()]
    return [dict(zip(columns, row)) for row in zip(*values)]


def _blocks(
    boxes: dict[str, np.ndarray],
    found: dict[str, np.ndarray],
    categories: np.ndarray,
    num_images: int,
) -> list[slice]:
    """Runs of categories whose images times categories stay below ``PAIRS_PER_BLOCK``."""
    labels = np.concatenate([boxes["category_id"], found["category_id"]])
    rows = np.bincount(np.searchsorted(categories, labels), minlength=len(categories))
    blocks, start, images = [], 0, 0
    for position, count in enumerate(rows.tolist()):
        images = min(images + count, num_images)
        if position > start and (position + 1 - start) * images > PAIRS_PER_BLOCK:
            blocks.append(slice(start, position))
            start, images = position, min(count, num_images)
    return [*blocks, slice(start, len(categories))] if len(categories) else []


def _match_block(
    library: str,
    ground_truth: GroundTruth,
    block: list[int],
    boxes: list[dict[str, Any]],
    found: list[dict[str, Any]],
    limits: tuple[int, ...],
    federated: bool,
) -> tuple[np.ndarray, np.ndarray] | None:
    """Precision and recall, shaped as in :class:`PrecisionRecall`, of a run of categories.

    None where there is no box to find: the libraries would leave -1 everywhere.
    """
    if not boxes:
        return None
    image_ids = sorted({row["image_id"] for row in boxes} | {row["image_id"] for row in found})
    images = [
        {
            "id": image_id,
            # Pairs that were not checked are gone already; nothing is left to leave out.
            "neg_category_ids": frozenset(block),
            "not_exhaustive_category_ids": ground_truth.images[image_id].get(
                "not_exhaustive_category_ids", ()
            ),
        }
        for image_id in image_ids
    ]
    categories = [{"id": category, "frequency": "f"} for category in block]
    data = {"info": {}, "images": images, "categories": categories}
    match = _match_with_faster if library == "faster_coco_eval" else _match_with_pycocotools
    return match({**data, "annotations": boxes}, {**data, "annotations": found}, limits, federated)


def _match_with_faster(
    boxes: dict[str, Any], found: dict[str, Any], limits: tuple[int, ...], federated: bool
) -> tuple[np.ndarray, np.ndarray]:
    from faster_coco_eval import COCO, COCOeval_faster

    with warnings.catch_warnings():
        # An annotation with id 0 is reported once, for the whole file, by whoever loads it.
        warnings.filterwarnings("ignore", message="Found annotation id 0")
        evaluation = COCOeval_faster(
            COCO(boxes), COCO(found), "bbox", lvis_style=federated, print_function=_silent
        )
    evaluation.params.maxDets = list(limits)
    evaluation.evaluate()
    evaluation.accumulate()
    return evaluation.eval["precision"], evaluation.eval["recall"]


def _match_with_pycocotools(
    boxes: dict[str, Any], found: dict[str, Any], limits: tuple[int, ...], federated: bool
) -> tuple[np.ndarray, np.ndarray]:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    class FederatedEval(COCOeval):
        """COCO matching that forgives unmatched detections of categories not fully annotated."""

        def evaluateImg(self, imgId, catId, aRng, maxDet):
            result = super().evaluateImg(imgId, catId, aRng, maxDet)
            if result and catId in self.cocoGt.imgs[imgId]["not_exhaustive_category_ids"]:
                unmatched = result["dtMatches"] == 0
                result["dtIgnore"] = np.logical_or(result["dtIgnore"], unmatched)
            return result

    with contextlib.redirect_stdout(io.StringIO()):
        indexed = []
        for data in (boxes, found):
            index = COCO()
            index.dataset = data
            index.createIndex()
            indexed.append(index)
        evaluation = (FederatedEval if federated else COCOeval)(*indexed, iouType="bbox")
        evaluation.params.maxDets = list(limits)
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation.eval["precision"], evaluation.eval["recall"]


def _silent(*args: Any, **kwargs: Any) -> None:
    """Take what a library would print."""


def with_renumbered_ids(ground_truth: GroundTruth) -> GroundTruth:
    """The same boxes with ids from 1; pycocotools takes a match with id 0 for no match."""
    return replace(ground_truth, ids=np.arange(1, len(ground_truth.ids) + 1))
