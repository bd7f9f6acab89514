"""Detections of many images as flat arrays: what evaluators keep, exchange and score."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


class ImageDetections(NamedTuple):
    """Detections of one image, in the order in which equal scores rank.

    Attributes:
        boxes: ``(n, 4)`` float; each evaluator says in which form.
        scores: ``(n,)`` float.
        labels: ``(n,)`` int, category id or number of a phrase.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class Detections:
    """Detections of many images, image after image.

    Attributes:
        image_ids: ``(num_images,)`` int64, the images that were looked at, each once, also those
            in which nothing was found.
        counts: ``(num_images,)`` int64, detections of each.
        boxes: ``(num_detections, 4)`` float.
        scores: ``(num_detections,)`` float.
        labels: ``(num_detections,)`` int64.
    """

    image_ids: np.ndarray
    counts: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.scores)

    @classmethod
    def empty(cls) -> Detections:
        """No image, no detection."""
        return cls(
            image_ids=np.zeros(0, np.int64),
            counts=np.zeros(0, np.int64),
            boxes=np.zeros((0, 4), np.float32),
            scores=np.zeros(0, np.float32),
            labels=np.zeros(0, np.int64),
        )

    @classmethod
    def from_images(cls, images: Iterable[tuple[int, ImageDetections]]) -> Detections:
        """Join the detections of single images; an image that comes again is left out."""
        parts: dict[int, ImageDetections] = {}
        for image_id, part in images:
            parts.setdefault(image_id, part)
        if not parts:
            return cls.empty()
        return cls(
            image_ids=np.fromiter(parts, np.int64, len(parts)),
            counts=np.array([len(part.scores) for part in parts.values()], np.int64),
            boxes=np.concatenate([part.boxes for part in parts.values()]).reshape(-1, 4),
            scores=np.concatenate([part.scores for part in parts.values()]),
            labels=np.concatenate([part.labels for part in parts.values()]).astype(np.int64),
        )

    @classmethod
    def from_rows(
        cls,
        image_ids: np.ndarray,
        boxes: np.ndarray,
        scores: np.ndarray,
        labels: np.ndarray,
        looked_at: np.ndarray | None = None,
    ) -> Detections:
        """Group rows in any order by image, ascending; the order within an image stays.

        Args:
            image_ids: ``(n,)`` int, the image of every row.
            boxes, scores, labels: as in the class.
            looked_at: ids of further images, in which nothing was found.
        """
        order = np.argsort(image_ids, kind="stable")
        present = image_ids if looked_at is None else np.concatenate([image_ids, looked_at])
        unique_ids = np.unique(present).astype(np.int64)
        counts = np.bincount(np.searchsorted(unique_ids, image_ids), minlength=len(unique_ids))
        return cls(
            image_ids=unique_ids,
            counts=counts.astype(np.int64),
            boxes=np.asarray(boxes).reshape(-1, 4)[order],
            scores=np.asarray(scores)[order],
            labels=np.asarray(labels, np.int64)[order],
        )

    @property
    def row_image_ids(self) -> np.ndarray:
        """``(num_detections,)`` int64, the image of every detection."""
        return np.repeat(self.image_ids, self.counts)

    def image_rows(self) -> Iterable[tuple[int, ImageDetections]]:
        """The images one after the other; arrays are views."""
        ends = np.cumsum(self.counts)
        for image_id, start, end in zip(
            self.image_ids.tolist(), (ends - self.counts).tolist(), ends.tolist()
        ):
            yield (
                image_id,
                ImageDetections(
                    self.boxes[start:end], self.scores[start:end], self.labels[start:end]
                ),
            )

    def select(self, keep: np.ndarray) -> Detections:
        """Keep the detections where the ``(num_detections,)`` mask is true; images stay listed."""
        image_of_row = np.repeat(np.arange(len(self.image_ids)), self.counts)
        counts = np.bincount(image_of_row[keep], minlength=len(self.image_ids)).astype(np.int64)
        return Detections(
            self.image_ids, counts, self.boxes[keep], self.scores[keep], self.labels[keep]
        )

    def by_image_id(self) -> Detections:
        """The same detections with images in ascending order of their ids.

        Evaluators score in this order, so the number of processes and the order in which a
        sampler visits the images cannot change which of two equal scores ranks first.
        """
        return Detections.from_rows(
            self.row_image_ids, self.boxes, self.scores, self.labels, looked_at=self.image_ids
        )

    def best_per_image(self, limit: int) -> Detections:
        """Keep the ``limit`` highest scores of every image; of equal ones the earlier."""
        return self.select(_ranks(self.row_image_ids, self.scores) < limit)

    def best_per_label(self, limit: int) -> Detections:
        """Keep the ``limit`` highest scores of every label over all images.

        Of equal scores the one in the image with the smaller id stays, within an image the
        earlier, so that cutting the parts and then their union gives what one cut gives.
        """
        return self.select(_ranks(self.labels, self.scores, self.row_image_ids) < limit)

    def best_per_image_and_label(self, limit: int) -> Detections:
        """Keep the ``limit`` highest scores of every label in every image."""
        _, labels = np.unique(self.labels, return_inverse=True)
        image_of_row = np.repeat(np.arange(len(self.image_ids)), self.counts)
        pairs = image_of_row * (labels.max(initial=0) + 1) + labels
        return self.select(_ranks(pairs, self.scores) < limit)


def join(parts: Sequence[Detections]) -> Detections:
    """Concatenate; an image that an earlier part holds already is left out of the later ones."""
    if not parts:
        return Detections.empty()
    seen = parts[0].image_ids
    kept = [parts[0]]
    for part in parts[1:]:
        new = ~np.isin(part.image_ids, seen)
        kept.append(part if new.all() else _select_images(part, new))
        seen = np.concatenate([seen, kept[-1].image_ids])
    return Detections(
        *(
            np.concatenate([getattr(part, name) for part in kept])
            for name in ("image_ids", "counts", "boxes", "scores", "labels")
        )
    )


def _select_images(detections: Detections, keep: np.ndarray) -> Detections:
    rows = np.repeat(keep, detections.counts)
    return Detections(
        detections.image_ids[keep],
        detections.counts[keep],
        detections.boxes[rows],
        detections.scores[rows],
        detections.labels[rows],
    )


def _ranks(groups: np.ndarray, scores: np.ndarray, *tie_breakers: np.ndarray) -> np.ndarray:
    """Place of every row among the rows of its group, by descending score, 0 for the best."""
    # lexsort is stable and takes its most important key last.
    order = np.lexsort((*reversed(tie_breakers), -scores, groups))
    sorted_groups = groups[order]
    starts = np.flatnonzero(np.diff(sorted_groups, prepend=sorted_groups[:1] - 1))
    lengths = np.diff(starts, append=len(groups))
    ranks = np.empty(len(groups), np.int64)
    ranks[order] = np.arange(len(groups)) - np.repeat(starts, lengths)
    return ranks
