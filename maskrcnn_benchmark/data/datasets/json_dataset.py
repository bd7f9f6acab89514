"""What all datasets over COCO-style JSON files share."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from maskrcnn_benchmark.data.datasets.annotation_file import AnnotationFile, ImageAnnotations
from maskrcnn_benchmark.data.datasets.base import ImageDataset
from maskrcnn_benchmark.data.datasets.categories import read_categories
from maskrcnn_benchmark.data.datasets.few_shot import select_few_shot
from maskrcnn_benchmark.structures.bounding_box import BoxList


class JsonDataset(ImageDataset):
    """Samples are images of an annotation file, sorted by id.

    Args:
        img_folder: where the pictures lie.
        ann_file: COCO-style JSON file.
        only_valid: leave out images without a usable box.
        name: what messages call the dataset; default: the annotation file.
        few_shot: images per class to choose; 0: all.
        shuffle_seed: which few-shot images; 0 takes the first ones by id, as the original did.

    Attributes:
        annotation_file: the file's content.
        rows: (num_samples,) rows of the file that are samples.
        picture_fields: of an image in the file; the first that it has names its picture.
    """

    picture_fields: Sequence[str] = ("file_name",)

    def __init__(
        self,
        img_folder: str | Path,
        ann_file: str | Path,
        transforms: Callable | None,
        *,
        only_valid: bool,
        few_shot: int = 0,
        shuffle_seed: int = 0,
        name: str | None = None,
        skip_broken: bool = False,
    ):
        super().__init__(name or str(ann_file), transforms, skip_broken=skip_broken)
        self.root = Path(img_folder)
        self.ann_file = str(ann_file)
        self.annotation_file = AnnotationFile(ann_file, self.picture_fields)
        rows = np.arange(len(self.annotation_file))
        if only_valid:
            rows = self.annotation_file.valid_rows()
        if few_shot > 0:
            chosen = select_few_shot(
                rows, self.annotation_file.category_ids_of, few_shot, shuffle_seed
            )
            rows = np.array(chosen, dtype=np.int64)
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def ids(self) -> list[int]:
        """Image id of every sample."""
        return self.annotation_file.image_ids[self.rows].tolist()

    @property
    def id_to_img_map(self) -> dict[int, int]:
        """Sample number -> image id."""
        return dict(enumerate(self.ids))

    def image_id(self, index: int) -> int:
        return int(self.annotation_file.image_ids[self.rows[index]])

    def image_path(self, row: int) -> Path:
        """Picture of one row of the annotation file."""
        return self.root / self.annotation_file.entry(row)["file_name"]

    def read_image(self, row: int) -> Image.Image:
        """The picture as RGB."""
        path = self.image_path(row)
        return self.read_picture(path, f"{path} of dataset {self.name}")

    def clipped_annotations(
        self, row: int, image_size: tuple[int, int]
    ) -> tuple[ImageAnnotations, torch.Tensor]:
        """Annotations of one row of the file that mean a single thing inside the image.

        Returns:
            the annotations, and their (n, 4) corners clipped to an image of (width, height).
        """
        annotations = self.annotation_file.annotations(row)
        annotations = annotations.select(~annotations.iscrowd)
        boxes = _clipped_corners(torch.from_numpy(annotations.boxes), image_size)
        keep = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
        return annotations.select(keep.numpy()), boxes[keep]

    def sizes(self) -> np.ndarray:
        sizes = self.annotation_file.sizes
        for row in self.rows[(sizes[self.rows] <= 0).any(axis=1)]:
            with Image.open(self.image_path(row)) as image:
                sizes[row] = image.height, image.width
        return sizes[self.rows]


class LabelledJsonDataset(JsonDataset):
    """Samples whose boxes have labels that count from 1, in the order of the category ids.

    Args:
        override_category: see `read_categories`.
        options: see `JsonDataset`.

    Attributes:
        category_table: the classes.
    """

    def __init__(
        self,
        img_folder: str | Path,
        ann_file: str | Path,
        transforms: Callable | None,
        *,
        override_category: Sequence[Mapping[str, Any]] | None = None,
        **options: Any,
    ):
        super().__init__(img_folder, ann_file, transforms, **options)
        self.category_table = read_categories(
            self.annotation_file.categories,
            self.annotation_file.used_category_ids(),
            self.ann_file,
            override_category,
        )

    def categories(self, no_background: bool = True) -> dict[int, str]:
        """Label -> class name."""
        table = self.category_table
        return dict(table.foreground if no_background else table.names)

    def labelled_boxes(self, annotations: ImageAnnotations, image_size: tuple[int, int]) -> BoxList:
        """Boxes of an image of (width, height), corners and the field labels."""
        to_label = self.category_table.json_to_label
        labels = [to_label[category] for category in annotations.category_ids.tolist()]
        boxes = BoxList(torch.from_numpy(annotations.boxes), image_size, mode="xywh")
        boxes = boxes.convert("xyxy")
        boxes.add_field("labels", torch.tensor(labels, dtype=torch.int64))
        return boxes


def _clipped_corners(boxes: torch.Tensor, image_size: tuple[int, int]) -> torch.Tensor:
    """x, y, width, height to inclusive corners inside an image of (width, height): (n, 4)."""
    width, height = image_size
    x, y, w, h = boxes.unbind(1)
    corners = [x, y, x + w - 1, y + h - 1]
    limits = [width - 1, height - 1, width - 1, height - 1]
    return torch.stack([c.clamp(0, limit) for c, limit in zip(corners, limits)], dim=1)
