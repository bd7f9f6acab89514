"""Anchor boxes on a feature pyramid."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from maskrcnn_benchmark.errors import ConfigError

# Grids of at most this many feature sizes are remembered; one of an 800 x 1333 image takes 360 kB.
CACHED_GRIDS = 64


class AnchorGenerator(nn.Module):
    """Lays the same cell anchors over every position of a feature map.

    Args:
        sizes: per level the side lengths in pixels that a square anchor has.
        aspect_ratios: height divided by width, shared by all levels.
        strides: per level the distance in pixels of neighbouring positions.

    Attributes:
        cell_anchors: per level a persistent float32 buffer ``[a, 4]`` (state-dict keys
            ``cell_anchors.0``, ...), the anchors of the upper left position. ``a`` is
            ``len(aspect_ratios) * len(sizes[level])``, ratios outside, sizes inside.

    Raises:
        ValueError: if ``sizes`` and ``strides`` differ in length.
    """

    def __init__(
        self,
        sizes: Sequence[Sequence[float]],
        aspect_ratios: Sequence[float],
        strides: Sequence[int],
    ) -> None:
        super().__init__()
        if len(sizes) != len(strides):
            raise ValueError(
                f"sizes and strides must have one entry per level, got {len(sizes)} and "
                f"{len(strides)}"
            )
        self.strides = tuple(strides)
        self.cell_anchors = _Buffers(
            make_cell_anchors(stride, level_sizes, aspect_ratios)
            for stride, level_sizes in zip(strides, sizes)
        )
        self._grids: OrderedDict[tuple[tuple[int, int], ...], list[Tensor]] = OrderedDict()

    @property
    def anchors_per_location(self) -> list[int]:
        """Number of anchors at one position, per level."""
        return [len(cell) for cell in self.cell_anchors]

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Anchors for a batch; all its images share them.

        Args:
            features: per level ``[B, C, H_l, W_l]``; only the sizes are read.

        Returns:
            Per level float32 ``[H_l * W_l * a, 4]`` xyxy in pixels of the padded input: rows
            outside, then columns, then the anchors of a position. The tensors are cached between
            calls and must not be changed in place.

        Raises:
            ValueError: if the number of maps is not the number of levels.
        """
        if len(features) != len(self.strides):
            raise ValueError(
                f"got {len(features)} feature maps for anchors on {len(self.strides)} levels"
            )
        return self._anchors(tuple((maps.shape[-2], maps.shape[-1]) for maps in features))

    def for_image(self, height: int, width: int) -> list[Tensor]:
        """The same for the maps that a padded image of this size gives, every level rounded up."""
        return self._anchors(
            tuple((-(-height // stride), -(-width // stride)) for stride in self.strides)
        )

    def _anchors(self, sizes: tuple[tuple[int, int], ...]) -> list[Tensor]:
        if sizes not in self._grids:
            self._grids[sizes] = [
                make_grid_anchors(cell, stride, size)
                for cell, stride, size in zip(self.cell_anchors, self.strides, sizes)
            ]
            if len(self._grids) > CACHED_GRIDS:
                self._grids.popitem(last=False)
        self._grids.move_to_end(sizes)
        return self._grids[sizes]

    def _apply(self, fn: Callable, recurse: bool = True) -> AnchorGenerator:
        self._grids.clear()
        return super()._apply(fn, recurse)

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args) -> None:
        self._grids.clear()
        super()._load_from_state_dict(state_dict, prefix, *args)


class _Buffers(nn.Module):
    """List of float32 buffers named "0", "1", ... that stay float32 in a half-precision model.

    Anchor corners such as 287 or 575 are no bfloat16 numbers, and a grid made of rounded corners
    would put every box of a level beside its place.
    """

    def __init__(self, tensors) -> None:
        super().__init__()
        for index, tensor in enumerate(tensors):
            self.register_buffer(str(index), tensor)

    def __len__(self) -> int:
        return len(self._buffers)

    def __iter__(self):
        return iter(self._buffers.values())

    def _apply(self, fn: Callable, recurse: bool = True) -> _Buffers:
        exact = dict(self._buffers)
        super()._apply(fn, recurse)
        for name, tensor in exact.items():
            if self._buffers[name].dtype != tensor.dtype:
                self._buffers[name] = tensor.to(self._buffers[name].device)
        return self


def make_cell_anchors(
    stride: float, sizes: Sequence[float], aspect_ratios: Sequence[float]
) -> Tensor:
    """Anchors of the position whose cell starts at pixel 0.

    Args:
        stride: side of the cell in pixels; the anchors are centred at ``(stride - 1) / 2``.
        sizes: side lengths of the square anchor.
        aspect_ratios: height divided by width.

    Returns:
        Float32 ``[len(aspect_ratios) * len(sizes), 4]`` xyxy with inclusive corners.
    """
    centre = (stride - 1) / 2
    corners = []
    for ratio in aspect_ratios:
        # Rounded at the size of the cell and scaled afterwards, as the published models have it.
        width = round(math.sqrt(stride * stride / ratio))
        height = round(width * ratio)
        for size in sizes:
            half_width = (width * (size / stride) - 1) / 2
            half_height = (height * (size / stride) - 1) / 2
            corners.append(
                (
                    centre - half_width,
                    centre - half_height,
                    centre + half_width,
                    centre + half_height,
                )
            )
    return torch.tensor(corners, dtype=torch.float32)


def make_grid_anchors(cell_anchors: Tensor, stride: int, size: tuple[int, int]) -> Tensor:
    """Repeat ``cell_anchors`` ``[a, 4]`` over a map of (height, width): ``[H*W*a, 4]``."""
    height, width = size
    y = torch.arange(height, dtype=torch.float32, device=cell_anchors.device) * stride
    x = torch.arange(width, dtype=torch.float32, device=cell_anchors.device) * stride
    y, x = torch.meshgrid(y, x, indexing="ij")
    shifts = torch.stack((x, y, x, y), dim=-1).reshape(-1, 1, 4)
    return (shifts + cell_anchors).reshape(-1, 4)


def inside_image(anchors: Tensor, image_size: tuple[int, int], margin: float = 0) -> Tensor:
    """Which anchors lie inside an image, give or take ``margin`` pixels.

    ATSS does not ask: anchors that reach outside, or lie in the padding, are ordinary negatives.

    Args:
        anchors: ``[A, 4]`` xyxy.
        image_size: ``(width, height)`` of the unpadded image.
        margin: in pixels; negative: every anchor counts as inside.

    Returns:
        Bool ``[A]``.
    """
    if margin < 0:
        return torch.ones(len(anchors), dtype=torch.bool, device=anchors.device)
    width, height = image_size
    x1, y1, x2, y2 = anchors.unbind(-1)
    return (x1 >= -margin) & (y1 >= -margin) & (x2 < width + margin) & (y2 < height + margin)


def make_anchor_generator(cfg) -> AnchorGenerator:
    """Anchor generator of the dense head, from ``MODEL.RPN``.

    Raises:
        ConfigError: if the anchor keys do not fit each other, naming them.
    """
    rpn = cfg.MODEL.RPN
    if len(rpn.ANCHOR_SIZES) != len(rpn.ANCHOR_STRIDE):
        raise ConfigError(
            f"MODEL.RPN.ANCHOR_SIZES has {len(rpn.ANCHOR_SIZES)} entries and "
            f"MODEL.RPN.ANCHOR_STRIDE {len(rpn.ANCHOR_STRIDE)}: the dense head needs one of each "
            "per pyramid level"
        )
    octave_steps = range(rpn.SCALES_PER_OCTAVE)
    sizes = [
        [size * rpn.OCTAVE ** (step / rpn.SCALES_PER_OCTAVE) for step in octave_steps]
        for size in rpn.ANCHOR_SIZES
    ]
    return AnchorGenerator(sizes, rpn.ASPECT_RATIOS, rpn.ANCHOR_STRIDE)
