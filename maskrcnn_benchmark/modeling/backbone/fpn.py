"""Feature pyramid network (Lin et al., CVPR 2017) and the coarser levels on top of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskrcnn_benchmark.layers.drop_block import DropBlock2D

ConvBuilder = Callable[..., nn.Module]


def build_conv(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    stride: int = 1,
    num_groups: int | None = None,
    eps: float = 1e-5,
    use_relu: bool = False,
) -> nn.Module:
    """A convolution that keeps the size (up to the stride), optionally normalised and rectified.

    Args:
        num_groups: groups of a GroupNorm after a convolution without bias; None: no
            normalisation, and a bias.
        eps: of the GroupNorm.
        use_relu: end with a ReLU.

    Returns:
        the bare convolution if it is alone, else a Sequential.
    """
    conv = nn.Conv2d(
        in_channels,
        out_channels,
        kernel_size,
        stride=stride,
        padding=kernel_size // 2,
        bias=num_groups is None,
    )
    nn.init.kaiming_uniform_(conv.weight, a=1)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    modules: list[nn.Module] = [conv]
    if num_groups is not None:
        modules.append(nn.GroupNorm(num_groups, out_channels, eps=eps))
    if use_relu:
        modules.append(nn.ReLU(inplace=True))
    return conv if len(modules) == 1 else nn.Sequential(*modules)


class FPN(nn.Module):
    """Top-down pathway with lateral connections.

    Args:
        in_channels: channels of the backbone's maps, finest first; a 0 stands for a map that is
            given but not used.
        out_channels: channels of every level.
        top_block: makes coarser levels from (coarsest input, coarsest output).
        drop_block: applied, while training, to the merged maps of all levels but the coarsest
            before their last convolution.  The top-down path carries the undropped maps.
        use_spp: pool the coarsest input with windows of 5, 9 and 13 beside it (He et al., ECCV
            2014).
        use_pan: add a bottom-up pathway (Liu et al., CVPR 2018).
        conv: makes a convolution from (in_channels, out_channels, kernel_size, stride=1).
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: int,
        top_block: nn.Module | None = None,
        drop_block: DropBlock2D | None = None,
        use_spp: bool = False,
        use_pan: bool = False,
        conv: ConvBuilder = build_conv,
    ) -> None:
        super().__init__()
        # Modules are numbered by the place in in_channels, from 1, unused maps counted.
        self.levels = [index for index, channels in enumerate(in_channels, 1) if channels]
        if not self.levels:
            raise ValueError(f"in_channels {tuple(in_channels)} names no map to use")
        for index in self.levels:
            channels = in_channels[index - 1]
            if use_spp and index == self.levels[-1]:
                channels *= 4
            self.add_module(f"fpn_inner{index}", conv(channels, out_channels, 1))
            self.add_module(f"fpn_layer{index}", conv(out_channels, out_channels, 3))
            if use_pan and index != self.levels[-1]:
                self.add_module(f"pan_in_layer{index}", conv(out_channels, out_channels, 3, 2))
                self.add_module(f"pan_out_layer{index}", conv(out_channels, out_channels, 3))
        self.top_blocks = top_block
        self.drop_block = drop_block if drop_block is not None else nn.Identity()
        self.use_spp = use_spp
        self.use_pan = use_pan

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Build the pyramid.

        Args:
            features: maps ``(batch, C_i, H_i, W_i)``, finest first.  Extra maps at the fine end
                are ignored.

        Returns:
            levels ``(batch, out_channels, H_i, W_i)``, finest first, top block included.
        """
        used = features[-len(self.levels) :]
        coarsest = _pyramid_pool(used[-1]) if self.use_spp else used[-1]
        merged = self._module("fpn_inner", self.levels[-1])(coarsest)
        outputs = [self._module("fpn_layer", self.levels[-1])(merged)]
        for index, feature in zip(self.levels[-2::-1], used[-2::-1]):
            lateral = self._module("fpn_inner", index)(feature)
            if merged.shape[-2:] != lateral.shape[-2:]:
                merged = F.interpolate(merged, size=lateral.shape[-2:], mode="nearest")
            merged = lateral + merged
            outputs.insert(0, self._module("fpn_layer", index)(self.drop_block(merged)))
        if self.use_pan:
            outputs = self._bottom_up(outputs)
        if self.top_blocks is not None:
            outputs.extend(self.top_blocks(used[-1], outputs[-1]))
        return tuple(outputs)

    def _bottom_up(self, levels: list[Tensor]) -> list[Tensor]:
        outputs = levels[:1]
        for index, level in zip(self.levels, levels[1:]):
            reduced = self._module("pan_in_layer", index)(self.drop_block(outputs[-1]))
            outputs.append(self._module("pan_out_layer", index)(reduced + level))
        return outputs

    def _module(self, name: str, index: int) -> nn.Module:
        return getattr(self, f"{name}{index}")


class LastLevelP6P7(nn.Module):
    """Two more levels by strided convolution, as in RetinaNet (Lin et al., ICCV 2017).

    Args:
        in_channels: channels of the map that the first convolution reads: the coarsest output if
            equal to ``out_channels``, else the coarsest input.
        out_channels: channels of both levels.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.p6 = build_conv(in_channels, out_channels, 3, stride=2)
        self.p7 = build_conv(out_channels, out_channels, 3, stride=2)
        self.reads_output = in_channels == out_channels

    def forward(self, c5: Tensor, p5: Tensor) -> list[Tensor]:
        """P6 and P7 from the coarsest input and output of the pyramid; P6 is not rectified."""
        p6 = self.p6(p5 if self.reads_output else c5)
        return [p6, self.p7(F.relu(p6))]


class LastLevelMaxPool(nn.Module):
    """One more level: every second row and column of the coarsest output."""

    def forward(self, c5: Tensor, p5: Tensor) -> list[Tensor]:
        """P6 from the coarsest output of the pyramid."""
        return [F.max_pool2d(p5, kernel_size=1, stride=2)]


def _pyramid_pool(x: Tensor) -> Tensor:
    """``(batch, C, H, W)`` to ``(batch, 4 * C, H, W)``: the map and three poolings of it."""
    pooled = [F.max_pool2d(x, size, stride=1, padding=size // 2) for size in (5, 9, 13)]
    return torch.cat([x, *pooled], dim=1)
