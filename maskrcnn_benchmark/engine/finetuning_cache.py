"""Frozen encoders are run once per image and caption, not once per epoch."""

import hashlib
import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from maskrcnn_benchmark.config import CfgNode
from maskrcnn_benchmark.data.datasets.base import ImageDataset
from maskrcnn_benchmark.data.datasets.concat import single_dataset
from maskrcnn_benchmark.modeling.detector import GeneralizedVLRCNN
from maskrcnn_benchmark.modeling.language_backbone.text_features import TextFeatures
from maskrcnn_benchmark.structures.image_list import ImageList, to_image_list

logger = logging.getLogger(__name__)

_MAX_CAPTIONS = 64


class FrozenFeatures:
    """Remembers what the frozen encoders of a model gave.

    Visual features are found again by the number of the picture in the training set, or else by the
    pixels themselves, and by padding and precision. Images that are not known are encoded with the
    padding of their batch, as without the cache. When the memory is used up, nothing new is kept.

    Pictures of the training set whose features are known are not read again. Padding follows the
    other pictures of a batch, so one may be missing all the same; then it is read here.

    Args:
        model: encoders that are frozen are wrapped, in this instance only; see :meth:`close`.
        max_bytes: for visual features, on the device of the model.
        dataset: the training set, if all numbers of pictures are its own and every picture looks
            the same in every epoch.
    """

    def __init__(
        self, model: GeneralizedVLRCNN, max_bytes: int, dataset: ImageDataset | None = None
    ) -> None:
        self.model = model
        self.max_bytes = max_bytes
        self.bytes = self.hits = self.misses = 0
        self._visual: dict[tuple, list[Tensor]] = {}
        self._text: dict[tuple, TextFeatures] = {}
        self._encode_images, self._encode_text = model.encode_images, model.encode_text
        self._dataset = self._known = None
        self._paddings: set[tuple] = set()
        if encodes_images_alike(model):
            model.encode_images = self.encode_images
            if dataset is not None:
                self._dataset, self._known = dataset, dataset.skip_known_pictures()
        if encodes_text_alike(model):
            model.encode_text = self.encode_text

    def close(self) -> None:
        """Give the model its own methods back, and forget everything."""
        for name in ("encode_images", "encode_text"):
            self.model.__dict__.pop(name, None)
        self._visual.clear()
        self._text.clear()
        self._paddings.clear()
        self.bytes = 0
        if self._known is not None:
            self._known.zero_()

    @torch.no_grad()
    def encode_images(self, images: ImageList | Tensor | Sequence[Tensor]) -> list[Tensor]:
        """Pyramid maps ``[B, C, H_l, W_l]``, finest first; see ``GeneralizedVLRCNN``."""
        images = to_image_list(images)
        padding = (tuple(images.tensors.shape[1:]), _precision(self.model.device))
        numbered = self._dataset is not None and images.ids is not None
        names = images.ids if numbered else [_digest(image) for image in images.tensors]
        keys = [(name, *padding) for name in names]
        unknown = [place for place, key in enumerate(keys) if key not in self._visual]
        self.misses += len(unknown)
        self.hits += len(keys) - len(unknown)
        fresh: dict[tuple, list[Tensor]] = {}
        if unknown:
            maps = self._encode_images(self._with_pixels(images, unknown))
            for row, place in enumerate(unknown):
                # Channels innermost, as the head reads them.
                fresh[keys[place]] = [level[row].movedim(0, -1).contiguous() for level in maps]
        rows = [fresh[key] if key in fresh else self._visual[key] for key in keys]
        for key, levels in fresh.items():
            self._keep(key, levels)
        if numbered:
            self._paddings.add(padding)
            for number, size in zip(images.ids, images.image_sizes):
                self._known[number] = self._is_known(number, size)
        return [torch.stack(level).movedim(-1, 1) for level in zip(*rows)]

    def _is_known(self, number: int, size: tuple[int, int]) -> bool:
        """Whether a picture is known under every padding so far that it fits into."""
        return all(
            (number, shape, precision) in self._visual
            for shape, precision in self._paddings
            if shape[1] >= size[0] and shape[2] >= size[1]
        )

    def _with_pixels(self, images: ImageList, places: list[int]) -> ImageList:
        """Some images of a batch; those that were not read are read now."""
        tensors = images.tensors[places]
        for row, place in enumerate(places):
            if place in images.unread:
                picture = self._dataset.picture(images.ids[place])
                tensors[row, :, : picture.shape[1], : picture.shape[2]] = picture
        return ImageList(tensors, [images.image_sizes[place] for place in places])

    def _keep(self, key: tuple, levels: list[Tensor]) -> None:
        size = sum(level.numel() * level.element_size() for level in levels)
        if self.bytes + size > self.max_bytes:
            return
        self._visual[key] = levels
        self.bytes += size

    @torch.no_grad()
    def encode_text(
        self, captions: Sequence[str], greenlight_map: Tensor | None = None
    ) -> TextFeatures:
        """Features of captions; see ``GeneralizedVLRCNN``."""
        precision = _precision(self.model.device)
        if len(set(captions)) > 1:
            # Slots follow the longest caption of a batch, and shuffled captions seldom recur.
            return self._encode_text(captions, greenlight_map)
        key = (captions[0], precision)
        if key not in self._text:
            text = self._encode_text(captions[:1])
            if len(self._text) >= _MAX_CAPTIONS:
                self._text.clear()
            self._text[key] = text
        text = self._text[key]
        count = len(captions)
        return text.expand(count)


def encodes_images_alike(model: GeneralizedVLRCNN) -> bool:
    """True if the same picture always gives the same features."""
    # FIBER's encoders read each other; what its first stage gives is not the costly part.
    plain = type(model) is GeneralizedVLRCNN
    has_fpn = hasattr(model.backbone, "fpn") if plain else False
    return plain and model.freezing.backbone_body and (model.freezing.fpn or not has_fpn)


def encodes_text_alike(model: GeneralizedVLRCNN) -> bool:
    """True if the same caption always gives the same features."""
    plain = type(model) is GeneralizedVLRCNN
    return plain and model.freezing.language_backbone and not model.text.mask_for_prediction


def pictures_recur(cfg: CfgNode) -> bool:
    """True if augmentation leaves every picture as it is from epoch to epoch."""
    augment = cfg.AUGMENT
    return augment.FLIP_PROB_TRAIN in (0.0, 1.0) and len(set(augment.MULT_MIN_SIZE_TRAIN)) <= 1


def build_frozen_features(
    cfg: CfgNode, model: GeneralizedVLRCNN, dataset: Dataset
) -> FrozenFeatures | None:
    """Cache of SOLVER.FROZEN_CACHE_MIB for a model whose backbone is frozen; None without use.

    Args:
        dataset: the training set; its loader must not have started.
    """
    if cfg.SOLVER.FROZEN_CACHE_MIB <= 0 or not encodes_images_alike(model):
        return None
    if not pictures_recur(cfg):
        logger.info(
            "the visual backbone is frozen, but augmentation changes every picture: with "
            "AUGMENT.FLIP_PROB_TRAIN 0.0 and AUGMENT.MULT_MIN_SIZE_TRAIN '()' its features would "
            "be computed once instead of in every epoch"
        )
        return None
    logger.info(
        "features of frozen encoders are kept, up to %d MiB (SOLVER.FROZEN_CACHE_MIB)",
        cfg.SOLVER.FROZEN_CACHE_MIB,
    )
    max_bytes = cfg.SOLVER.FROZEN_CACHE_MIB * 2**20
    return FrozenFeatures(model, max_bytes, single_dataset(dataset))


def _precision(device: torch.device) -> Any:
    if not torch.is_autocast_enabled(device.type):
        return None
    return torch.get_autocast_dtype(device.type)


def _digest(image: Tensor) -> bytes:
    pixels = image.detach().cpu().contiguous()
    return hashlib.sha256(memoryview(pixels.numpy()).cast("B")).digest()
