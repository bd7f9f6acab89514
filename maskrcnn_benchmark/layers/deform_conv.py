"""Deformable convolution, version 1 (Dai et al. 2017) and version 2 with a mask (Zhu et al. 2019).

Offsets are (dy, dx) pairs per kernel point, row-major over the kernel; a sample outside
``-1 < y < height, -1 < x < width`` is zero, corners outside the map count as zero.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from maskrcnn_benchmark.layers import _native
from maskrcnn_benchmark.layers._checks import (
    at_least_single,
    check_floating,
    check_rank,
    check_same,
    check_shape,
)

Size = int | tuple[int, int]


def modulated_deform_conv(
    input: Tensor,
    offset: Tensor,
    mask: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Size = 0,
    dilation: Size = 1,
    groups: int = 1,
    deformable_groups: int = 1,
) -> Tensor:
    """Convolution whose samples are displaced by `offset` and scaled by `mask`.

    Under autocast everything is computed and returned in float32; outside it all tensors share one
    dtype (float64, float32, bfloat16, float16), in which the result is returned.

    Args:
        input: (batch, in_channels, height, width); channels-last memory is the fast layout.
        offset: (batch, 2 * deformable_groups * kernel points, out_height, out_width), (dy, dx).
        mask: (batch, deformable_groups * kernel points, out_height, out_width).
        weight: (out_channels, in_channels / groups, kernel_height, kernel_width).
        bias: (out_channels,) or None.
        stride, padding, dilation: of the undisplaced kernel, one number or (vertical, horizontal).
        groups: channel groups of the convolution.
        deformable_groups: channel groups with offsets of their own.

    Returns:
        (batch, out_channels, out_height, out_width), channels-last if `input` is.

    Raises:
        ValueError, TypeError: naming the argument with a wrong shape, device or dtype. Maps larger
            than the output are not cut silently: see `offset_prefix`.
    """
    return _deform_conv(
        input, offset, mask, weight, bias, stride, padding, dilation, groups, deformable_groups
    )


def deform_conv(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    stride: Size = 1,
    padding: Size = 0,
    dilation: Size = 1,
    groups: int = 1,
    deformable_groups: int = 1,
) -> Tensor:
    """Deformable convolution without mask and bias (version 1); see `modulated_deform_conv`."""
    return _deform_conv(
        input, offset, None, weight, None, stride, padding, dilation, groups, deformable_groups
    )


def offset_prefix(offset: Tensor, mask: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Offsets and mask of a larger map, read as the memory of a height x width map.

    The vision layers of published checkpoints convolve a coarser map with the offsets of the finer
    one. Their operator never looked at the size of the offset map: for each image it took the first
    ``channels * height * width`` numbers of the contiguous memory and read them as a map of that
    size. This function is that rule; gradients flow to those numbers only.

    Args:
        offset: (batch, offset_channels, H, W) with H * W >= height * width.
        mask: (batch, mask_channels, H, W).
        height, width: size of the convolution's output.

    Returns:
        (batch, offset_channels, height, width) and (batch, mask_channels, height, width).

    Raises:
        ValueError: if a map holds fewer numbers than are asked for.
    """
    return _prefix("offset", offset, height, width), _prefix("mask", mask, height, width)


def _prefix(name: str, maps: Tensor, height: int, width: int) -> Tensor:
    check_rank(name, maps, 4, "(batch, channels, height, width)")
    batch, channels = maps.shape[:2]
    needed = channels * height * width
    flat = maps.contiguous().flatten(1)
    if flat.shape[1] < needed:
        raise ValueError(
            f"{name} of shape {tuple(maps.shape)} holds fewer numbers than a map of "
            f"{channels} x {height} x {width} needs"
        )
    return flat[:, :needed].reshape(batch, channels, height, width)


def _deform_conv(
    input: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    stride: Size,
    padding: Size,
    dilation: Size,
    groups: int,
    deformable_groups: int,
) -> Tensor:
    device = input.device.type
    if device != "meta" and torch.is_autocast_enabled(device):
        with torch.autocast(device, enabled=False):
            return _deform_conv(
                input.float(),
                offset.float(),
                None if mask is None else mask.float(),
                weight.float(),
                None if bias is None else bias.float(),
                stride,
                padding,
                dilation,
                groups,
                deformable_groups,
            )
    stride, padding, dilation = _pair(stride), _pair(padding), _pair(dilation)
    _check(input, offset, mask, weight, bias, stride, padding, dilation, groups, deformable_groups)
    if not _native.usable(input):
        return deform_conv_reference(
            input, offset, mask, weight, bias, stride, padding, dilation, groups, deformable_groups
        )
    dtype = input.dtype
    if dtype == torch.float16 or (dtype == torch.bfloat16 and device != "cpu"):
        input, weight = input.float(), weight.float()
        bias = None if bias is None else bias.float()
    # Positions need more precision than half has.
    maps = (at_least_single(offset), None if mask is None else at_least_single(mask))
    return torch.ops.glip.deform_conv(
        input, *maps, weight, bias, *stride, *padding, *dilation, groups, deformable_groups
    ).to(dtype)


def _check(
    input: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
    deformable_groups: int,
) -> None:
    check_rank("input", input, 4, "(batch, in_channels, height, width)")
    check_rank("weight", weight, 4, "(out_channels, in_channels / groups, height, width)")
    check_floating("input", input)
    check_same("input", input, offset=offset, mask=mask, weight=weight, bias=bias)
    for name, value in (("stride", stride), ("dilation", dilation)):
        if min(value) <= 0:
            raise ValueError(f"{name} must be positive, got {value}")
    if min(padding) < 0:
        raise ValueError(f"padding must not be negative, got {padding}")
    batch, channels = input.shape[:2]
    out_channels, group_channels, kernel_height, kernel_width = weight.shape
    if groups <= 0 or channels % groups or out_channels % groups:
        raise ValueError(
            f"groups={groups} must divide the channels of input ({channels}) "
            f"and of weight ({out_channels})"
        )
    if deformable_groups <= 0 or channels % deformable_groups:
        raise ValueError(
            f"deformable_groups={deformable_groups} must divide the channels of input ({channels})"
        )
    if group_channels != channels // groups:
        raise ValueError(
            f"weight must have shape[1] = {channels // groups} (in_channels / groups), "
            f"got {tuple(weight.shape)}"
        )
    height, width = output_size(input.shape[2:], weight.shape[2:], stride, padding, dilation)
    if height <= 0 or width <= 0:
        raise ValueError(
            f"input of {tuple(input.shape[2:])} pixels is too small for the kernel of weight "
            f"{tuple(weight.shape[2:])} with dilation {dilation} and padding {padding}"
        )
    points = deformable_groups * kernel_height * kernel_width
    size = f"output is {height} x {width}"
    check_shape("offset", offset, (batch, 2 * points, height, width), size)
    if mask is not None:
        check_shape("mask", mask, (batch, points, height, width), size)
    if bias is not None:
        check_shape("bias", bias, (out_channels,), "one per output channel")


def output_size(
    input_size: tuple[int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
) -> tuple[int, int]:
    """(height, width) of a convolution's output."""
    height, width = (
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, s, p, d in zip(input_size, kernel, stride, padding, dilation)
    )
    return height, width


def deform_conv_reference(
    input: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
    deformable_groups: int,
) -> Tensor:
    """Deformable convolution by torchvision, which reads both kinds of groups off the shapes."""
    import torchvision  # not needed, and not asked to match PyTorch, where native operators run

    dtype = input.dtype
    if dtype in (torch.float16, torch.bfloat16):
        input, offset, weight = input.float(), offset.float(), weight.float()
        mask = None if mask is None else mask.float()
        bias = None if bias is None else bias.float()
    return torchvision.ops.deform_conv2d(
        input, offset, weight, bias, stride, padding, dilation, mask
    ).to(dtype)


def _pair(value: Size) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))


class ModulatedDeformConv(nn.Module):
    """Weights of a modulated deformable convolution; offsets and mask come with the input.

    Args: see `modulated_deform_conv`. The weight starts uniform within 1 / sqrt(fan-in), the bias
    at zero.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size = 0,
        dilation: Size = 1,
        groups: int = 1,
        deformable_groups: int = 1,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.stride, self.padding, self.dilation = _pair(stride), _pair(padding), _pair(dilation)
        self.groups = groups
        self.deformable_groups = deformable_groups
        self.weight = _new_weight(in_channels, out_channels, kernel_size, groups)
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None

    def forward(self, input: Tensor, offset: Tensor, mask: Tensor) -> Tensor:
        """(batch, in_channels, height, width) -> (batch, out_channels, out_height, out_width)."""
        return modulated_deform_conv(
            input,
            offset,
            mask,
            self.weight,
            self.bias,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
            self.deformable_groups,
        )

    def extra_repr(self) -> str:
        return _describe(self)


class DeformConv(nn.Module):
    """Weights of a deformable convolution without mask and bias.

    Args: see `deform_conv`. The weight starts uniform within 1 / sqrt(fan-in).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size = 0,
        dilation: Size = 1,
        groups: int = 1,
        deformable_groups: int = 1,
    ) -> None:
        super().__init__()
        self.stride, self.padding, self.dilation = _pair(stride), _pair(padding), _pair(dilation)
        self.groups = groups
        self.deformable_groups = deformable_groups
        self.weight = _new_weight(in_channels, out_channels, kernel_size, groups)

    def forward(self, input: Tensor, offset: Tensor) -> Tensor:
        """(batch, in_channels, height, width) -> (batch, out_channels, out_height, out_width)."""
        return deform_conv(
            input,
            offset,
            self.weight,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
            self.deformable_groups,
        )

    def extra_repr(self) -> str:
        return _describe(self)


def _new_weight(
    in_channels: int, out_channels: int, kernel_size: Size, groups: int
) -> nn.Parameter:
    if in_channels % groups or out_channels % groups:
        raise ValueError(
            f"groups={groups} must divide in_channels={in_channels} and out_channels={out_channels}"
        )
    kernel = _pair(kernel_size)
    bound = 1 / math.sqrt(in_channels * kernel[0] * kernel[1])
    weight = torch.empty(out_channels, in_channels // groups, *kernel)
    return nn.Parameter(weight.uniform_(-bound, bound))


def _describe(module: ModulatedDeformConv | DeformConv) -> str:
    out_channels, group_channels, *kernel = module.weight.shape
    return (
        f"{group_channels * module.groups}, {out_channels}, kernel_size={tuple(kernel)}, "
        f"stride={module.stride}, padding={module.padding}, dilation={module.dilation}, "
        f"groups={module.groups}, deformable_groups={module.deformable_groups}"
    )
