"""COCO-style annotation files, checked once and kept in flat arrays."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from maskrcnn_benchmark.data.datasets.coco_content import checked_content, shortened
from maskrcnn_benchmark.data.datasets.serialized_list import SerializedList
from maskrcnn_benchmark.errors import DataError
from maskrcnn_benchmark.utils.box_values import is_box
from maskrcnn_benchmark.utils.json_files import read_json

logger = logging.getLogger(__name__)

_SPAN_FIELDS = ("tokens", "tokens_positive")


@dataclass(frozen=True)
class ImageAnnotations:
    """Annotations of one image in file order.

    Attributes:
        boxes: (n, 4) float32, x, y, width, height.
        category_ids: (n,) ids as in the file.
        iscrowd: (n,) bool.
        areas: (n,) float32.
        spans: per annotation its (begin, end) characters; empty lists where the file has none.
    """

    boxes: np.ndarray
    category_ids: np.ndarray
    iscrowd: np.ndarray
    areas: np.ndarray
    spans: list[list[list[int]]]

    def __len__(self) -> int:
        return len(self.boxes)

    def select(self, keep: np.ndarray) -> "ImageAnnotations":
        """Annotations chosen by a boolean mask or by indices."""
        chosen = np.arange(len(self))[keep]
        return ImageAnnotations(
            self.boxes[chosen],
            self.category_ids[chosen],
            self.iscrowd[chosen],
            self.areas[chosen],
            [self.spans[i] for i in chosen],
        )


class AnnotationFile:
    """Images, annotations and categories of a COCO-style JSON file. Images are sorted by id.

    Args:
        path: the file.
        picture_fields: see `checked_content`.
    Raises:
        FileNotFoundError, DataError: missing or malformed, naming the file and the entry.
    """

    def __init__(self, path: str | Path, picture_fields: Sequence[str] = ()):
        self.path = Path(path)
        content = checked_content(load_coco_json(self.path), str(self.path), picture_fields)
        images = sorted(content["images"], key=itemgetter("id"))
        self.image_ids = np.array([image["id"] for image in images], dtype=np.int64)
        self.sizes = np.array([_size(image) for image in images], dtype=np.int32).reshape(-1, 2)
        self._entries = SerializedList(
            {key: value for key, value in image.items() if key not in ("height", "width")}
            for image in images
        )
        self.categories: list[dict[str, Any]] = content.get("categories", [])
        self._read_annotations(content.get("annotations", []))

    def __len__(self) -> int:
        return len(self.image_ids)

    def entry(self, row: int) -> dict[str, Any]:
        """Everything the file says about one image except its size."""
        return self._entries[row]

    def annotations(self, row: int) -> ImageAnnotations:
        """Annotations of one image."""
        begin, end = self._begins[row], self._begins[row + 1]
        return ImageAnnotations(
            self._boxes[begin:end],
            self._category_ids[begin:end],
            self._iscrowd[begin:end],
            self._areas[begin:end],
            self._spans[row] if self._spans is not None else [[] for _ in range(begin, end)],
        )

    def used_category_ids(self) -> set[int]:
        """Ids that occur in annotations."""
        return set(np.unique(self._category_ids).tolist())

    def category_ids_of(self, row: int) -> set[int]:
        """Ids that occur on one image, crowd regions included."""
        return set(self._category_ids[self._begins[row] : self._begins[row + 1]].tolist())

    def valid_rows(self) -> np.ndarray:
        """Images fit for training: at least one box that is wider and higher than one pixel (crowd
        or not).
        """
        usable = (self._boxes[:, 2] > 1) & (self._boxes[:, 3] > 1)
        before = np.concatenate([[0], np.cumsum(usable)])
        return np.flatnonzero(before[self._begins[1:]] > before[self._begins[:-1]])

    def _read_annotations(self, annotations: Sequence[Mapping[str, Any]]) -> None:
        rows = self._rows_of(annotations)
        known = np.flatnonzero(rows >= 0)
        if len(known) < len(rows):
            lost = next(i for i in range(len(rows)) if rows[i] < 0)
            logger.warning(
                "%s: %d of %d annotations name an image that the file lacks and are ignored "
                "(first: annotation %s)",
                self.path,
                len(rows) - len(known),
                len(rows),
                annotations[lost].get("id"),
            )
        order = known[np.argsort(rows[known], kind="stable")]
        self._begins = np.concatenate(
            [[0], np.cumsum(np.bincount(rows[order], minlength=len(self)))]
        ).astype(np.int64)
        chosen = [annotations[i] for i in order]
        self._boxes = self._read_boxes(chosen)
        self._category_ids = np.array(
            [self._field(annotation, "category_id") for annotation in chosen], dtype=np.int64
        )
        self._iscrowd = np.array([annotation.get("iscrowd", 0) == 1 for annotation in chosen], bool)
        self._areas = np.array(
            [
                annotation["area"] if "area" in annotation else box[2] * box[3]
                for annotation, box in zip(chosen, self._boxes)
            ],
            dtype=np.float32,
        )
        self._spans = self._read_spans(chosen)
        self._report_unusable_boxes(chosen)

    def _rows_of(self, annotations: Sequence[Mapping[str, Any]]) -> np.ndarray:
        ids = np.array([self._field(a, "image_id") for a in annotations], dtype=np.int64)
        if not len(self):
            return np.full(len(ids), -1)
        rows = np.searchsorted(self.image_ids, ids).clip(max=len(self) - 1)
        return np.where(self.image_ids[rows] == ids, rows, -1)

    def _read_boxes(self, annotations: Sequence[Mapping[str, Any]]) -> np.ndarray:
        lists = [self._field(annotation, "bbox") for annotation in annotations]
        try:
            boxes = np.array(lists, dtype=np.float32).reshape(-1, 4)
            malformed = len(boxes) != len(lists) or not np.isfinite(boxes).all()
        except (TypeError, ValueError):
            malformed = True
        if malformed:
            bad = next(i for i, box in enumerate(lists) if not is_box(box))
            raise DataError(
                f"{self.path}: bbox of annotation {annotations[bad].get('id')} must be four finite "
                f"numbers [x, y, width, height], got {lists[bad]!r}"
            )
        return boxes

    def _report_unusable_boxes(self, annotations: Sequence[Mapping[str, Any]]) -> None:
        """Count the boxes that clipping will remove."""
        rows = np.repeat(np.arange(len(self)), np.diff(self._begins))
        # Where the file gives no size, nothing lies outside.
        limits = np.where(self.sizes > 0, self.sizes, np.iinfo(np.int32).max)[rows][:, ::-1]
        first = self._boxes[:, :2].clip(min=0)
        last = np.minimum(self._boxes[:, :2] + self._boxes[:, 2:], limits) - 1
        unusable = np.flatnonzero((last <= first).any(axis=1) & ~self._iscrowd)
        if len(unusable):
            logger.warning(
                "%s: %d of %d boxes are at most one pixel wide or high inside their image and are "
                "left out (first: annotation %s, bbox %s)",
                self.path,
                len(unusable),
                len(self._boxes),
                annotations[unusable[0]].get("id"),
                self._boxes[unusable[0]].tolist(),
            )

    def _read_spans(self, annotations: Sequence[Mapping[str, Any]]) -> SerializedList | None:
        if not any(field in annotation for annotation in annotations for field in _SPAN_FIELDS):
            return None
        per_image = []
        for begin, end in zip(self._begins[:-1], self._begins[1:]):
            group = annotations[begin:end]
            field = next((f for f in _SPAN_FIELDS if group and f in group[0]), None)
            per_image.append([self._field(a, field) if field else [] for a in group])
        return SerializedList(per_image)

    def _field(self, entry: Mapping[str, Any], field: str) -> Any:
        if field not in entry:
            raise DataError(f"{self.path}: entry {shortened(entry)} lacks {field!r}")
        return entry[field]


def load_coco_json(path: Path) -> dict[str, Any]:
    """Content of a COCO-style file.

    Raises:
        FileNotFoundError, DataError: missing or malformed, naming the file.
    """
    content = read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("images"), list):
        raise DataError(f"{path} is not a COCO-style file: it has no list 'images'")
    return content


def _size(image: Mapping[str, Any]) -> tuple[int, int]:
    # Files without sizes get -1 and are measured when asked.
    return image.get("height", -1), image.get("width", -1)
