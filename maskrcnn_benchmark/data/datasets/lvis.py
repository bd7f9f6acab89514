"""LVIS as it is evaluated: federated annotations, original category ids."""

from collections.abc import Callable
from pathlib import Path

import torch

from maskrcnn_benchmark.data.datasets.json_dataset import JsonDataset
from maskrcnn_benchmark.grounding import RandomSource


class LvisDetection(JsonDataset):
    """All images of an LVIS file. The target is a dict; labels are LVIS category ids.

    Pictures lie at the last two parts of `coco_url` (or at `file_name`) under the image folder.
    """

    picture_fields = ("coco_url", "file_name")

    def __init__(
        self,
        img_folder: str | Path,
        ann_file: str | Path,
        transforms: Callable | None,
        name: str | None = None,
    ):
        super().__init__(img_folder, ann_file, transforms, only_valid=False, name=name)

    def categories(self, no_background: bool = True) -> dict[int, str]:
        """Category id -> name, sorted by id."""
        names = {c["id"]: c["name"] for c in self.annotation_file.categories}
        return dict(sorted(names.items()))

    def image_path(self, row: int) -> Path:
        entry = self.annotation_file.entry(row)
        if "coco_url" in entry:
            return self.root.joinpath(*entry["coco_url"].split("/")[-2:])
        return self.root / entry["file_name"]

    def load(self, index: int, rng: RandomSource) -> tuple:
        row = self.rows[index]
        image = self.read_image(row)
        width, height = image.size
        annotations, boxes = self.clipped_annotations(row, image.size)
        target = {
            "image_id": torch.tensor([self.image_id(index)]),
            "boxes": boxes,
            "labels": torch.from_numpy(annotations.category_ids.astype("int64")),
            "area": torch.from_numpy(annotations.areas),
            "iscrowd": torch.zeros(len(annotations), dtype=torch.int64),
            "orig_size": torch.tensor([height, width]),
            "size": torch.tensor([height, width]),
        }
        image, _ = self.apply_transforms(image, None, rng)
        return image, target, index
