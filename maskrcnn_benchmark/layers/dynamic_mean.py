"""Weighted mean of neighbouring pyramid levels and dynamic ReLU, in one pass over the maps.

A vision layer of the head ends in these two (arXiv:2106.08322): the mean of a level and its convolved
neighbours, each with a weight of its own, and the larger of two lines whose slopes and offsets depend
on the picture. Weights and lines are known from averages before either is computed, so that neither
the mean nor the lines ever need a map in memory.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from maskrcnn_benchmark.layers import _native
from maskrcnn_benchmark.layers._checks import check_floating, check_rank, check_shape

MOST_MAPS = 3
_NATIVE_DTYPES = (torch.float32, torch.float64)


def dynamic_mean(maps: Sequence[Tensor], weights: Tensor, pieces: Tensor) -> Tensor:
    """``max(a1 m + b1, a2 m + b2)`` with ``m = sum_k w_k x_k / n``.

    Where both lines are equal the gradient goes to the second.

    Args:
        maps: the n maps x_k, one to three of one shape (batch, channels, height, width);
            channels-last memory is the fast layout.
        weights: (batch, n), w_k.
        pieces: (batch, 4, channels), a1, b1, a2 and b2.

    Returns:
        (batch, channels, height, width), on the CPU in channels-last memory.

    Raises:
        ValueError, TypeError: naming the argument with a wrong shape or dtype.
    """
    if not 1 <= len(maps) <= MOST_MAPS:
        raise ValueError(f"maps must be 1 to {MOST_MAPS} tensors, got {len(maps)}")
    first = maps[0]
    check_rank("maps[0]", first, 4, "(batch, channels, height, width)")
    check_floating("maps[0]", first)
    for k, other in enumerate(maps[1:], 1):
        check_shape(f"maps[{k}]", other, tuple(first.shape), "the shape of maps[0]")
    batch, channels = first.shape[:2]
    check_shape("weights", weights, (batch, len(maps)), "one per image and map")
    check_shape("pieces", pieces, (batch, 4, channels), "slopes and offsets of two lines")
    if first.dtype in _NATIVE_DTYPES and all(x.dtype == first.dtype for x in maps):
        # Under autocast the small numbers are of lower precision than the maps.
        weights, pieces = weights.to(first.dtype), pieces.to(first.dtype)
        on_cpu = first.device.type in ("cpu", "meta")  # elsewhere the compiler fuses
        if on_cpu and _native.usable(first):
            absent = [None] * (MOST_MAPS - len(maps))
            return torch.ops.glip.dynamic_mean(*maps, *absent, weights, pieces)
    return dynamic_mean_reference(maps, weights, pieces)


def dynamic_mean_reference(maps: Sequence[Tensor], weights: Tensor, pieces: Tensor) -> Tensor:
    """`dynamic_mean` in plain PyTorch, differentiable by autograd."""
    # In the order of the original, so that rounding is the same.
    first, *others = (x * weights[:, k, None, None, None] for k, x in enumerate(maps))
    mean = sum(others, start=first) / len(maps)
    slope, offset, other_slope, other_offset = pieces[..., None, None].unbind(1)
    return larger_line(mean, slope, offset, other_slope, other_offset)


def larger_line(
    x: Tensor, slope: Tensor, offset: Tensor, other_slope: Tensor, other_offset: Tensor
) -> Tensor:
    """``max(slope x + offset, other_slope x + other_offset)``, elementwise."""
    # max(p, q) as q + relu(p - q): the gradient of a maximum takes several times as long.
    lead = torch.addcmul(offset - other_offset, x, slope - other_slope)
    return torch.addcmul(other_offset, x, other_slope) + lead.relu()
