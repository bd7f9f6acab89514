"""How good a teacher's boxes are, where the true ones are known."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from maskrcnn_benchmark.data.datasets.caption_record import BoxScreen, CaptionRecord, read_record
from maskrcnn_benchmark.data.datasets.record_source import RecordSource
from maskrcnn_benchmark.errors import DataError
from maskrcnn_benchmark.structures.boxlist_ops import box_iou

SAME_PLACE = 0.5  # intersection over union from which a label is on an object


@dataclass(frozen=True)
class LabelQuality:
    """Counts over a labelled set.

    Attributes:
        labels, right: the teacher's boxes, and those on an object that their phrase names.
        boxes, found: the true boxes, and those that have such a label.
    """

    labels: int
    right: int
    boxes: int
    found: int

    @property
    def precision(self) -> float:
        """Share of the labels that are right; 0 if there are none."""
        return self.right / max(self.labels, 1)

    @property
    def recall(self) -> float:
        """Share of the true boxes that are found; 0 if there are none."""
        return self.found / max(self.boxes, 1)


def label_quality(
    truth: Mapping[str, Any],
    labels: RecordSource,
    screens: Sequence[BoxScreen],
    abouts: Sequence[Callable[[str], bool]] = (lambda phrase: True,),
) -> list[list[LabelQuality]]:
    """Compare a teacher's boxes with annotations of the same captions.

    A box and an annotation belong together when their phrases share characters and their
    intersection over union is at least 0.5. What is not labelled counts as not found.

    Args:
        truth: MDETR-style annotations: ``tokens_positive`` of a box are its characters.
        labels: what the teacher wrote, pictures under the same names.
        screens: ways to choose the boxes that are believed.
        abouts: ways to choose the phrases that are counted.

    Returns:
        One list per screen, with one entry per way to choose phrases.

    Raises:
        DataError: a label's picture is not in ``truth`` or has another caption there.
    """
    images = {image["file_name"]: image for image in truth["images"]}
    caption_of = {image["id"]: image["caption"] for image in truth["images"]}
    annotated: dict[int, list[Mapping[str, Any]]] = {}
    for annotation in truth["annotations"]:
        annotated.setdefault(annotation["image_id"], []).append(annotation)
    counts = np.zeros((len(screens), len(abouts), 4), dtype=int)
    for column, about in enumerate(abouts):
        counts[:, column, 2] = sum(
            _is_about(caption_of[a["image_id"]], a["tokens_positive"], about)
            for a in truth["annotations"]
        )
    for index in range(len(labels)):
        name, where = labels.key(index), labels.where(index)
        unscreened = read_record(labels.record(index), "v2", where)
        if name not in images or images[name]["caption"] != unscreened.caption:
            raise DataError(f"{where}: the annotations know no {name} so captioned")
        own = annotated.get(images[name]["id"], [])
        for row, screen in enumerate(screens):
            record = screen(unscreened)
            together = _together(record, own)
            for column, about in enumerate(abouts):
                labelled = [_is_about(record.caption, s, about) for s in record.spans]
                true = [_is_about(record.caption, a["tokens_positive"], about) for a in own]
                chosen = together[labelled][:, true]
                right, found = chosen.any(1).sum(), chosen.any(0).sum()
                counts[row, column] += [sum(labelled), right, 0, found]
    return [[LabelQuality(*map(int, entry)) for entry in row] for row in counts]


def _is_about(caption: str, spans: list[list[int]], about: Callable[[str], bool]) -> bool:
    return about(" ".join(caption[begin:end] for begin, end in spans))


def _together(record: CaptionRecord, annotations: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """Which label belongs to which annotation, ``[labels, annotations]``."""
    true = torch.tensor([a["bbox"] for a in annotations], dtype=torch.float32).reshape(-1, 4)
    true[:, 2:] += true[:, :2] - 1
    together = (box_iou(record.boxes, true) >= SAME_PLACE).numpy()
    for row, column in zip(*together.nonzero(), strict=True):
        if not _overlap(record.spans[row], annotations[column]["tokens_positive"]):
            together[row, column] = False
    return together


def _overlap(first: list[list[int]], second: list[list[int]]) -> bool:
    return any(a < d and c < b for a, b in first for c, d in second)
