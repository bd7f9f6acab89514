"""Detection data in COCO-style files, served as grounding data: a caption of class names per
image.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from maskrcnn_benchmark.data.datasets.detection_captions import (
    DetectionCaptioner,
    DetectionGrounding,
)
from maskrcnn_benchmark.data.datasets.grounding_target import GroundingTargetBuilder
from maskrcnn_benchmark.data.datasets.json_dataset import LabelledJsonDataset
from maskrcnn_benchmark.grounding import RandomSource
from maskrcnn_benchmark.structures.bounding_box import BoxList


class CocoGrounding(LabelledJsonDataset):
    """Training data made of detection annotations.

    Args:
        make_captioner: from the class table (label -> name, without background) to what writes the
            captions.
        targets: builds the targets.
        clip: clip boxes to the image and drop empty ones (DATASETS.DISABLE_CLIP_TO_IMAGE turns it
            off).
        masking_allowed: False keeps the captions out of masked-language modelling.
        one_hot_offset: if set, the token map is replaced by a class map: column label + this offset
            (DATASETS.ONE_HOT).
        box_classes: tell the losses which class each box belongs to; see `DetectionGrounding`.
        override_category: see `LabelledJsonDataset`.
    """

    has_captions = True
    token_classes = False
    """Whether the losses learn the class of each token too, and of each box in any case."""

    def __init__(
        self,
        img_folder: str | Path,
        ann_file: str | Path,
        transforms: Callable | None,
        *,
        make_captioner: Callable[[Mapping[int, str]], DetectionCaptioner],
        targets: GroundingTargetBuilder,
        clip: bool = True,
        masking_allowed: bool = True,
        one_hot_offset: int | None = None,
        box_classes: bool = False,
        few_shot: int = 0,
        shuffle_seed: int = 0,
        name: str | None = None,
        skip_broken: bool = False,
        override_category: Sequence[Mapping[str, Any]] | None = None,
    ):
        super().__init__(
            img_folder,
            ann_file,
            transforms,
            only_valid=True,
            few_shot=few_shot,
            shuffle_seed=shuffle_seed,
            name=name,
            skip_broken=skip_broken,
            override_category=override_category,
        )
        self.one_hot_offset = one_hot_offset
        self.map_width = targets.map_width
        self.grounding = DetectionGrounding(
            make_captioner(self.category_table.foreground),
            targets,
            clip=clip,
            masking_allowed=masking_allowed,
            box_classes=box_classes or self.token_classes,
            token_classes=self.token_classes,
        )

    def load(self, index: int, rng: RandomSource) -> tuple:
        row = self.rows[index]
        image = self.read_image(row)
        annotations = self.annotation_file.annotations(row)
        boxes = self.labelled_boxes(annotations.select(~annotations.iscrowd), image.size)
        image, target = self.grounding.build(
            image, boxes, self.image_id(index), self.apply_transforms, rng
        )
        if self.one_hot_offset is not None:
            self._make_one_hot(target, self.one_hot_offset)
        return image, target, index

    def _make_one_hot(self, target: BoxList, offset: int) -> None:
        width = self.map_width
        labels = target.get_field("labels")
        one_hot = torch.zeros(len(labels), width)
        one_hot[torch.arange(len(labels)), labels + offset] = 1.0
        text_mask = torch.zeros(width, dtype=torch.int64)
        text_mask[: len(self.category_table.foreground)] = 1
        target.add_field("positive_map", one_hot)
        target.add_field("text_mask", text_mask)


class CocoSampledGrounding(CocoGrounding):
    """Detection data of many classes in COCO-style files, with captions of sampled classes: what
    `CocoDetectionTSV` makes of TSV files.
    """

    token_classes = True
