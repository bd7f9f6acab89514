"""Annotation files in COCO or LVIS form, checked once and held as arrays."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from maskrcnn_benchmark.errors import DataError
from maskrcnn_benchmark.utils.json_files import read_json

logger = logging.getLogger(__name__)

SHOWN = 5


class AnnotationError(DataError):
    """An annotation file that cannot be evaluated against."""


@dataclass(frozen=True)
class GroundTruth:
    """Boxes of an annotation file.

    Attributes:
        images: image id to its entry in the file, in file order.
        categories: category id to its entry in the file, in file order.
        ids: ``(num_boxes,)`` int64 annotation ids.
        image_ids: ``(num_boxes,)`` int64.
        category_ids: ``(num_boxes,)`` int64.
        boxes: ``(num_boxes, 4)`` float64, x, y, width, height.
        areas: ``(num_boxes,)`` float64, the file's own area, that of the box where it has none.
        crowd: ``(num_boxes,)`` bool.
        difficult: ``(num_boxes,)`` bool, a mark of PASCAL VOC.
        has_annotations: false for a file without an annotation list, as those of test sets.
        source: where it came from, for messages.
    """

    images: Mapping[int, Mapping[str, Any]]
    categories: Mapping[int, Mapping[str, Any]]
    ids: np.ndarray
    image_ids: np.ndarray
    category_ids: np.ndarray
    boxes: np.ndarray
    areas: np.ndarray
    crowd: np.ndarray
    difficult: np.ndarray
    has_annotations: bool
    source: str

    def image_size(self, image_id: int) -> tuple[int, int]:
        """``(width, height)`` in pixels.

        Raises:
            AnnotationError: if the file does not list the image or not its size.
        """
        entry = self.images.get(image_id)
        if entry is None:
            raise AnnotationError(
                f"{self.source} has no image {image_id}; were the detections made on another set?"
            )
        if "width" not in entry or "height" not in entry:
            raise AnnotationError(f"{self.source}: image {image_id} has no width and height")
        return int(entry["width"]), int(entry["height"])

    def restricted_to(self, image_ids: np.ndarray) -> GroundTruth:
        """The same annotations of some of the images only."""
        keep = np.isin(self.image_ids, image_ids)
        wanted = set(image_ids.tolist())
        columns = ("ids", "image_ids", "category_ids", "boxes", "areas", "crowd", "difficult")
        return replace(
            self,
            images={key: entry for key, entry in self.images.items() if key in wanted},
            **{name: getattr(self, name)[keep] for name in columns},
        )

    def category_name(self, category_id: int) -> str:
        """Name of a category, its id as text where the file gives none."""
        return str(self.categories[category_id].get("name", category_id))


def load_ground_truth(path: str | Path) -> GroundTruth:
    """Read and check an annotation file.

    Raises:
        FileNotFoundError: if it is not there.
        AnnotationError: if it is no JSON, or as in :func:`read_ground_truth`.
    """
    return read_ground_truth(read_json(path, error=AnnotationError), source=str(path))


def read_ground_truth(data: Any, source: str = "annotations") -> GroundTruth:
    """Check the content of an annotation file and turn it into arrays.

    Args:
        data: ``{"images": [...], "annotations": [...], "categories": [...]}``.
        source: what to call it in messages.
    Raises:
        AnnotationError: an id occurs twice, an annotation names a category that the file lacks, or
            a box is not four finite numbers.
    """
    if not isinstance(data, Mapping) or "images" not in data:
        raise AnnotationError(f"{source} has no list 'images'; is it an annotation file?")
    images = _by_id(data["images"], "image", source, describe="file_name")
    categories = _by_id(data.get("categories", []), "category", source, describe="name")
    rows = data.get("annotations")
    has_annotations = rows is not None
    rows = rows or []
    _by_id(rows, "annotation", source, describe="image_id")
    rows = _of_listed_images(rows, images, source)
    image_ids = _integers(rows, "image_id", source)
    category_ids = _integers(rows, "category_id", source)
    _refuse_unknown_categories(category_ids, categories, source)
    boxes = _boxes(rows, source)
    return GroundTruth(
        images=images,
        categories=categories,
        ids=np.array([row["id"] for row in rows], np.int64),
        image_ids=image_ids,
        category_ids=category_ids,
        boxes=boxes,
        areas=np.array(
            [row.get("area", box[2] * box[3]) for row, box in zip(rows, boxes.tolist())],
            np.float64,
        ),
        crowd=np.array([bool(row.get("iscrowd", 0)) for row in rows], bool),
        difficult=np.array([bool(row.get("difficult", 0)) for row in rows], bool),
        has_annotations=has_annotations,
        source=source,
    )


def _by_id(
    rows: Sequence[Mapping[str, Any]], what: str, source: str, describe: str
) -> dict[int, Mapping[str, Any]]:
    ids = _integers(rows, "id", source, what)
    by_id = dict(zip(ids.tolist(), rows))
    if len(by_id) < len(rows):
        repeated, times = Counter(ids.tolist()).most_common(1)[0]
        bearers = [str(row.get(describe)) for row in rows if row["id"] == repeated][:SHOWN]
        raise AnnotationError(
            f"{source}: {what} id {repeated} occurs {times} times ({describe}: "
            f"{', '.join(bearers)}); every {what} needs an id of its own"
        )
    return by_id


def _integers(
    rows: Sequence[Mapping[str, Any]], key: str, source: str, what: str = "annotation"
) -> np.ndarray:
    for row in rows:
        value = row.get(key)
        if not isinstance(value, int) or isinstance(value, bool):
            raise AnnotationError(
                f"{source}: {what} {row.get('id')!r} has {key} {value!r}; a whole number is needed"
            )
    return np.array([row[key] for row in rows], np.int64)


def _of_listed_images(
    rows: Sequence[Mapping[str, Any]], images: Mapping[int, Any], source: str
) -> Sequence[Mapping[str, Any]]:
    """Annotations whose image the file lists; a part of a set may carry those of the whole."""
    listed = [row for row in rows if row.get("image_id") in images]
    if len(listed) < len(rows):
        logger.warning(
            "%s: %d of %d annotations name an image that the file does not list; left out",
            source,
            len(rows) - len(listed),
            len(rows),
        )
    return listed


def _refuse_unknown_categories(
    named: np.ndarray, known: Mapping[int, Mapping[str, Any]], source: str
) -> None:
    unknown = np.setdiff1d(named, np.fromiter(known, np.int64, len(known)))
    if len(unknown):
        raise AnnotationError(
            f"{source}: annotations name {len(unknown)} category ids that the file does not list "
            f"(first: {unknown[:SHOWN].tolist()})"
        )


def _boxes(rows: Sequence[Mapping[str, Any]], source: str) -> np.ndarray:
    for row in rows:
        if len(row.get("bbox", ())) != 4:
            raise AnnotationError(
                f"{source}: annotation {row['id']} has bbox {row.get('bbox')!r}; "
                "x, y, width, height are needed"
            )
    boxes = np.array([row["bbox"] for row in rows], np.float64).reshape(-1, 4)
    broken = np.flatnonzero(~np.isfinite(boxes).all(axis=1))
    if len(broken):
        row = rows[broken[0]]
        raise AnnotationError(
            f"{source}: annotation {row['id']} has bbox {row['bbox']!r}, which is not finite"
        )
    return boxes
