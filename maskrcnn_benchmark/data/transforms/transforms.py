"""Steps from a PIL image to a normalised tensor; boxes follow.

Every step is called with (image, target, rng) and returns (image, target). `target` is a `BoxList`
or None; fields that are no tensors must be attached after the transforms, because only tensors pass
through them. `rng` is the sample's `RandomSource`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from maskrcnn_benchmark.data.fast_pictures import Pixels
from maskrcnn_benchmark.data.image_files import Outline
from maskrcnn_benchmark.data.transforms.resize import resized_size
from maskrcnn_benchmark.errors import ConfigError
from maskrcnn_benchmark.grounding import RandomSource
from maskrcnn_benchmark.structures.bounding_box import FLIP_LEFT_RIGHT, BoxList

Picture = Image.Image | Pixels | Outline


class Compose:
    """Steps one after another; an `Outline` goes only through those that change its size."""

    def __init__(self, steps: Sequence):
        self.steps = list(steps)

    def __call__(
        self, image: Any, target: BoxList | None, rng: RandomSource
    ) -> tuple[Any, BoxList | None]:
        for step in self.steps:
            if isinstance(image, Outline) and isinstance(step, PIXEL_STEPS):
                continue
            image, target = step(image, target, rng)
        return image, target

    def __repr__(self) -> str:
        return "Compose(" + ", ".join(map(repr, self.steps)) + ")"


class Resize:
    """Bilinear resize (PIL's, with its antialiasing) to a shorter side drawn from `min_sizes`.

    Args:
        min_sizes: one size, or several of which one is drawn per image.
        max_size: cap of the longer side.
        fixed: resize to exactly (height, width) = (drawn size, `max_size`) instead.
    Raises:
        ConfigError: a size that no picture has.
    """

    def __init__(self, min_sizes: int | Sequence[int], max_size: int, *, fixed: bool = False):
        self.min_sizes = (min_sizes,) if isinstance(min_sizes, int) else tuple(min_sizes)
        for size in (*self.min_sizes, max_size):
            if size < 1:
                raise ConfigError(f"pictures cannot be resized to a side of {size} pixels")
        self.max_size = max_size
        self.fixed = fixed

    def output_size(self, image_size: tuple[int, int], rng: RandomSource) -> tuple[int, int]:
        """(height, width) for an image of (width, height)."""
        min_size = self.min_sizes[0]
        if len(self.min_sizes) > 1:
            min_size = rng.python.choice(self.min_sizes)
        if self.fixed:
            return min_size, self.max_size
        return resized_size(*image_size, min_size, self.max_size)

    def __call__(
        self, image: Picture, target: BoxList | None, rng: RandomSource
    ) -> tuple[Picture, BoxList | None]:
        height, width = self.output_size(image.size, rng)
        if (width, height) != image.size:
            image = image.resize((width, height), Image.Resampling.BILINEAR)
        if target is not None:
            target = target.resize(image.size)
        return image, target

    def __repr__(self) -> str:
        return f"Resize(min_sizes={self.min_sizes}, max_size={self.max_size}, fixed={self.fixed})"


class RandomHorizontalFlip:
    """Mirror image and boxes with probability `probability`. Captions stay, so "left" and "right"
    become wrong.
    """

    def __init__(self, probability: float):
        self.probability = probability

    def __call__(
        self, image: Picture, target: BoxList | None, rng: RandomSource
    ) -> tuple[Picture, BoxList | None]:
        if rng.python.random() < self.probability:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            if target is not None:
                target = target.transpose(FLIP_LEFT_RIGHT)
        return image, target

    def __repr__(self) -> str:
        return f"RandomHorizontalFlip({self.probability})"


class ToTensor:
    """RGB image to float32 (3, height, width) in [0, 1]."""

    def __call__(
        self, image: Image.Image, target: BoxList | None, rng: RandomSource
    ) -> tuple[torch.Tensor, BoxList | None]:
        pixels = torch.from_numpy(np.array(image, dtype=np.uint8))
        return pixels.permute(2, 0, 1).float().div_(255), target

    def __repr__(self) -> str:
        return "ToTensor()"


class NormalizePixels:
    """`ToTensor` and `Normalize` in one pass, for `fast_pictures.Pixels`.

    Args:
        mean, std, pixel_format: see `Normalize`.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float], pixel_format: str = "bgr255"):
        self.mean, self.std = list(mean), list(std)
        self.pixel_format = pixel_format.lower()
        unit = 1.0 if "255" in self.pixel_format else 255.0
        # (x / unit - mean) / std as x * scale + shift
        self._scale = [1.0 / (unit * s) for s in self.std]
        self._shift = [-m / s for m, s in zip(self.mean, self.std)]

    def __call__(
        self, image: Pixels, target: BoxList | None, rng: RandomSource
    ) -> tuple[torch.Tensor, BoxList | None]:
        planes = image.tensor.flip(0) if "bgr" in self.pixel_format else image.tensor
        normalised = torch.empty(planes.shape, dtype=torch.float32)
        for plane, out, scale, shift in zip(planes, normalised, self._scale, self._shift):
            out.copy_(plane).mul_(scale).add_(shift)
        return normalised, target

    def __repr__(self) -> str:
        return (
            f"NormalizePixels(mean={self.mean}, std={self.std}, pixel_format={self.pixel_format!r})"
        )


class Normalize:
    """Bring RGB values in [0, 1] into the channel order and range of `pixel_format`, then subtract
    and divide.

    Args:
        mean, std: per channel, in the order and range that `pixel_format` names.
        pixel_format: "bgr" in it reverses the channels, "255" multiplies by 255; case does not
            matter.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float], pixel_format: str = "bgr255"):
        self.mean = torch.tensor(mean, dtype=torch.float32)[:, None, None]
        self.std = torch.tensor(std, dtype=torch.float32)[:, None, None]
        self.pixel_format = pixel_format.lower()

    def __call__(
        self, image: torch.Tensor, target: BoxList | None, rng: RandomSource
    ) -> tuple[torch.Tensor, BoxList | None]:
        image = image.flip(0) if "bgr" in self.pixel_format else image.clone()
        if "255" in self.pixel_format:
            image = image.mul_(255)
        return image.sub_(self.mean).div_(self.std), target

    def __repr__(self) -> str:
        mean, std = self.mean.flatten().tolist(), self.std.flatten().tolist()
        return f"Normalize(mean={mean}, std={std}, pixel_format={self.pixel_format!r})"


PIXEL_STEPS = (ToTensor, NormalizePixels, Normalize)
"""Steps that read pixels, beyond the size of the picture."""
