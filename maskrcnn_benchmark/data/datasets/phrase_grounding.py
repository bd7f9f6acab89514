"""MDETR-style files: every image entry is one sentence about a picture, boxes name the words they
belong to.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from maskrcnn_benchmark.data.datasets.caption_record import check_spans
from maskrcnn_benchmark.data.datasets.grounding_target import (
    NOT_DETECTION,
    GroundedBoxes,
    GroundedText,
    GroundingTargetBuilder,
)
from maskrcnn_benchmark.data.datasets.json_dataset import JsonDataset
from maskrcnn_benchmark.grounding import RandomSource

_COPIED_FIELDS = ("dataset_name", "sentence_id", "original_img_id", "original_id", "task_id")


class ModulatedDataset(JsonDataset):
    """Sentences with boxes. Sentences without a usable box are left out, also in evaluation.

    Args:
        is_train: leave out the map of evaluated phrases.
        targets: builds the targets.
        masking_allowed: False keeps the captions out of masked-language modelling.
    """

    has_captions = True

    def __init__(
        self,
        img_folder: str | Path,
        ann_file: str | Path,
        transforms: Callable | None,
        *,
        targets: GroundingTargetBuilder,
        is_train: bool = False,
        masking_allowed: bool = True,
        name: str | None = None,
        skip_broken: bool = False,
    ):
        super().__init__(
            img_folder, ann_file, transforms, only_valid=True, name=name, skip_broken=skip_broken
        )
        self.is_train = is_train
        self.targets = targets
        self.masking_allowed = masking_allowed

    def load(self, index: int, rng: RandomSource) -> tuple:
        row = self.rows[index]
        entry = self.annotation_file.entry(row)
        image = self.read_image(row)
        caption = entry["caption"]
        phrases = None if self.is_train else entry.get("tokens_positive_eval")
        where = f"{self.ann_file}: image {self.image_id(index)}"
        check_spans(self.annotation_file.annotations(row).spans, caption, where)
        check_spans(phrases or (), caption, where)
        text = GroundedText(
            caption,
            masking_spans=[(0, len(caption))],
            masking_allowed=self.masking_allowed,
            phrases_eval=phrases,
        )
        extra = {"image_id": torch.tensor([self.image_id(index)])}
        extra |= {name: entry[name] for name in _COPIED_FIELDS if name in entry}
        image, target = self.targets.build(
            image, self._boxes(row, image.size), text, self.apply_transforms, rng, extra
        )
        return image, target, index

    def pictures(self) -> np.ndarray:
        """(num_samples,) equal numbers where sentences are about one picture."""
        paths = [str(self.image_path(row)) for row in self.rows]
        return np.unique(paths, return_inverse=True)[1]

    def _boxes(self, row: int, image_size: tuple[int, int]) -> GroundedBoxes:
        annotations, boxes = self.clipped_annotations(row, image_size)
        return GroundedBoxes(
            boxes=boxes,
            labels=torch.from_numpy(annotations.category_ids.astype("int64")),
            areas=torch.from_numpy(annotations.areas),
            iscrowd=torch.zeros(len(annotations), dtype=torch.int64),
            tokens_positive=annotations.spans,
            od_labels=torch.full((len(annotations),), NOT_DETECTION),
        )


class FlickrDataset(ModulatedDataset):
    """Flickr30k Entities: phrases of a sentence."""


class RefExpDataset(ModulatedDataset):
    """Referring expressions (RefCOCO, RefCOCO+, RefCOCOg): one box per sentence.

    Captions are not rewritten by the horizontal flip, so train with AUGMENT.FLIP_PROB_TRAIN 0.
    """


class GQADataset(ModulatedDataset):
    """Phrases of GQA questions."""


class PhrasecutDetection(ModulatedDataset):
    """PhraseCut phrases with all their boxes."""


class MixedDataset(ModulatedDataset):
    """MDETR's mixture of COCO and Visual Genome pictures (GoldG without Flickr).

    Args:
        img_folder_coco, img_folder_vg: where pictures with `data_source` "coco", and all others,
            lie.
    """

    def __init__(self, img_folder_coco: str | Path, img_folder_vg: str | Path, *args, **kwargs):
        super().__init__(img_folder_coco, *args, **kwargs)
        self.vg_root = Path(img_folder_vg)

    def image_path(self, row: int) -> Path:
        entry = self.annotation_file.entry(row)
        root = self.root if entry.get("data_source") == "coco" else self.vg_root
        return root / entry["file_name"]
