"""Detect in several sizes of an image and in its mirror image, and merge what was found."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from maskrcnn_benchmark.errors import ConfigError
from maskrcnn_benchmark.modeling.boxlist_nms import (
    boxlist_nms,
    boxlist_soft_nms,
    boxlist_soft_voting,
    boxlist_voting,
)
from maskrcnn_benchmark.structures.bounding_box import FLIP_LEFT_RIGHT, BoxList
from maskrcnn_benchmark.structures.boxlist_ops import cat_boxlist

logger = logging.getLogger(__name__)

MERGE_METHODS = ("none", "soft-nms", "vote", "soft-vote")
SOFT_NMS_SIGMA = 0.95


@dataclass(frozen=True)
class View:
    """One way to look at an image.

    Attributes:
        short_side: length in pixels to which the shorter side is resized.
        max_size: limit of the longer side, which wins.
        flip: mirror left and right.
        size_range: boxes are believed in this view if their size, the root of their area in the
            *resized* image, lies strictly between the two.
    """

    short_side: int
    max_size: int
    flip: bool = False
    size_range: tuple[float, float] = (0.0, float("inf"))


@dataclass(frozen=True)
class DetectionMerger:
    """Merges the detections of all views of an image, label by label.

    ===========  =============================================================================
    none         plain suppression at overlap ``threshold``
    soft-nms     soft suppression; here ``threshold`` is the *score* below which a box goes
    vote         clusters at overlap ``threshold`` become their score-weighted mean
    soft-vote    the same, outvoted boxes stay with lower scores, at least ``score_floor``
    ===========  =============================================================================

    Attributes:
        method: ``TEST.SPECIAL_NMS``.
        threshold: ``TEST.TH``.
        max_detections: kept per image over all labels, the best; 0 or less for all.
        score_floor: only for soft-vote.
        labels: labels to keep; None for all there are.

    Raises:
        ConfigError: for an unknown method.
    """

    method: str = "none"
    threshold: float = 0.6
    max_detections: int = 1000
    score_floor: float = 0.05
    labels: Sequence[int] | None = None

    def __post_init__(self) -> None:
        if self.method not in MERGE_METHODS:
            raise ConfigError(
                f"TEST.SPECIAL_NMS must be one of {', '.join(MERGE_METHODS)}, not {self.method!r}"
            )

    def __call__(self, detections: BoxList) -> BoxList:
        """Merged detections, best score first.

        Args:
            detections: all boxes of an image, with the fields ``scores`` and ``labels``.
        """
        found = detections.get_field("labels")
        present = found.unique().tolist()
        wanted = present if self.labels is None else sorted(set(self.labels).intersection(present))
        merged = [self._merge_label(detections[found == label]) for label in wanted]
        merged = cat_boxlist(merged) if merged else detections[:0]
        order = merged.get_field("scores").argsort(descending=True, stable=True)
        return merged[order[: self.max_detections] if self.max_detections > 0 else order]

    def _merge_label(self, boxes: BoxList) -> BoxList:
        if self.method == "none":
            return boxlist_nms(boxes, self.threshold)
        if self.method == "soft-nms":
            return boxlist_soft_nms(boxes, self.threshold, SOFT_NMS_SIGMA)
        if self.method == "vote":
            return boxlist_voting(boxes, self.threshold)
        return boxlist_soft_voting(boxes, self.threshold, self.score_floor)


@dataclass(frozen=True)
class MultiViewDetector:
    """Runs a detector over several views of each image.

    Knows neither how an image is resized and normalised nor how it is searched; both are handed in.
    A detector that asks for its classes in several captions joins their detections itself, so no
    chunk is lost.

    Attributes:
        views: what to look at.
        merger: how detections of an image become one list.
    """

    views: Sequence[View]
    merger: DetectionMerger = field(default_factory=DetectionMerger)

    def __call__(
        self,
        images: Sequence[Any],
        image_sizes: Sequence[tuple[int, int]],
        prepare: Callable[[Any, View], Tensor],
        detect: Callable[[list[Tensor]], Sequence[BoxList]],
    ) -> list[BoxList]:
        """Detections in the coordinates of the given images, best score first.

        Args:
            images: pictures as ``prepare`` takes them.
            image_sizes: ``(width, height)`` of each.
            prepare: makes the network's input ``[3, H, W]`` of an image as the view demands.
            detect: finds boxes in such inputs, one list each, not yet suppressed, in pixels of the
                input, with ``size`` that of the input and the fields ``scores`` and ``labels``.
        """
        found: list[list[BoxList]] = [[] for _ in images]
        for view in self.views:
            boxes_of_view = detect([prepare(image, view) for image in images])
            for own, boxes, size in zip(found, boxes_of_view, image_sizes):
                own.append(to_original(boxes, view, size))
        return [self.merger(cat_boxlist(own)) for own in found]


def to_original(boxes: BoxList, view: View, image_size: tuple[int, int]) -> BoxList:
    """Boxes that were found in a view, in the coordinates of the original image.

    Args:
        boxes: in pixels of the view.
        view: how it was made; boxes outside its size range are dropped.
        image_size: ``(width, height)`` of the original.
    """
    if view.flip:
        boxes = boxes.transpose(FLIP_LEFT_RIGHT)
    smallest, largest = view.size_range
    area = boxes.area()
    boxes = boxes[(area > smallest**2) & (area < largest**2)]
    return boxes.resize(image_size)


def build_multi_view_detector(cfg) -> MultiViewDetector:
    """Test-time augmentation from ``TEST``: ``SCALES``, ``RANGES``, ``FLIP``, ``SPECIAL_NMS``, ...

    ``TEST.NUM_CLASSES`` is not needed: all labels that were found are merged, unless
    ``TEST.SELECT_CLASSES`` names some.
    """
    test = cfg.TEST
    merger = DetectionMerger(
        method=test.SPECIAL_NMS,
        threshold=test.TH,
        max_detections=test.PRE_NMS_TOP_N,
        score_floor=cfg.MODEL.RETINANET.INFERENCE_TH,
        labels=tuple(test.SELECT_CLASSES) or None,
    )
    return MultiViewDetector(tuple(_views(test)), merger)


def _views(test) -> Iterator[View]:
    use_ranges = len(test.RANGES) == len(test.SCALES)
    if not use_ranges:
        logger.warning(
            "TEST.RANGES has %d entries for %d TEST.SCALES and is not used",
            len(test.RANGES),
            len(test.SCALES),
        )
    for number, scale in enumerate(test.SCALES):
        size_range = tuple(test.RANGES[number]) if use_ranges else (0.0, float("inf"))
        for flip in (False, True) if test.FLIP else (False,):
            yield View(scale, test.MAX_SIZE, flip, size_range)
