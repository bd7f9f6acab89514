"""What all evaluators share: take predictions, bring them together, score them once, write files."""

from __future__ import annotations

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from maskrcnn_benchmark.errors import UserError
from maskrcnn_benchmark.evaluation.detections import Detections, ImageDetections, join
from maskrcnn_benchmark.evaluation.files import write_json
from maskrcnn_benchmark.evaluation.gather import gather_detections
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.utils import comm

logger = logging.getLogger(__name__)

# So many images are held as single arrays before they are joined to long ones.
IMAGES_PER_PART = 512


class EvaluationError(UserError, RuntimeError):
    """Predictions that cannot be scored."""


@dataclass
class Scores:
    """What scoring gave.

    Attributes:
        metrics: name to number; NaN where nothing was there to measure.
        table: the metrics as lines to print.
        per_category: category name to its main number, for detection.
    """

    metrics: dict[str, float]
    table: str
    per_category: dict[str, float] = field(default_factory=dict)


class DatasetEvaluator(ABC):
    """Scores predictions on one dataset.

    Every process calls :meth:`update` with its own predictions, then all of them call
    :meth:`synchronize_between_processes` and :meth:`summarize`. Nothing depends on how the images
    were shared out or batched; an image that was predicted twice counts once.

    Attributes:
        kind: name of the evaluation; it is the task name in ``TEST.EXPECTED_RESULTS``, too.
        primary: name of the metric that stands for the whole, which training monitors.

    Args:
        output_folder: where files go; None writes none.
        only_predicted: score only the images that were predicted, for quick looks at a part of a
            set. Otherwise an image without prediction counts as one where nothing was found.
    """

    kind: str
    primary: str

    def __init__(
        self, output_folder: str | Path | None = None, *, only_predicted: bool = False
    ) -> None:
        self.output_folder = None if output_folder is None else Path(output_folder)
        self.only_predicted = only_predicted
        self._waiting: list[tuple[int, ImageDetections]] = []
        self._parts: list[Detections] = []
        self._gathered: Detections | None = None
        self._synchronized = False

    def update(self, predictions: Mapping[int, BoxList]) -> None:
        """Take the predictions of some images.

        Args:
            predictions: id of the image in the annotation file to its boxes, in an image of any
                size (they are scaled to the annotated size), with fields ``scores`` and ``labels``.
        """
        self._require_open()
        for image_id, boxes in predictions.items():
            self._waiting.append((int(image_id), self._convert(int(image_id), boxes)))
        if len(self._waiting) >= IMAGES_PER_PART:
            self._join_waiting()

    def update_from_rows(self, detections: Detections) -> None:
        """Take detections that are in this evaluator's own form already, as from a result file."""
        self._require_open()
        self._parts.append(detections)

    def _require_open(self) -> None:
        if self._synchronized:
            raise EvaluationError(
                "the predictions were brought together already: make a new evaluator for more"
            )

    def synchronize_between_processes(self) -> None:
        """Bring the predictions of all processes to rank 0; every process has to call it."""
        self._join_waiting()
        own = self._trim(join(self._parts))
        self._parts = []
        gathered = gather_detections(own)
        self._gathered = None if gathered is None else self._trim(gathered).by_image_id()
        self._synchronized = True

    def summarize(self) -> dict[str, Any]:
        """Score on rank 0, write the files there, and give every process the result.

        Returns:
            ``{"kind", "primary", "value", "metrics": {name: number}, "per_category", "table"}``;
            ``value`` is the primary metric, NaN where the set has no annotations to score.
        Raises:
            EvaluationError: predictions and annotations do not fit, or rank 0 failed.
        """
        if not self._synchronized:
            self.synchronize_between_processes()
        failure: Exception | None = None
        result: dict[str, Any] | None = None
        if comm.is_main_process():
            try:
                result = self._summarize_on_main()
            except Exception as error:  # told to the waiting processes, then raised again
                failure = error
        result, message = comm.broadcast((result, None if failure is None else str(failure)))
        if failure is not None:
            raise failure
        if message is not None:
            raise EvaluationError(f"rank 0 could not score the predictions: {message}")
        return result

    def _summarize_on_main(self) -> dict[str, Any]:
        detections = self._gathered
        if self.output_folder is not None:
            self.output_folder.mkdir(parents=True, exist_ok=True)
            self._write_predictions(detections)
        scores = self._score(detections)
        result = {
            "kind": self.kind,
            "primary": self.primary,
            "value": scores.metrics.get(self.primary, math.nan),
            "metrics": scores.metrics,
            "per_category": scores.per_category,
            "table": scores.table,
        }
        if self.output_folder is not None:
            without_table = {key: value for key, value in result.items() if key != "table"}
            write_json(self.output_folder / "metrics.json", without_table)
        logger.info("%s evaluation\n%s", self.kind, scores.table)
        return result

    def _join_waiting(self) -> None:
        self._parts.append(Detections.from_images(self._waiting))
        self._waiting = []

    def _trim(self, detections: Detections) -> Detections:
        """Drop what cannot change the numbers, before it travels and again of the whole."""
        return detections

    @abstractmethod
    def _convert(self, image_id: int, boxes: BoxList) -> ImageDetections:
        """The boxes of one image in this evaluator's form."""

    @abstractmethod
    def _write_predictions(self, detections: Detections) -> None:
        """Write what was predicted, before it is scored."""

    @abstractmethod
    def _score(self, detections: Detections) -> Scores:
        """Numbers of all predictions, images ascending; runs on rank 0 and writes its own files."""


def to_arrays(boxes: BoxList, size: tuple[int, int]) -> ImageDetections:
    """Corners, scores and labels of a box list scaled to an image of ``size`` = (width, height)."""
    boxes = boxes.resize(size).convert("xyxy")
    return ImageDetections(
        boxes=boxes.bbox.detach().cpu().numpy(),
        scores=_field(boxes, "scores", torch.float32),
        labels=_field(boxes, "labels", torch.int64),
    )


def _field(boxes: BoxList, name: str, dtype: torch.dtype) -> np.ndarray:
    if not boxes.has_field(name):
        if len(boxes) == 0:
            return torch.zeros(0, dtype=dtype).numpy()
        raise EvaluationError(f"predicted boxes need a field {name!r}; they have {boxes.fields()}")
    return boxes.get_field(name).detach().cpu().to(dtype).numpy()


def report_missing(kind: str, annotated: int, predicted: int) -> None:
    """Say that some images of the set were not predicted."""
    if predicted < annotated:
        logger.warning(
            "%s: %d of %d images have no prediction; they count as images where nothing was found",
            kind,
            annotated - predicted,
            annotated,
        )
