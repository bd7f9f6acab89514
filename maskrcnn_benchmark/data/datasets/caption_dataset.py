"""Captions with boxes: gold, or found by a teacher (CC3M, CC12M, SBU and the like)."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from maskrcnn_benchmark.data.datasets.caption_packing import CaptionPacking, PackedCaption
from maskrcnn_benchmark.data.datasets.caption_record import (
    FORMATS,
    BoxScreen,
    CaptionRecord,
    read_record,
)
from maskrcnn_benchmark.data.datasets.grounding_target import (
    NOT_DETECTION,
    GroundedBoxes,
    GroundedText,
    GroundingTargetBuilder,
)
from maskrcnn_benchmark.data.datasets.record_source import RecordDataset, RecordSource
from maskrcnn_benchmark.data.datasets.tsv_source import TSVSource
from maskrcnn_benchmark.errors import ConfigError
from maskrcnn_benchmark.grounding import RandomSource, token_count
from maskrcnn_benchmark.structures.bounding_box import BoxList

_MAX_DRAWS = 1000


@dataclass(frozen=True)
class CaptionOptions:
    """What becomes of the records of caption data.

    Attributes:
        version: "v1" or "v2", see `read_record`.
        min_boxes: records with fewer believed boxes give their place to a random other one.
        screen: which boxes are believed; None: all.
        packing: foreign captions packed in; None: none.
        probability_foreign: chance that the caption is replaced by another image's, without boxes.
        mask_own_caption_only: masked-language modelling leaves packed captions alone.
        without_boxes: read captions only, to find boxes for them.
    """

    version: str = "v1"
    min_boxes: int = 1
    screen: BoxScreen | None = None
    packing: CaptionPacking | None = None
    probability_foreign: float = -1.0
    mask_own_caption_only: bool = False
    without_boxes: bool = False

    def __post_init__(self):
        if self.version not in FORMATS:
            raise ConfigError(
                f"DATASETS.CAPTION_FORMAT_VERSION must be one of {FORMATS}, got {self.version!r}"
            )


class CaptionDataset(RecordDataset):
    """One caption with boxes per sample, from any container.

    Args:
        source: records and pictures.
        targets: builds the targets.
        options: filters and packing.
    """

    has_captions = True

    def __init__(
        self,
        name: str,
        source: RecordSource,
        transforms: Callable | None,
        *,
        targets: GroundingTargetBuilder,
        options: CaptionOptions,
        skip_broken: bool = False,
    ):
        super().__init__(name, source, transforms, skip_broken=skip_broken)
        self.targets = targets
        self.options = options

    def load(self, index: int, rng: RandomSource) -> tuple:
        index, record = self._usable_record(index, rng)
        image = self.read_image(index)
        # The record gives the size its boxes were found at, which need not be that of the stored
        # picture.
        record = _fit_to(record, image.size)
        packed = self._pack(record.caption, rng)
        if rng.python.random() < self.options.probability_foreign:
            packed = PackedCaption(self._foreign_captions(1, rng)[0], 0)
            record = record.select(torch.zeros(len(record.boxes), dtype=torch.bool))
        masked = (0, len(packed.caption))
        if self.options.mask_own_caption_only:
            masked = (packed.start, packed.start + len(record.caption))
        text = GroundedText(packed.caption, masking_spans=[masked])
        grounded = _grounded_boxes(record, packed.start)
        extra = {"image_id": torch.tensor([self.image_id(index)])}
        image, target = self.targets.build(image, grounded, text, self.apply_transforms, rng, extra)
        return image, target, index

    def read(self, index: int) -> CaptionRecord:
        """Record of a sample with the boxes that are believed and lie in the picture.

        Raises:
            BrokenRecordError: it is malformed.
        """
        content = self.source.record(index)
        if self.options.without_boxes and isinstance(content, dict):
            content = {**content, "bboxes": [], "scores": [], "tokens_positive": []}
        record = read_record(content, self.options.version, self.source.where(index))
        if self.options.screen:
            record = self.options.screen(record)
        return _fit_to(record, record.image_size)

    def _usable_record(self, index: int, rng: RandomSource) -> tuple[int, CaptionRecord]:
        needed = 0 if self.options.without_boxes else self.options.min_boxes
        for _ in range(_MAX_DRAWS):
            record = self.read(index)
            if len(record.boxes) >= needed:
                return index, record
            index = rng.python.randrange(len(self))
        raise ConfigError(
            f"Dataset {self.name}: {_MAX_DRAWS} samples drawn, none with {needed} usable box(es); "
            "lower DATASETS.CAPTION_MIN_BOX or DATASETS.CAPTION_CONF"
        )

    def _pack(self, caption: str, rng: RandomSource) -> PackedCaption:
        packing = self.options.packing
        if packing is None:
            return PackedCaption(caption, 0)
        foreign = self._foreign_captions(packing.draw_number(rng), rng)
        return packing.pack(caption, foreign, self._count_tokens, rng)

    def _foreign_captions(self, number: int, rng: RandomSource) -> list[str]:
        indices = [rng.python.randrange(len(self)) for _ in range(number)]
        return [self.read(index).caption for index in indices]

    def _count_tokens(self, caption: str) -> int:
        return token_count(caption, self.targets.tokenizer)


class CaptionTSV(CaptionDataset):
    """Captions in TSV files.

    Args:
        yaml_file: see `TSVSource`.
        clean_labels: see `TSVSource`.
    """

    def __init__(
        self,
        yaml_file: str | Path,
        transforms: Callable | None,
        *,
        targets: GroundingTargetBuilder,
        options: CaptionOptions,
        name: str | None = None,
        clean_labels: bool = False,
        skip_broken: bool = False,
    ):
        source = TSVSource(yaml_file, clean_labels=clean_labels)
        source.need_labels()
        super().__init__(
            name or str(yaml_file),
            source,
            transforms,
            targets=targets,
            options=options,
            skip_broken=skip_broken,
        )


class PseudoData(CaptionTSV):
    """Caption data as it is: nothing is packed in."""


def _fit_to(record: CaptionRecord, image_size: tuple[int, int]) -> CaptionRecord:
    """The record with boxes scaled to a picture of this size and clipped; empty ones go, with their
    spans.
    """
    boxes = BoxList(record.boxes, record.image_size, mode="xyxy")
    boxes = boxes.resize(image_size).clip_to_image(remove_empty=False)
    x1, y1, x2, y2 = boxes.bbox.unbind(1)
    fitted = replace(record, boxes=boxes.bbox, image_size=image_size)
    return fitted.select((x2 > x1) & (y2 > y1))


def _grounded_boxes(record: CaptionRecord, start: int) -> GroundedBoxes:
    number = len(record.boxes)
    spans = [[(begin + start, end + start) for begin, end in spans] for spans in record.spans]
    widths_heights = record.boxes[:, 2:] - record.boxes[:, :2] + 1
    return GroundedBoxes(
        boxes=record.boxes,
        labels=torch.ones(number, dtype=torch.int64),
        areas=widths_heights.prod(dim=1),
        iscrowd=torch.zeros(number, dtype=torch.int64),
        tokens_positive=spans,
        od_labels=torch.full((number,), NOT_DETECTION),
    )
