"""How good a teacher's boxes are, where the true ones are known."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from maskrcnn_benchmark.data.datasets.caption_record import BoxScreen, CaptionRecord, read_record
from maskrcnn_benchmark.data.datasets.record_source import RecordSource
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
    screen: BoxScreen,
    about: Callable[[str], bool] = lambda phrase: True,
) -> LabelQuality:
    """Compare a teacher's boxes with annotations of the same captions.

    A box and an annotation belong together when their phrases share characters and their
    intersection over union is at least 0.5. What is not labelled counts as not found.

    Args:
        truth: MDETR-style annotations: ``tokens_positive`` of a box are its characters.
        labels: what the teacher wrote, pictures under the same names.
        screen: which of its boxes are believed.
        about: which phrases are counted.

    Raises:
        ValueError: a label's picture is not in ``truth`` or has another caption there.
    """
    images = {image["file_name"]: image for image in truth["images"]}
    annotated: dict[int, list[Mapping[str, Any]]] = {}
    for annotation in truth["annotations"]:
        annotated.setdefault(annotation["image_id"], []).append(annotation)
    counts = dict.fromkeys(("labels", "right", "found"), 0)
    for index in range(len(labels)):
        name = labels.key(index)
        record = screen(read_record(labels.record(index), "v2", labels.where(index)))
        if name not in images or images[name]["caption"] != record.caption:
            raise ValueError(f"{labels.where(index)}: the annotations know no {name} so captioned")
        own = [
            a
            for a in annotated.get(images[name]["id"], ())
            if _is_about(record.caption, a["tokens_positive"], about)
        ]
        chosen = [_is_about(record.caption, spans, about) for spans in record.spans]
        record = record.select(torch.tensor(chosen, dtype=torch.bool))
        together = _together(record, own)
        counts["labels"] += len(record.boxes)
        counts["right"] += int(together.any(1).sum())
        counts["found"] += int(together.any(0).sum())
    caption_of = {image["id"]: image["caption"] for image in truth["images"]}
    boxes = sum(
        _is_about(caption_of[a["image_id"]], a["tokens_positive"], about)
        for a in truth["annotations"]
    )
    return LabelQuality(boxes=boxes, **counts)


def _is_about(caption: str, spans: list[list[int]], about: Callable[[str], bool]) -> bool:
    return about(" ".join(caption[begin:end] for begin, end in spans))


def _together(record: CaptionRecord, annotations: list[Mapping[str, Any]]) -> torch.Tensor:
    """Which label belongs to which annotation, ``[labels, annotations]``."""
    true = torch.tensor([a["bbox"] for a in annotations], dtype=torch.float32).reshape(-1, 4)
    true[:, 2:] += true[:, :2] - 1
    same_phrase = torch.tensor(
        [[_overlap(spans, a["tokens_positive"]) for a in annotations] for spans in record.spans],
        dtype=torch.bool,
    ).reshape(len(record.boxes), len(annotations))
    return same_phrase & (box_iou(record.boxes, true) >= SAME_PLACE)


def _overlap(first: list[list[int]], second: list[list[int]]) -> bool:
    return any(a < d and c < b for a, b in first for c, d in second)
