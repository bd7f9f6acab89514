"""Detection targets from COCO-style files: labels only, no caption."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from maskrcnn_benchmark.data.datasets.json_dataset import LabelledJsonDataset
from maskrcnn_benchmark.grounding import RandomSource
from maskrcnn_benchmark.structures.bounding_box import BoxList


class COCODataset(LabelledJsonDataset):
    """Images with labelled boxes; what detection is evaluated on.

    Args:
        root: folder of the pictures.
        only_valid: leave out images without a usable box (training does).
        use_crowd: keep crowd regions as boxes.
        max_box: keep the first so many boxes of an image, in random order; 0: no limit.
        class_agnostic: every label is 1.
        sample_ratio: share of the boxes to keep (above 0), or number of them (below 0, negated); 0:
            all.
        override_category: see `LabelledJsonDataset`.
    """

    def __init__(
        self,
        root: str | Path,
        ann_file: str | Path,
        transforms: Callable | None,
        *,
        only_valid: bool = False,
        use_crowd: bool = False,
        max_box: int = 0,
        class_agnostic: bool = False,
        sample_ratio: float = 0.0,
        few_shot: int = 0,
        shuffle_seed: int = 0,
        name: str | None = None,
        skip_broken: bool = False,
        override_category: Sequence[Mapping[str, Any]] | None = None,
    ):
        super().__init__(
            root,
            ann_file,
            transforms,
            only_valid=only_valid,
            few_shot=few_shot,
            shuffle_seed=shuffle_seed,
            name=name,
            skip_broken=skip_broken,
            override_category=override_category,
        )
        self.use_crowd = use_crowd
        self.max_box = max_box
        self.class_agnostic = class_agnostic
        self.sample_ratio = sample_ratio

    @property
    def json_category_id_to_contiguous_id(self) -> dict[int, int]:
        """Category id of the file -> label."""
        return self.category_table.json_to_label

    @property
    def contiguous_category_id_to_json_id(self) -> dict[int, int]:
        """Label -> category id of the file."""
        return self.category_table.label_to_json

    def load(self, index: int, rng: RandomSource) -> tuple:
        row = self.rows[index]
        image = self.read_image(row)
        annotations = self.annotation_file.annotations(row)
        if not self.use_crowd:
            annotations = annotations.select(~annotations.iscrowd)
        if 0 < self.max_box < len(annotations):
            annotations = annotations.select(rng.numpy.permutation(self.max_box))
        target = self.labelled_boxes(annotations, image.size)
        if self.class_agnostic:
            target.add_field("labels", torch.ones(len(target), dtype=torch.int64))
        target = target.clip_to_image(remove_empty=True)
        image, target = self.apply_transforms(image, target, rng)
        return image, self._sample_boxes(target, rng), index

    def _sample_boxes(self, target: BoxList, rng: RandomSource) -> BoxList:
        if self.sample_ratio == 0:
            return target
        wanted = -self.sample_ratio if self.sample_ratio < 0 else len(target) * self.sample_ratio
        count = min(math.ceil(wanted), len(target))
        chosen = np.sort(rng.numpy.permutation(len(target))[:count])
        return target[torch.from_numpy(chosen)]
