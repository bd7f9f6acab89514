"""Records of captions with boxes that a teacher found."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from maskrcnn_benchmark.data.image_files import BrokenRecordError
from maskrcnn_benchmark.layers import nms

FORMATS = ("v1", "v2")


class SpanError(BrokenRecordError):
    """A span that does not lie in its caption."""


@dataclass(frozen=True)
class CaptionRecord:
    """One caption and its boxes; rows of boxes, scores and spans correspond.

    Attributes:
        boxes: (n, 4) float32, corners in pixels of an image of `image_size`.
        scores: (n,) float32.
        spans: per box its (begin, end) characters.
        image_size: (width, height).
        image_id: where the record names its picture.
    """

    caption: str
    boxes: torch.Tensor
    scores: torch.Tensor
    spans: list[list[list[int]]]
    image_size: tuple[int, int]
    image_id: Any = None

    def select(self, keep: torch.Tensor) -> "CaptionRecord":
        """The record with the boxes chosen by a boolean mask."""
        chosen = keep.nonzero().flatten().tolist()
        return CaptionRecord(
            self.caption,
            self.boxes[keep],
            self.scores[keep],
            [self.spans[i] for i in chosen],
            self.image_size,
            self.image_id,
        )


@dataclass(frozen=True)
class BoxScreen:
    """Which boxes of a teacher are believed (DATASETS.FURTHER_SCREEN).

    Attributes:
        confidence: boxes must score above (CAPTION_CONF).
        nms_overlap: of boxes that overlap more, the best stays, whatever their phrases; 0 or less:
            off (CAPTION_NMS).
    """

    confidence: float
    nms_overlap: float

    def __call__(self, record: CaptionRecord) -> CaptionRecord:
        """The record with the boxes that pass, in their order."""
        record = record.select(record.scores > self.confidence)
        if self.nms_overlap <= 0 or not len(record.boxes):
            return record
        keep = torch.zeros(len(record.boxes), dtype=torch.bool)
        keep[nms(record.boxes, record.scores, self.nms_overlap)] = True
        return record.select(keep)


def read_record(content: Any, version: str, where: str) -> CaptionRecord:
    """Check and unfold a decoded record.

    Args:
        version: "v1": one entry per box; "v2": boxes and scores grouped by entity, spans per
            entity. A record that says its "version" itself is read by that.
        where: what messages call the record.
    Raises:
        BrokenRecordError: something is missing, lists differ in length, or a span lies outside the
            caption.
    """
    if not isinstance(content, Mapping) or not isinstance(content.get("caption"), str):
        raise BrokenRecordError(f"{where} has no caption")
    version = content.get("version", version)
    if version not in FORMATS:
        raise BrokenRecordError(f"{where}: version must be one of {FORMATS}, got {version!r}")
    caption = content["caption"]
    boxes = _list(content, "bboxes", where)
    spans = _list(content, "tokens_positive", where)
    scores = content.get("scores", [[1.0] * len(b) for b in boxes] if version == "v2" else None)
    scores = [1.0] * len(boxes) if scores is None else scores
    if not len(boxes) == len(spans) == len(scores):
        raise BrokenRecordError(
            f"{where}: {len(boxes)} bboxes, {len(spans)} tokens_positive and {len(scores)} scores "
            "do not correspond"
        )
    if version == "v2":
        spans = [span for span, group in zip(spans, boxes) for _ in group]
        boxes = [box for group in boxes for box in group]
        scores = [score for group in scores for score in group]
    check_spans(spans, caption, where)
    try:
        box_tensor = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
        score_tensor = torch.tensor(scores, dtype=torch.float32)
        size = int(content["img_w"]), int(content["img_h"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise BrokenRecordError(f"{where} is malformed: {error!r}") from error
    if min(size) < 1:
        raise BrokenRecordError(f"{where}: width and height must be positive, got {size}")
    if len(box_tensor) != len(score_tensor) or not torch.isfinite(box_tensor).all():
        raise BrokenRecordError(f"{where}: a box is not finite or has no score")
    return CaptionRecord(caption, box_tensor, score_tensor, spans, size, content.get("img_id"))


def _list(content: Mapping[str, Any], key: str, where: str) -> list:
    value = content.get(key, [])
    if not isinstance(value, list):
        raise BrokenRecordError(f"{where}: {key} must be a list, got {value!r}")
    return value


def check_spans(spans: Sequence[Any], caption: str, where: str) -> None:
    """Make sure that all (begin, end) characters of all boxes lie in their caption.

    Raises:
        SpanError: naming the first that does not.
    """
    for box_spans in spans:
        for span in box_spans:
            if len(span) != 2 or not 0 <= span[0] < span[1] <= len(caption):
                raise SpanError(
                    f"{where}: span {span} does not lie in its caption of {len(caption)} characters"
                )
