"""Detection data in TSV files."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from maskrcnn_benchmark.data.datasets.base import ImageDataset
from maskrcnn_benchmark.data.datasets.detection_captions import (
    DetectionCaptioner,
    caption_boxes,
    inside_image,
)
from maskrcnn_benchmark.data.datasets.grounding_target import GroundingTargetBuilder
from maskrcnn_benchmark.data.datasets.tsv_file import BrokenRecordError
from maskrcnn_benchmark.data.datasets.tsv_source import TSVSource
from maskrcnn_benchmark.grounding import RandomSource
from maskrcnn_benchmark.grounding.od_to_grounding import BACKGROUND_NAME
from maskrcnn_benchmark.structures.bounding_box import BoxList

logger = logging.getLogger(__name__)


class TSVDataset(ImageDataset):
    """What datasets in TSV files share: pictures by sample.

    Args:
        name: what messages call the dataset.
        yaml_file: see `TSVSource`.
    """

    def __init__(
        self,
        name: str,
        yaml_file: str | Path,
        transforms: Callable | None,
        *,
        skip_broken: bool = False,
        clean_labels: bool = False,
    ):
        super().__init__(name, transforms, skip_broken=skip_broken)
        self.source = TSVSource(yaml_file, clean_labels=clean_labels)
        if self.source.labels is None:
            raise ValueError(f"{self.source.path} lacks the key 'label'")
        self._keys_differ = False

    def __len__(self) -> int:
        return len(self.source)

    @property
    def id_to_img_map(self) -> dict[int, int]:
        """Sample number -> image id."""
        return {index: self.image_id(index) for index in range(len(self))}

    def image_id(self, index: int) -> int:
        """Key of the row where it is a number, else the row."""
        row = self.source.row(index)
        key = self.source.labels.key(row)
        return int(key) if key.isdecimal() else row

    def sizes(self) -> np.ndarray:
        return self.source.sizes()

    def read_image(self, row: int):
        """Picture that stands in the same row as its labels."""
        image = self.source.images.image(row)
        keys = self.source.images.key(row), self.source.labels.key(row)
        if keys[0] != keys[1] and not self._keys_differ:
            self._keys_differ = True
            logger.warning(
                "Dataset %s: row %d is %r among the images and %r among the labels. Rows must "
                "correspond. This is "
                "said once.",
                self.name,
                row + 1,
                *keys,
            )
        return image


class ODTSVDataset(TSVDataset):
    """Pictures with labelled boxes; no caption.

    Attributes:
        label_map: class name -> label.
    """

    def __init__(
        self,
        name: str,
        yaml_file: str | Path,
        transforms: Callable | None,
        *,
        skip_broken: bool = False,
    ):
        super().__init__(name, yaml_file, transforms, skip_broken=skip_broken)
        self.label_map = self.source.label_map()

    def categories(self, no_background: bool = True) -> dict[int, str]:
        """Label -> class name in the order of the label map."""
        names = {label: name for name, label in self.label_map.items()}
        if no_background:
            del names[self.label_map[BACKGROUND_NAME]]
        return names

    def read_boxes(self, row: int, image_size: tuple[int, int]) -> BoxList:
        """Boxes of a row with field labels, as they stand in the file.

        Raises:
            BrokenRecordError: the record is malformed.
        """
        record = self.source.labels.json(row)
        objects = record.get("objects", []) if isinstance(record, Mapping) else record
        where = f"{self.source.labels.path}: row {row + 1}"
        boxes = [_corners(item, where) for item in objects]
        labels = [self._label(item, where) for item in objects]
        target = BoxList(torch.tensor(boxes).reshape(-1, 4), image_size, mode="xyxy")
        target.add_field("labels", torch.tensor(labels, dtype=torch.int64))
        return target

    def load(self, index: int, rng: RandomSource) -> tuple:
        row = self.source.row(index)
        image = self.read_image(row)
        target = self.read_boxes(row, image.size).clip_to_image(remove_empty=False)
        image, target = self.apply_transforms(image, target, rng)
        return image, target, index

    def _label(self, item: Mapping[str, Any], where: str) -> int:
        name = item.get("class")
        if name not in self.label_map:
            raise BrokenRecordError(f"{where}: class {name!r} is not in the label map")
        return self.label_map[name]


class CocoDetectionTSV(ODTSVDataset):
    """Detection data in TSV files, served as grounding data with captions of sampled classes.

    Args:
        make_captioner: from the class table (label -> name, background included) to what writes the
            captions.
        targets: builds the targets.
        clip: clip boxes to the image and drop empty ones.
        masking_allowed: False keeps the captions out of masked-language modelling.
    """

    def __init__(
        self,
        name: str,
        yaml_file: str | Path,
        transforms: Callable | None,
        *,
        make_captioner: Callable[[Mapping[int, str]], DetectionCaptioner],
        targets: GroundingTargetBuilder,
        clip: bool = True,
        masking_allowed: bool = True,
        skip_broken: bool = False,
    ):
        super().__init__(name, yaml_file, transforms, skip_broken=skip_broken)
        self.targets = targets
        self.clip = clip
        self.masking_allowed = masking_allowed
        self.captioner = make_captioner(self.categories(no_background=False))

    def load(self, index: int, rng: RandomSource) -> tuple:
        row = self.source.row(index)
        image = self.read_image(row)
        grounded, text = caption_boxes(
            inside_image(self.read_boxes(row, image.size), clip=self.clip),
            self.captioner,
            rng,
            masking_allowed=self.masking_allowed,
            pass_classes_on=True,
        )
        extra = {"image_id": torch.tensor([self.image_id(index)])}
        image, target = self.targets.build(image, grounded, text, self.apply_transforms, rng, extra)
        return image, target, index


def _corners(item: Any, where: str) -> list[float]:
    rect = item.get("rect") if isinstance(item, Mapping) else None
    is_box = isinstance(rect, list) and len(rect) == 4
    if not is_box or not all(isinstance(x, (int, float)) and np.isfinite(x) for x in rect):
        raise BrokenRecordError(f"{where}: rect must be four finite numbers, got {rect!r}")
    return [float(x) for x in rect]
