"""Saved predictions as other tools and this one write them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from maskrcnn_benchmark.evaluation.base import EvaluationError
from maskrcnn_benchmark.evaluation.detections import Detections, ImageDetections
from maskrcnn_benchmark.utils.json_files import read_json


def read_results(path: str | Path) -> Any:
    """Content of a result file.

    Raises:
        FileNotFoundError: if it is not there.
        EvaluationError: if it is no JSON.
    """
    return read_json(path, "result file", EvaluationError)


def read_boxes(path: str | Path) -> Detections:
    """A COCO or LVIS result list: ``{"image_id", "category_id", "bbox", "score"}`` per detection.

    Returns:
        boxes x, y, width, height as in the file; labels are category ids.
    Raises:
        FileNotFoundError, EvaluationError: missing or malformed, naming the entry.
    """
    rows = read_results(path)
    if not isinstance(rows, list):
        raise EvaluationError(
            f"{path} holds a {type(rows).__name__}; a list of detections is needed"
        )
    return Detections.from_rows(
        image_ids=_integers(rows, "image_id", path),
        boxes=_boxes(rows, path),
        scores=_numbers(rows, "score", path),
        labels=_integers(rows, "category_id", path),
    )


def read_expression_boxes(path: str | Path) -> Detections:
    """Predictions for referring expressions: ``{"image_id", "boxes", "scores"}`` per expression.

    A mapping of image id to ``{"boxes", "scores"}`` is read, too.

    Returns:
        boxes x1, y1, x2, y2; labels are 1.
    Raises:
        FileNotFoundError, EvaluationError: missing or malformed, naming the entry.
    """
    content = read_results(path)
    if isinstance(content, Mapping):
        content = [{**entry, "image_id": int(key)} for key, entry in content.items()]
    if not isinstance(content, list):
        raise EvaluationError(f"{path}: a list of predictions is needed")
    images = []
    for number, (image_id, entry) in enumerate(
        zip(_integers(content, "image_id", path).tolist(), content)
    ):
        boxes, scores = entry.get("boxes"), entry.get("scores")
        if boxes is None or scores is None or len(boxes) != len(scores):
            raise EvaluationError(
                f"{path}: entry {number} needs lists 'boxes' and 'scores' of one length"
            )
        images.append(
            (
                image_id,
                ImageDetections(
                    np.array(boxes, np.float64).reshape(-1, 4),
                    np.array(scores, np.float64),
                    np.ones(len(scores), np.int64),
                ),
            )
        )
    return Detections.from_images(images)


def _integers(rows: Sequence[Any], key: str, path: str | Path) -> np.ndarray:
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping) or not isinstance(row.get(key), int):
            raise _malformed(path, number, key, "a whole number", row)
    return np.array([row[key] for row in rows], np.int64)


def _numbers(rows: Sequence[Any], key: str, path: str | Path) -> np.ndarray:
    for number, row in enumerate(rows):
        value = row.get(key)
        if not isinstance(value, (int, float)) or value != value:
            raise _malformed(path, number, key, "a number", row)
    return np.array([row[key] for row in rows], np.float64)


def _boxes(rows: Sequence[Any], path: str | Path) -> np.ndarray:
    for number, row in enumerate(rows):
        box = row.get("bbox")
        if not isinstance(box, list) or len(box) != 4:
            raise _malformed(path, number, "bbox", "x, y, width, height", row)
    return np.array([row["bbox"] for row in rows], np.float64).reshape(-1, 4)


def _malformed(path: str | Path, number: int, key: str, needed: str, row: Any) -> EvaluationError:
    given = row.get(key) if isinstance(row, Mapping) else row
    return EvaluationError(f"{path}: entry {number} needs {key} = {needed}, not {given!r}")
