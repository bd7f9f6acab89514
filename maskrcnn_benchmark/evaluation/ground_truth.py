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
from maskrcnn_benchmark.utils.box_values import is_box
from maskrcnn_benchmark.utils.json_files import list_of_entries, read_json

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
        try:
            return int(entry["width"]), int(entry["height"])
        except (KeyError, TypeError, ValueError, OverflowError) as problem:
            raise AnnotationError(
                f"{self.source}: image {image_id} has no width and height: {problem!r}"
            ) from problem

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
        AnnotationError: a list or what stands in it is malformed, an id occurs twice, an annotation
            names a category that the file lacks, or a box is not four finite numbers.
    """

    def entries(key: str) -> list[Mapping[str, Any]]:
        return list_of_entries(data, key, source, AnnotationError)

    images = _by_id(entries("images"), "image", source, describe="file_name")
    categories = _by_id(
        entries("categories") if "categories" in data else [], "category", source, describe="name"
    )
    has_annotations = data.get("annotations") is not None
    rows: Sequence[Mapping[str, Any]] = entries("annotations") if has_annotations else []
    _by_id(rows, "annotation", source, describe="image_id")
    rows = _of_listed_images(rows, images, source)
    image_ids = _integers(rows, "image_id", source)
    category_ids = _integers(rows, "category_id", source)
    _refuse_unknown_categories(category_ids, categories, source)
    boxes = _boxes(rows, source)
    areas = [row.get("area", box[2] * box[3]) for row, box in zip(rows, boxes.tolist())]
    _refuse_other_than_numbers(areas, rows, source)
    return GroundTruth(
        images=images,
        categories=categories,
        ids=np.array([row["id"] for row in rows], np.int64),
        image_ids=image_ids,
        category_ids=category_ids,
        boxes=boxes,
        areas=np.array(areas, np.float64),
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
        if not is_box(row.get("bbox")):
            raise AnnotationError(
                f"{source}: annotation {row['id']} has bbox {row.get('bbox')!r}; four finite numbers "
                "x, y, width, height are needed"
            )
    return np.array([row["bbox"] for row in rows], np.float64).reshape(-1, 4)


def _refuse_other_than_numbers(
    areas: Sequence[Any], rows: Sequence[Mapping[str, Any]], source: str
) -> None:
    for area, row in zip(areas, rows):
        if not isinstance(area, (int, float)):
            raise AnnotationError(
                f"{source}: annotation {row['id']} has area {area!r}; a number is needed"
            )
