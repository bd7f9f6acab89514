"""Pictures in which there is nothing to find."""

from collections.abc import Callable
from pathlib import Path

import torch

from maskrcnn_benchmark.data.datasets.json_dataset import JsonDataset
from maskrcnn_benchmark.grounding import RandomSource
from maskrcnn_benchmark.structures.bounding_box import BoxList


class Background(JsonDataset):
    """Images of a COCO-style list, each with an empty target; annotations are not read."""

    def __init__(
        self,
        root: str | Path,
        ann_file: str | Path,
        transforms: Callable | None,
        *,
        name: str | None = None,
        skip_broken: bool = False,
    ):
        super().__init__(
            root, ann_file, transforms, only_valid=False, name=name, skip_broken=skip_broken
        )

    def load(self, index: int, rng: RandomSource) -> tuple:
        image = self.read_image(self.rows[index])
        target = BoxList(torch.zeros(0, 4), image.size, mode="xyxy")
        target.add_field("labels", torch.zeros(0, dtype=torch.int64))
        image, target = self.apply_transforms(image, target, rng)
        return image, target, index
