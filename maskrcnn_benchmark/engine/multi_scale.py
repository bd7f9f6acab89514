"""Evaluation over several sizes of each image and their mirror images (TEST.USE_MULTISCALE)."""

from typing import Any

import torch
from PIL import Image

from maskrcnn_benchmark.data.collate import Batch
from maskrcnn_benchmark.data.transforms import (
    Compose,
    RandomHorizontalFlip,
    Resize,
    ToTensor,
    build_normalize,
)
from maskrcnn_benchmark.grounding import RandomSource
from maskrcnn_benchmark.modeling.test_time_augmentation import (
    MultiViewDetector,
    View,
    build_multi_view_detector,
)
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.image_list import to_image_list

from .detectors import ImageDetector


class MultiScaleDetector:
    """Looks at every picture in several sizes and merges what it finds, over all captions.

    Args:
        detector: finds boxes in one size; its model's post-processor must leave the suppression to
            the merging.
        views: the sizes, and how detections are merged.
        normalize: last step from a picture to the input of the network.
        size_divisible: multiple to which a batch of inputs is padded.
    """

    def __init__(
        self,
        detector: ImageDetector,
        views: MultiViewDetector,
        normalize: Any,
        size_divisible: int,
    ) -> None:
        self.detector = detector
        self.views = views
        self.normalize = normalize
        self.size_divisible = size_divisible

    def __call__(self, batch: Batch) -> list[BoxList]:
        """Detections of every picture on the CPU, in its own pixels.

        Args:
            batch: with the pictures as they are, see ``data.collate.RawImageCollator``.
        """

        def detect(inputs: list[torch.Tensor]) -> list[BoxList]:
            images = to_image_list(inputs, self.size_divisible)
            return self.detector.detect(images, batch.targets)

        sizes = [picture.size for picture in batch.images]
        return self.views(batch.images, sizes, self._prepare, detect)

    def _prepare(self, picture: Image.Image, view: View) -> torch.Tensor:
        steps = [
            Resize(view.short_side, view.max_size),
            RandomHorizontalFlip(1.0 if view.flip else 0.0),
            ToTensor(),
            self.normalize,
        ]
        pixels, _ = Compose(steps)(picture, None, RandomSource())
        return pixels


def build_multi_scale_detector(cfg: Any, detector: ImageDetector) -> MultiScaleDetector:
    """Wrap a detector as ``TEST.SCALES``, ``TEST.FLIP``, ``TEST.SPECIAL_NMS``, ... ask."""
    return MultiScaleDetector(
        detector,
        build_multi_view_detector(cfg),
        build_normalize(cfg),
        cfg.DATALOADER.SIZE_DIVISIBILITY,
    )
