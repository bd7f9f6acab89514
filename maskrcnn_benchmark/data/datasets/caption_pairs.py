"""Pictures with the noun phrases of their captions, for a model to find."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.utils.data import Dataset

from maskrcnn_benchmark.data.collate import Batch, BatchCollator
from maskrcnn_benchmark.data.datasets.grounding_target import (
    GroundedBoxes,
    GroundedText,
    GroundingTargetBuilder,
)
from maskrcnn_benchmark.data.datasets.record_source import RecordSource
from maskrcnn_benchmark.data.image_files import (
    BrokenRecordError,
    BrokenSampleError,
    PictureReader,
    read_rgb,
)
from maskrcnn_benchmark.grounding import RandomSource, Span, find_noun_phrases, token_count
from maskrcnn_benchmark.structures.bounding_box import BoxList

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


class CaptionPair(NamedTuple):
    """A picture and what its caption names.

    Attributes:
        index: number of the sample.
        image: float32 (3, height, width), ready for the model.
        target: no boxes; fields `caption` and `positive_map_eval`, one row per phrase.
        phrases: noun phrases of the caption.
        size: (width, height) of the picture as it is stored.
    """

    index: int
    image: torch.Tensor
    target: BoxList
    phrases: list[Span]
    size: tuple[int, int]


class UnusablePair(NamedTuple):
    """A sample that cannot be labelled.

    Attributes:
        index: number of the sample.
        reason: "broken record", "broken picture", "no noun phrase" or "caption too long".
        message: what exactly.
    """

    index: int
    reason: str
    message: str


class PairBatch(NamedTuple):
    """What the loader yields: usable pairs and their batch (None if there is none), and the rest."""

    pairs: list[CaptionPair]
    batch: Batch | None
    unusable: list[UnusablePair]


class CaptionPairs(Dataset):
    """`dataset[place]` is the sample `indices[place]`, a `CaptionPair` or an `UnusablePair`.

    A missing picture file is an error: then the folder is wrong rather than the picture.

    Args:
        source: records with captions; boxes they have are ignored.
        indices: samples to read.
        transforms: see `build_transforms`, for evaluation.
        tokenizer: the model's.
        max_tokens: longer captions are unusable, special tokens counted.
        read_picture: see `ImageDataset.read_picture`.
        find_phrases: noun phrases of a caption.
    """

    def __init__(
        self,
        source: RecordSource,
        indices: Sequence[int],
        transforms: Callable,
        tokenizer: PreTrainedTokenizerFast,
        max_tokens: int,
        *,
        read_picture: PictureReader = read_rgb,
        find_phrases: Callable[[str], list[Span]] = find_noun_phrases,
    ):
        self.source = source
        self.indices = indices
        self.transforms = transforms
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens
        self.read_picture = read_picture
        self.find_phrases = find_phrases
        self.targets = GroundingTargetBuilder(tokenizer, max_tokens, "pairs")

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, place: int) -> CaptionPair | UnusablePair:
        index = self.indices[place]
        where = self.source.where(index)
        try:
            caption = _caption(self.source.record(index), where)
        except BrokenSampleError as error:
            return UnusablePair(index, "broken record", str(error))
        phrases = self.find_phrases(caption)
        if not phrases:
            return UnusablePair(index, "no noun phrase", f"{where}: {caption!r}")
        if token_count(caption, self.tokenizer) > self.max_tokens:
            return UnusablePair(index, "caption too long", f"{where}: {caption[:60]!r}...")
        try:
            image = self.read_picture(io.BytesIO(self.source.image_data(index)), f"of {where}")
        except BrokenSampleError as error:
            return UnusablePair(index, "broken picture", str(error))
        size = image.size
        text = GroundedText(
            caption,
            masking_spans=[],
            phrases_eval=[[[phrase.start, phrase.end]] for phrase in phrases],
        )
        tensor, target = self.targets.build(
            image, _no_boxes(), text, self.transforms, RandomSource(0), {}
        )
        return CaptionPair(index, tensor, target, phrases, size)


class PairCollator:
    """Joins usable pairs to a batch.

    Args:
        size_divisible: see `BatchCollator`.
    """

    def __init__(self, size_divisible: int):
        self._collate = BatchCollator(size_divisible)

    def __call__(self, samples: Sequence[CaptionPair | UnusablePair]) -> PairBatch:
        pairs = [sample for sample in samples if isinstance(sample, CaptionPair)]
        unusable = [sample for sample in samples if isinstance(sample, UnusablePair)]
        batch = None
        if pairs:
            batch = self._collate([(pair.image, pair.target, pair.index) for pair in pairs])
        return PairBatch(pairs, batch, unusable)


def _caption(record: Any, where: str) -> str:
    caption = record.get("caption") if isinstance(record, dict) else None
    if not isinstance(caption, str) or not caption.strip():
        raise BrokenRecordError(f"{where} has no caption")
    return caption


def _no_boxes() -> GroundedBoxes:
    none = torch.zeros(0, dtype=torch.int64)
    return GroundedBoxes(torch.zeros(0, 4), none, torch.zeros(0), none, [], none)
