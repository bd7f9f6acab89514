"""The target of a grounding sample: boxes plus everything that ties them to the caption."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image

from maskrcnn_benchmark.grounding import (
    MAX_TOKENS,
    RandomSource,
    TokenAlignment,
    create_greenlight_map,
    create_od_label_map,
    create_positive_map,
)
from maskrcnn_benchmark.structures.bounding_box import BoxList

if TYPE_CHECKING:
    from transformers import BatchEncoding, PreTrainedTokenizerFast

logger = logging.getLogger(__name__)

NOT_DETECTION = -10
"""`original_od_label` of boxes that do not come from detection data."""


@dataclass
class GroundedBoxes:
    """Boxes of one image and what describes them; rows correspond.

    Attributes:
        boxes: (n, 4) float32, inclusive corners in original pixels, inside the image.
        labels: (n,) int64.
        areas, iscrowd: (n,).
        tokens_positive: per box its (begin, end) characters in the caption.
        od_labels: (n,) int64 class of each box, `NOT_DETECTION` for grounding data.
    """

    boxes: torch.Tensor
    labels: torch.Tensor
    areas: torch.Tensor
    iscrowd: torch.Tensor
    tokens_positive: list[list[tuple[int, int]]]
    od_labels: torch.Tensor


@dataclass
class GroundedText:
    """Caption of one image and how it may be used.

    Attributes:
        masking_spans: characters that masked-language modelling may hide and score.
        masking_allowed: False keeps the caption out of it altogether.
        label_to_span: class -> its name's characters, for detection data.
        phrases_eval: per phrase asked for in evaluation, its spans; None: the boxes are the
            phrases.
    """

    caption: str
    masking_spans: Sequence[tuple[int, int]]
    masking_allowed: bool = True
    label_to_span: Mapping[int, tuple[int, int]] = field(default_factory=dict)
    phrases_eval: Sequence[Sequence[Sequence[int]]] | None = None


class GroundingTargetBuilder:
    """Transforms image and boxes and attaches the fields of a grounding target.

    Args:
        tokenizer: fast tokenizer, the one the model uses.
        max_query_len: captions are read up to this many tokens.
        source: what messages call the dataset.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, max_query_len: int, source: str):
        self.tokenizer = tokenizer
        self.max_query_len = max_query_len
        self.map_width = max(MAX_TOKENS, max_query_len)
        self.source = source
        self.truncated = 0
        self._last: tuple[str, TokenAlignment] | None = None

    def build(
        self,
        image: Image.Image,
        boxes: GroundedBoxes,
        text: GroundedText,
        transforms: Callable[[Any, BoxList, RandomSource], tuple[Any, BoxList]],
        rng: RandomSource,
        extra_fields: Mapping[str, Any],
    ) -> tuple[Any, BoxList]:
        """Transformed image, and its BoxList with all fields. `extra_fields` are attached as they
        are.
        """
        width, height = image.size
        target = BoxList(boxes.boxes, image.size, mode="xyxy")
        target.add_field("labels", boxes.labels)
        image, target = transforms(image, target, rng)
        if len(target) != len(boxes.boxes):
            raise RuntimeError(
                "transforms must keep every box: token maps are joined by box counts"
            )

        alignment = self.align(text.caption)
        fields = {
            "boxes": boxes.boxes,
            "caption": text.caption,
            "area": boxes.areas,
            "iscrowd": boxes.iscrowd,
            "tokens_positive": boxes.tokens_positive,
            "original_od_label": boxes.od_labels,
            "orig_size": torch.tensor([height, width]),
            "size": torch.tensor([height, width]),
            "positive_map": create_positive_map(alignment, boxes.tokens_positive, self.map_width),
            "greenlight_map": create_greenlight_map(
                alignment,
                text.masking_spans,
                self.map_width,
                masking_allowed=text.masking_allowed,
            ),
            "positive_map_for_od_labels": create_od_label_map(
                alignment, text.label_to_span, self.map_width
            ),
        }
        if text.phrases_eval is not None:
            fields["positive_map_eval"] = create_positive_map(
                alignment, text.phrases_eval, self.map_width
            )
            fields["nb_eval"] = len(text.phrases_eval)
        for name, value in {**fields, **extra_fields}.items():
            target.add_field(name, value)
        return image, target

    def align(self, caption: str) -> TokenAlignment:
        """Character -> token table of the caption; what lies behind `max_query_len` has no
        tokens.
        """
        if self._last is None or self._last[0] != caption:
            encoding = self.tokenizer(caption, truncation=True, max_length=self.max_query_len)
            self._note_truncation(caption, encoding)
            self._last = (caption, TokenAlignment.from_encoding(encoding))
        return self._last[1]

    def _note_truncation(self, caption: str, encoding: BatchEncoding) -> None:
        if len(encoding["input_ids"]) < self.max_query_len:
            return
        read_to = max(end for _, end in encoding.encodings[0].offsets)
        if read_to >= len(caption.rstrip()):
            return
        self.truncated += 1
        if self.truncated == 1:
            logger.warning(
                "Dataset %s: a caption has more than %d tokens; phrases behind the limit cannot be "
                "learned or found. This is said once. The caption: %r",
                self.source,
                self.max_query_len,
                caption,
            )
