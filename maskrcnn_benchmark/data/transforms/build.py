"""Transforms as the configuration asks for them."""

import logging

from maskrcnn_benchmark.config import CfgNode
from maskrcnn_benchmark.config import cfg as default_config
from maskrcnn_benchmark.data.transforms.transforms import (
    Compose,
    Normalize,
    NormalizePixels,
    RandomHorizontalFlip,
    Resize,
    ToTensor,
)
from maskrcnn_benchmark.errors import ConfigError

logger = logging.getLogger(__name__)

# All that is read of AUGMENT. The original names many more augmentations and never applies them;
# whoever sets one should learn that.
_WITH_EFFECT = ("MULT_MIN_SIZE_TRAIN", "FLIP_PROB_TRAIN")


def build_transforms(cfg: CfgNode, is_train: bool) -> Compose:
    """Resize, horizontal flip, tensor, normalisation; nothing else is ever applied."""
    if is_train:
        for key, value in cfg.AUGMENT.items():
            if key not in _WITH_EFFECT and value != default_config.AUGMENT[key]:
                logger.warning("AUGMENT.%s is %s but has no effect", key, value)
        min_sizes = cfg.AUGMENT.MULT_MIN_SIZE_TRAIN or cfg.INPUT.MIN_SIZE_TRAIN
        max_size = cfg.INPUT.MAX_SIZE_TRAIN
        flip_probability = cfg.AUGMENT.FLIP_PROB_TRAIN
    else:
        min_sizes, max_size = cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST
        flip_probability = 0.0
    to_input = [ToTensor(), build_normalize(cfg)]
    if picture_backend(cfg) == "torchvision":
        to_input = [NormalizePixels(*_normalisation(cfg))]
    return Compose(
        [
            Resize(min_sizes, max_size, fixed=cfg.INPUT.FIX_RES),
            RandomHorizontalFlip(flip_probability),
            *to_input,
        ]
    )


def picture_backend(cfg: CfgNode) -> str:
    """INPUT.IMAGE_BACKEND.

    Raises:
        ConfigError: neither "pil" nor "torchvision".
    """
    backend = cfg.INPUT.IMAGE_BACKEND
    if backend not in ("pil", "torchvision"):
        raise ConfigError(f"INPUT.IMAGE_BACKEND must be 'pil' or 'torchvision', not {backend!r}")
    return backend


def build_normalize(cfg: CfgNode) -> Normalize:
    """Normalisation by INPUT.FORMAT, or by INPUT.TO_BGR255 where that is empty.

    Raises:
        ConfigError: neither says what the network sees.
    """
    return Normalize(*_normalisation(cfg))


def _normalisation(cfg: CfgNode) -> tuple:
    pixel_format = cfg.INPUT.FORMAT or ("bgr255" if cfg.INPUT.TO_BGR255 else "")
    if not pixel_format:
        raise ConfigError(
            "INPUT.TO_BGR255 is False and INPUT.FORMAT empty: set INPUT.FORMAT, for example to "
            "'rgb' or 'bgr255'"
        )
    return cfg.INPUT.PIXEL_MEAN, cfg.INPUT.PIXEL_STD, pixel_format
