"""Pictures with labelled boxes, from any container."""

from collections.abc import Callable, Mapping
from typing import Any

import torch

from maskrcnn_benchmark.data.datasets.detection_captions import (
    DetectionCaptioner,
    DetectionGrounding,
)
from maskrcnn_benchmark.data.datasets.grounding_target import GroundingTargetBuilder
from maskrcnn_benchmark.data.datasets.record_source import RecordDataset, RecordSource
from maskrcnn_benchmark.data.image_files import BrokenRecordError
from maskrcnn_benchmark.grounding import RandomSource
from maskrcnn_benchmark.grounding.od_to_grounding import BACKGROUND_NAME
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.utils.box_values import is_box


class DetectionRecords(RecordDataset):
    """Boxes with class names; no caption.

    Args:
        source: records and pictures.
        label_map: class name -> label, background (0) included.
    """

    def __init__(
        self,
        name: str,
        source: RecordSource,
        label_map: Mapping[str, int],
        transforms: Callable | None,
        *,
        skip_broken: bool = False,
    ):
        super().__init__(name, source, transforms, skip_broken=skip_broken)
        self.label_map = dict(label_map)

    def image_id(self, index: int) -> int:
        """Key of the picture where it is a number, else the row of its record."""
        key = self.source.key(index)
        return int(key) if key.isdecimal() else self.source.row(index)

    def categories(self, no_background: bool = True) -> dict[int, str]:
        """Label -> class name in the order of the label map."""
        names = {label: name for name, label in self.label_map.items()}
        if no_background:
            del names[self.label_map[BACKGROUND_NAME]]
        return names

    def read_boxes(self, index: int, image_size: tuple[int, int]) -> BoxList:
        """Boxes of a sample with field labels, as they stand in its record; crowds are left out.

        Raises:
            BrokenRecordError: the record is malformed.
        """
        return read_objects(
            self.source.record(index), self.label_map, image_size, self.source.where(index)
        )

    def load(self, index: int, rng: RandomSource) -> tuple:
        image = self.read_image(index)
        target = self.read_boxes(index, image.size).clip_to_image(remove_empty=False)
        image, target = self.apply_transforms(image, target, rng)
        return image, target, index


class CaptionedDetectionRecords(DetectionRecords):
    """Detection data served as grounding data, with captions of sampled classes.

    Args:
        make_captioner: from the class table (label -> name, background included) to what writes the
            captions.
        targets: builds the targets.
        clip: clip boxes to the image and drop empty ones.
        masking_allowed: False keeps the captions out of masked-language modelling.
    """

    has_captions = True

    def __init__(
        self,
        name: str,
        source: RecordSource,
        label_map: Mapping[str, int],
        transforms: Callable | None,
        *,
        make_captioner: Callable[[Mapping[int, str]], DetectionCaptioner],
        targets: GroundingTargetBuilder,
        clip: bool = True,
        masking_allowed: bool = True,
        skip_broken: bool = False,
    ):
        super().__init__(name, source, label_map, transforms, skip_broken=skip_broken)
        self.grounding = DetectionGrounding(
            make_captioner(self.categories(no_background=False)),
            targets,
            clip=clip,
            masking_allowed=masking_allowed,
            box_classes=True,
            token_classes=True,
        )

    def load(self, index: int, rng: RandomSource) -> tuple:
        image = self.read_image(index)
        boxes = self.read_boxes(index, image.size)
        image, target = self.grounding.build(
            image, boxes, self.image_id(index), self.apply_transforms, rng
        )
        return image, target, index


def read_objects(
    record: Any, label_map: Mapping[str, int], image_size: tuple[int, int], where: str
) -> BoxList:
    """Boxes of a detection record: a list of {"class", "rect"}, or {"objects": that list}.

    Args:
        image_size: (width, height).
        where: what messages call the record.
    Returns:
        boxes with field labels; objects with "iscrowd" stand for groups and are left out.
    Raises:
        BrokenRecordError: a box is not four finite numbers, or a class is unknown.
    """
    objects = record.get("objects", []) if isinstance(record, Mapping) else record
    if not isinstance(objects, list):
        raise BrokenRecordError(f"{where}: objects must be a list, got {objects!r}")
    chosen = [o for o in objects if not (isinstance(o, Mapping) and o.get("iscrowd"))]
    boxes = [_corners(item, where) for item in chosen]
    labels = [_label(item, label_map, where) for item in chosen]
    target = BoxList(torch.tensor(boxes).reshape(-1, 4), image_size, mode="xyxy")
    target.add_field("labels", torch.tensor(labels, dtype=torch.int64))
    return target


def _corners(item: Any, where: str) -> list[float]:
    rect = item.get("rect") if isinstance(item, Mapping) else None
    if not is_box(rect):
        raise BrokenRecordError(f"{where}: rect must be four finite numbers, got {rect!r}")
    return [float(x) for x in rect]


def _label(item: Mapping[str, Any], label_map: Mapping[str, int], where: str) -> int:
    name = item.get("class")
    if name not in label_map:
        raise BrokenRecordError(f"{where}: class {name!r} is not in the label map")
    return label_map[name]
