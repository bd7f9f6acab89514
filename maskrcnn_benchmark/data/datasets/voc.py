"""PASCAL VOC in its own layout."""

import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from maskrcnn_benchmark.data.datasets.base import ImageDataset
from maskrcnn_benchmark.errors import DataError
from maskrcnn_benchmark.grounding import RandomSource
from maskrcnn_benchmark.structures.bounding_box import BoxList

CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train",
    "tvmonitor",
)  # fmt: skip


class PascalVOCDataset(ImageDataset):
    """Annotations/<id>.xml, JPEGImages/<id>.jpg, ImageSets/Main/<split>.txt under one folder.

    Args:
        data_dir: that folder.
        split: which list of ids.
        use_difficult: keep objects marked difficult (evaluation needs to know them, training leaves
            them out).
    """

    def __init__(
        self,
        data_dir: str | Path,
        split: str,
        transforms: Callable | None,
        *,
        use_difficult: bool,
        name: str | None = None,
        skip_broken: bool = False,
    ):
        super().__init__(name or f"VOC {split}", transforms, skip_broken=skip_broken)
        self.root = Path(data_dir)
        self.split = split
        self.use_difficult = use_difficult
        ids_file = self.root / "ImageSets" / "Main" / f"{split}.txt"
        if not ids_file.is_file():
            raise FileNotFoundError(f"Dataset {self.name}: {ids_file} does not exist")
        self.ids = ids_file.read_text(encoding="utf-8").split()

    def __len__(self) -> int:
        return len(self.ids)

    def image_id(self, index: int) -> int:
        """VOC's ids are text; the index stands for them."""
        return index

    def categories(self, no_background: bool = True) -> dict[int, str]:
        """Label -> class name."""
        return {i + 1: name for i, name in enumerate(CLASSES)}

    def load(self, index: int, rng: RandomSource) -> tuple:
        path = self.root / "JPEGImages" / f"{self.ids[index]}.jpg"
        image = self.read_picture(path, f"{path} of dataset {self.name}")
        target = self.get_groundtruth(index)
        if not self.use_difficult:
            target = target[~target.get_field("difficult")]
        target = target.clip_to_image(remove_empty=True)
        image, target = self.apply_transforms(image, target, rng)
        return image, target, index

    def get_groundtruth(self, index: int) -> BoxList:
        """All objects of a picture, difficult ones included; fields labels and difficult."""
        root = self._annotation(index)
        boxes, labels, difficult = [], [], []
        for item in root.iter("object"):
            name = item.findtext("name", "").strip().lower()
            if name not in CLASSES:
                raise DataError(
                    f"{self._annotation_path(index)}: {name!r} is not one of VOC's classes"
                )
            corners = [
                float(item.findtext(f"bndbox/{c}")) for c in ("xmin", "ymin", "xmax", "ymax")
            ]
            boxes.append([corner - 1 for corner in corners])
            labels.append(CLASSES.index(name) + 1)
            difficult.append(int(item.findtext("difficult", "0")) == 1)
        height, width = self.sizes()[index].tolist()
        target = BoxList(torch.tensor(boxes).reshape(-1, 4), (width, height), mode="xyxy")
        target.add_field("labels", torch.tensor(labels, dtype=torch.int64))
        target.add_field("difficult", torch.tensor(difficult, dtype=torch.bool))
        return target

    def sizes(self) -> np.ndarray:
        return self._sizes

    @cached_property
    def _sizes(self) -> np.ndarray:
        sizes = []
        for index in range(len(self)):
            size = self._annotation(index).find("size")
            sizes.append([int(size.findtext("height")), int(size.findtext("width"))])
        return np.array(sizes, dtype=np.int32).reshape(-1, 2)

    def _annotation_path(self, index: int) -> Path:
        return self.root / "Annotations" / f"{self.ids[index]}.xml"

    def _annotation(self, index: int) -> ElementTree.Element:
        try:
            return ElementTree.parse(self._annotation_path(index)).getroot()
        except ElementTree.ParseError as error:
            raise DataError(f"{self._annotation_path(index)} is not valid XML: {error}") from error
