"""What all datasets over COCO-style JSON files share."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from maskrcnn_benchmark.data.datasets.annotation_file import AnnotationFile
from maskrcnn_benchmark.data.datasets.base import ImageDataset
from maskrcnn_benchmark.data.datasets.few_shot import select_few_shot


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
    """

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
        self.annotation_file = AnnotationFile(ann_file)
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

    def sizes(self) -> np.ndarray:
        sizes = self.annotation_file.sizes
        for row in self.rows[(sizes[self.rows] <= 0).any(axis=1)]:
            width, height = Image.open(self.image_path(row)).size
            sizes[row] = height, width
        return sizes[self.rows]
