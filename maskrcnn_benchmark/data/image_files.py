"""Reading pictures."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image, UnidentifiedImageError

from maskrcnn_benchmark.errors import DataError


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
        UnreadableImageError: it cannot be decoded.
    """
    try:
        with Image.open(file) as image:
            return image.convert("RGB")
    except FileNotFoundError:
        raise missing_picture(name) from None
    # Pillow reports broken files by any of these, depending on the format.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        unknown = isinstance(error, UnidentifiedImageError)
        reason = "it is in no known picture format" if unknown else error
        raise UnreadableImageError(f"Image {name} cannot be decoded: {reason}") from error


def missing_picture(name: str) -> FileNotFoundError:
    """The error of a picture that is not there."""
    return FileNotFoundError(
        f"Image {name} does not exist. Is the image folder of the dataset right?"
    )


PictureReader = Callable[[str | Path | BinaryIO, str], Any]
"""What decodes pictures: `read_rgb`, or `fast_pictures.read_pixels` with the same arguments."""
