"""Reading pictures."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from maskrcnn_benchmark.errors import DataError

_Seen = TypeVar("_Seen")


class BrokenSampleError(DataError):
    """One sample of a dataset cannot be used; the others can."""


class BrokenRecordError(BrokenSampleError):
    """A record that is not what its file should hold."""


class UnreadableImageError(BrokenSampleError, OSError):
    """The file exists but is no picture, or a broken one."""


def read_rgb(file: str | Path | BinaryIO, name: str) -> Image.Image:
    """Decode a whole picture as RGB.

    Args:
        file: path or opened bytes.
        name: how messages call it.
    Raises:
        FileNotFoundError: there is no such file.
        UnreadableImageError: it cannot be decoded, or its values have no known range.
    """
    return _look_into(file, name, lambda image: _to_rgb(image, image.format))


def read_upright_rgb(file: str | Path | BinaryIO, name: str) -> Image.Image:
    """`read_rgb`, turned upright as the EXIF of the file says."""
    return _look_into(
        file, name, lambda image: _to_rgb(ImageOps.exif_transpose(image), image.format)
    )


class Outline:
    """A picture of which nothing but the size is known; it takes the place of a PIL image.

    Args:
        size: (width, height).
    """

    def __init__(self, size: tuple[int, int]):
        self.size = size

    def resize(self, size: tuple[int, int], resample: int) -> "Outline":
        """The outline at (width, height)."""
        return Outline(size)

    def transpose(self, method: int) -> "Outline":
        """The mirrored outline."""
        return self

    def blank(self) -> torch.Tensor:
        """Zeros (3, height, width) that take no memory."""
        width, height = self.size
        return torch.zeros(()).expand(3, height, width)


def read_outline(file: str | Path | BinaryIO, name: str) -> Outline:
    """Size of a picture from the head of its file; arguments and errors as in `read_rgb`."""
    return _look_into(file, name, lambda image: Outline(image.size))


def _look_into(
    file: str | Path | BinaryIO, name: str, function: Callable[[Image.Image], _Seen]
) -> _Seen:
    try:
        with Image.open(file) as image:
            return function(image)
    except FileNotFoundError:
        raise missing_picture(name) from None
    # Pillow reports broken files by any of these, depending on the format.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        unknown = isinstance(error, UnidentifiedImageError)
        reason = "it is in no known picture format" if unknown else error
        raise UnreadableImageError(f"Image {name} cannot be decoded: {reason}") from error


def _to_rgb(image: Image.Image, file_format: str | None) -> Image.Image:
    """Any picture as 8-bit RGB.

    Raises:
        ValueError: the values have no range that would say what is black and what is white.
    """
    # Pillow reads 16-bit PGM files, and older versions such PNG files, as 32-bit numbers.
    has_16_bits = image.mode.startswith("I;16") or (
        image.mode == "I" and file_format in ("PNG", "PPM")
    )
    if image.mode in ("I", "F") and not has_16_bits:
        kind = "whole numbers" if image.mode == "I" else "floating-point numbers"
        raise ValueError(f"its values are 32-bit {kind}; save it with 8 or 16 bits per channel")
    if has_16_bits:
        # Pillow clips at 255 instead, which leaves nearly everything white.
        values = np.asarray(image).astype(np.uint32)
        image = Image.fromarray(((values + 128) // 257).astype(np.uint8))
    return image.convert("RGB")


def missing_picture(name: str) -> FileNotFoundError:
    """The error of a picture that is not there."""
    return FileNotFoundError(
        f"Image {name} does not exist. Is the image folder of the dataset right?"
    )


PictureReader = Callable[[str | Path | BinaryIO, str], Any]
"""What decodes pictures: `read_rgb`, or `fast_pictures.read_pixels` with the same arguments."""
