"""Pictures as tensors: decoding and resizing by torchvision, several times as fast as by PIL.

Decoded pixels are the same; resized ones differ from PIL's by one in about a thousandth of the
values of a photograph (INPUT.IMAGE_BACKEND "torchvision"; PIL remains the default, because
published numbers come from it). `Pixels` has the few methods of a PIL image that the transforms
use. Where torchvision has no decoders (they are to move to another package), PIL decodes.
"""

import io
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image
from torchvision.transforms.v2 import functional

from maskrcnn_benchmark.data.image_files import missing_picture, read_rgb

try:
    from torchvision.io import ImageReadMode, decode_jpeg, decode_png
except ImportError:
    decode_jpeg = decode_png = ImageReadMode = None

_JPEG_START, _JPEG_END = b"\xff\xd8\xff", b"\xff\xd9"
_PNG_START = b"\x89PNG\r\n\x1a\n"
_PNG_DEPTH_AT = 24


class Pixels:
    """An RGB picture.

    Args:
        tensor: uint8 (3, height, width), channels last in memory, which resizing is fastest with.
    """

    def __init__(self, tensor: torch.Tensor):
        self.tensor = tensor

    @property
    def size(self) -> tuple[int, int]:
        """(width, height), as PIL has it."""
        return self.tensor.shape[2], self.tensor.shape[1]

    def resize(self, size: tuple[int, int], resample: int) -> "Pixels":
        """The picture at (width, height).

        Args:
            resample: PIL's name of the filter; only bilinear is known.
        Raises:
            ValueError: another filter.
        """
        if resample != Image.Resampling.BILINEAR:
            raise ValueError(f"only bilinear resizing is supported, not {resample!r}")
        width, height = size
        return Pixels(functional.resize(self.tensor, [height, width], antialias=True))

    def transpose(self, method: int) -> "Pixels":
        """The mirrored picture.

        Args:
            method: PIL's name of the direction; only left-right is known.
        Raises:
            ValueError: another direction.
        """
        if method != Image.Transpose.FLIP_LEFT_RIGHT:
            raise ValueError(f"only left-right mirroring is supported, not {method!r}")
        return Pixels(self.tensor.flip(2))


def read_pixels(file: str | Path | BinaryIO, name: str) -> Pixels:
    """Decode a whole picture; see `image_files.read_rgb`, whose errors it raises.

    JPEG and 8-bit PNG files are decoded by torchvision, everything else (other formats, four-colour
    JPEG, files without an end) by PIL.
    """
    if isinstance(file, str | Path):
        if not Path(file).is_file():
            raise missing_picture(name)
        data = Path(file).read_bytes()
    else:
        data = file.read()
    tensor = _decode(data)
    if tensor is None:
        image = read_rgb(io.BytesIO(data), name)
        tensor = torch.from_numpy(np.array(image, dtype=np.uint8)).permute(2, 0, 1)
    return Pixels(tensor)


def _decode(data: bytes) -> torch.Tensor | None:
    """uint8 (3, height, width), or None for what PIL must decide about."""
    if decode_jpeg is None:
        return None
    try:
        # libjpeg fills what is missing of a file with grey; PIL refuses such files.
        if data.startswith(_JPEG_START) and data.rstrip(b"\0").endswith(_JPEG_END):
            tensor = decode_jpeg(_as_tensor(data), mode=ImageReadMode.UNCHANGED)
        elif data.startswith(_PNG_START) and data[_PNG_DEPTH_AT : _PNG_DEPTH_AT + 1] == b"\x08":
            tensor = decode_png(_as_tensor(data), mode=ImageReadMode.RGB)
        else:
            return None
    except RuntimeError:
        return None  # PIL says what is wrong, or can read it
    if tensor.shape[0] == 1:
        return tensor.expand(3, -1, -1)
    return tensor if tensor.shape[0] == 3 else None


def _as_tensor(data: bytes) -> torch.Tensor:
    # A tensor over read-only bytes warns; the copy takes microseconds.
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)
