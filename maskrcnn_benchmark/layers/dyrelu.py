"""Dynamic ReLU (Chen et al. 2020, arXiv:2003.10027), as the vision layers of the head use it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from maskrcnn_benchmark.layers.dynamic_mean import larger_line


def h_sigmoid(x: Tensor) -> Tensor:
    """Piecewise linear sigmoid, ``clamp(x + 3, 0, 6) / 6``."""
    return F.hardsigmoid(x)


def global_average(x: Tensor) -> Tensor:
    """``[B, C, H, W]`` to ``[B, C]``.

    The same as ``x.mean((2, 3))``, whose gradient, though, is written out over the map.
    """
    dtype = torch.promote_types(x.dtype, torch.float32)  # half has no room for large sums
    return (x.sum((2, 3), dtype=dtype) / (x.shape[2] * x.shape[3])).to(x.dtype)


class DYReLU(nn.Module):
    """Maximum of linear pieces whose coefficients depend on the global average of the input.

    With ``h`` the gated coefficients in [0, 1], per channel
    ``max(a1 x + b1, a2 x + b2)``, ``a1 = 2 (h - 0.5) + 1``, ``a2 = 2 (h - 0.5)``, ``b = h - 0.5``:
    at ``h = 0.5`` a plain ReLU. The coefficients come in the order a1, b1, a2, b2.

    Args:
        channels: channels of the input.
        reduction: the hidden layer is ``channels / reduction`` wide (rounded to a multiple of 4
            unless ``reduction`` is 4).
        use_bias: whether the pieces have an offset b.
        pieces: 2, or 1 for a linear function.
        use_spatial: also multiply every position by a gate of its own.

    Raises:
        ValueError: for a number of pieces other than 1 or 2.
    """

    def __init__(
        self,
        channels: int,
        *,
        reduction: int = 4,
        use_bias: bool = True,
        pieces: int = 2,
        use_spatial: bool = False,
    ) -> None:
        super().__init__()
        if pieces not in (1, 2):
            raise ValueError(f"pieces must be 1 or 2, got {pieces}")
        hidden = channels // 4 if reduction == 4 else _multiple_of_four(channels, reduction)
        self.pieces = pieces
        self.use_bias = use_bias
        self.num_coefficients = pieces * (2 if use_bias else 1)
        self.fc = nn.Sequential(
            nn.Linear(channels, hidden),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, self.num_coefficients * channels),
        )
        # Of the gates, to slopes around (1, 0) and offsets around 0.
        scale, shift = torch.ones(self.num_coefficients, 1), torch.zeros(self.num_coefficients, 1)
        scale[:: 2 if use_bias else 1] = 2.0
        shift[0] = 1.0
        self.register_buffer("scale", scale, persistent=False)
        self.register_buffer("shift", shift, persistent=False)
        self.spa = None
        if use_spatial:
            self.spa = nn.Sequential(nn.Conv2d(channels, 1, kernel_size=1), nn.BatchNorm2d(1))

    @property
    def is_two_lines(self) -> bool:
        """True if the output is the larger of two lines with offsets, and nothing more."""
        return self.pieces == 2 and self.use_bias and self.spa is None

    def coefficients(self, average: Tensor) -> Tensor:
        """``[..., num_coefficients, channels]`` from the global average ``[..., channels]``."""
        gates = h_sigmoid(self.fc(average)).unflatten(-1, (self.num_coefficients, -1))
        return self.scale * (gates - 0.5) + self.shift

    def forward(self, x: Tensor) -> Tensor:
        """``[B, channels, H, W]`` to the same shape."""
        coefficients = self.coefficients(global_average(x))[..., None, None].unbind(1)
        step = 2 if self.use_bias else 1
        slopes, offsets = coefficients[::step], coefficients[1::step]
        if not self.use_bias:
            offsets = [x.new_zeros(()) for _ in slopes]
        if self.pieces == 2:
            out = larger_line(x, slopes[0], offsets[0], slopes[1], offsets[1])
        else:
            out = torch.addcmul(offsets[0], x, slopes[0])
        return out if self.spa is None else out * self._spatial_gate(x)

    def _spatial_gate(self, x: Tensor) -> Tensor:
        """``[B, 1, H, W]`` in [0, 1], a third where all positions are alike."""
        height, width = x.shape[-2:]
        share = self.spa(x).flatten(2).softmax(-1).view(-1, 1, height, width)
        return (share * (height * width)).clamp(0.0, 3.0) / 3.0


def _multiple_of_four(channels: int, reduction: int) -> int:
    """``channels / reduction`` as a multiple of 4, not more than 10 % below."""
    hidden = max(4, int(channels / reduction + 2) // 4 * 4)
    if hidden < 0.9 * (channels / reduction):
        hidden += 4
    return hidden
