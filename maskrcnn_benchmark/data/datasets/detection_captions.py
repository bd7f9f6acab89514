"""Detection data as grounding data: captions of class names, and targets tied to them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch

from maskrcnn_benchmark.data.datasets.grounding_target import (
    NOT_DETECTION,
    GroundedBoxes,
    GroundedText,
    GroundingTargetBuilder,
)
from maskrcnn_benchmark.errors import ConfigError
from maskrcnn_benchmark.grounding import NamePrompt, RandomSource
from maskrcnn_benchmark.grounding.od_to_grounding import (
    DetectionCaption,
    NameLengths,
    NegativeSampling,
    all_classes_caption,
    check_caption_fits,
    full_caption,
    restrict_to_budget,
)
from maskrcnn_benchmark.grounding.prompts import DETECTION_PREFIX
from maskrcnn_benchmark.structures.bounding_box import BoxList

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


@dataclass(frozen=True)
class CaptionedLabels:
    """A caption for the labels of one image, and which boxes it can describe.

    Attributes:
        keep: per box, whether its class is in the caption. Boxes of other classes must be dropped.
    """

    caption: DetectionCaption
    keep: list[bool]


class DetectionCaptioner(Protocol):
    """Writes the caption of a sample."""

    def __call__(self, labels: Sequence[int], rng: RandomSource) -> CaptionedLabels:
        """Caption for boxes with these labels."""


class AllClassesCaptioner:
    """Every class in every caption, in order or shuffled per sample.

    Args:
        names: label -> class name.
        max_tokens: longest caption with special tokens.
        source: what messages call the dataset.
        cure: what to do about a list that does not fit; None: sample classes.
    Raises:
        ConfigError: the class list does not fit (naming the first class left out), or prompts are to
            be shuffled.
    """

    def __init__(
        self,
        names: Mapping[int, str],
        tokenizer: PreTrainedTokenizerFast,
        *,
        separation_tokens: str,
        max_tokens: int,
        source: str,
        shuffle: bool = True,
        add_detection_prompt: bool = False,
        prompts: Mapping[int, NamePrompt] | None = None,
        cure: str | None = None,
    ):
        self.names = dict(names)
        self.separation_tokens = separation_tokens
        self.add_detection_prompt = add_detection_prompt
        self.prompts = prompts
        self.shuffle = shuffle
        if shuffle and prompts is not None:
            raise ConfigError(
                f"{source}: captions with prompts keep their order; set DATASETS.DISABLE_SHUFFLE "
                "True"
            )
        self._in_order = self._write(shuffle=False)
        check_caption_fits(self._in_order, self.names, tokenizer, max_tokens, source, cure)

    def __call__(self, labels: Sequence[int], rng: RandomSource) -> CaptionedLabels:
        caption = self._write(shuffle=True, rng=rng) if self.shuffle else self._in_order
        return CaptionedLabels(caption, [label in caption.label_to_span for label in labels])

    def _write(self, *, shuffle: bool, rng: RandomSource | None = None) -> DetectionCaption:
        return all_classes_caption(
            self.names,
            separation_tokens=self.separation_tokens,
            add_detection_prompt=self.add_detection_prompt,
            prompts=self.prompts,
            shuffle=shuffle,
            rng=rng,
        )


class SampledClassesCaptioner:
    """The classes present and sampled absent ones, in random order, within the token budget.

    Args:
        names: label -> class name, in the order from which absent classes are drawn.
        max_tokens: longest caption with special tokens.
    """

    def __init__(
        self,
        names: Mapping[int, str],
        tokenizer: PreTrainedTokenizerFast,
        *,
        sampling: NegativeSampling,
        separation_tokens: str,
        max_tokens: int,
        add_detection_prompt: bool = False,
    ):
        self.names = dict(names)
        self.sampling = sampling
        self.separation_tokens = separation_tokens
        self.add_detection_prompt = add_detection_prompt
        self.lengths = NameLengths(tokenizer)
        self.budget = max_tokens - tokenizer.num_special_tokens_to_add()
        if add_detection_prompt:
            self.budget -= self.lengths.of_text(DETECTION_PREFIX)

    def __call__(self, labels: Sequence[int], rng: RandomSource) -> CaptionedLabels:
        kept, used = restrict_to_budget(labels, self.names, self.lengths, self.budget, rng)
        keep = [label in kept for label in labels]
        caption = full_caption(
            [label for label in labels if label in kept],
            self.names,
            self.lengths,
            sampling=self.sampling,
            separation_tokens=self.separation_tokens,
            max_tokens=self.budget,
            used_tokens=used,
            add_detection_prompt=self.add_detection_prompt,
            rng=rng,
        )
        return CaptionedLabels(caption, keep)


class DetectionGrounding:
    """Makes grounding targets of labelled boxes.

    Args:
        captioner: writes the captions.
        targets: builds the targets.
        clip: clip boxes to the image and drop empty ones.
        masking_allowed: False keeps the captions out of masked-language modelling.
        box_classes: tell the losses which class each box belongs to (`original_od_label`).
        token_classes: and each token of the caption (`positive_map_for_od_labels`).
    """

    def __init__(
        self,
        captioner: DetectionCaptioner,
        targets: GroundingTargetBuilder,
        *,
        clip: bool,
        masking_allowed: bool,
        box_classes: bool,
        token_classes: bool,
    ):
        self.captioner = captioner
        self.targets = targets
        self.clip = clip
        self.masking_allowed = masking_allowed
        self.box_classes = box_classes
        self.token_classes = token_classes

    def build(
        self,
        image: Any,
        boxes: BoxList,
        image_id: int,
        transforms: Callable[[Any, BoxList, RandomSource], tuple[Any, BoxList]],
        rng: RandomSource,
    ) -> tuple[Any, BoxList]:
        """Transformed image and its target.

        Args:
            boxes: in original pixels, with the field labels.
        """
        boxes = _inside_image(boxes, clip=self.clip)
        captioned = self.captioner(boxes.get_field("labels").tolist(), rng)
        boxes = boxes[torch.tensor(captioned.keep, dtype=torch.bool)]
        labels = boxes.get_field("labels")
        span_of = captioned.caption.label_to_span
        spans = [[span_of[label]] for label in labels.tolist()]
        classes = labels if self.box_classes else torch.full((len(boxes),), NOT_DETECTION)
        grounded = GroundedBoxes(
            boxes=boxes.bbox,
            labels=labels,
            areas=boxes.area(),
            iscrowd=torch.zeros(len(boxes), dtype=torch.int64),
            tokens_positive=spans,
            od_labels=classes,
        )
        text = GroundedText(
            captioned.caption.caption,
            masking_spans=[span for (span,) in spans],
            masking_allowed=self.masking_allowed,
            label_to_span=span_of if self.token_classes else {},
        )
        extra = {"image_id": torch.tensor([image_id])}
        return self.targets.build(image, grounded, text, transforms, rng, extra)


def _inside_image(boxes: BoxList, *, clip: bool) -> BoxList:
    """Boxes without empty ones, clipped to the image on request."""
    if clip:
        return boxes.clip_to_image(remove_empty=True)
    x1, y1, x2, y2 = boxes.bbox.unbind(1)
    return boxes[(x2 > x1) & (y2 > y1)]
