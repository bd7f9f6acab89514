"""Vision layer of the head's tower (Dynamic Head, arXiv:2106.08322, as GLIP uses it)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from maskrcnn_benchmark.layers.deform_conv import ModulatedDeformConv, offset_prefix
from maskrcnn_benchmark.layers.dynamic_mean import dynamic_mean
from maskrcnn_benchmark.layers.dyrelu import DYReLU, global_average, h_sigmoid
from maskrcnn_benchmark.modeling.language_backbone.text_features import TextFeatures

_POINTS = 9  # of a 3 x 3 kernel


class NormedConv(nn.Module):
    """3 x 3 convolution, deformable or not, followed by a normalisation.

    Args:
        in_channels, out_channels: channels.
        stride: 1 or 2.
        deformable: whether samples are displaced and masked.
        norm: makes the normalisation from a number of channels; None: no normalisation.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        *,
        deformable: bool,
        norm: Callable[[int], nn.Module] | None,
    ) -> None:
        super().__init__()
        conv = ModulatedDeformConv if deformable else nn.Conv2d
        self.conv = conv(in_channels, out_channels, kernel_size=3, stride=stride, padding=1)
        self.bn = nn.Identity() if norm is None else norm(out_channels)

    def forward(self, x: Tensor, *offset_and_mask: Tensor) -> Tensor:
        """``[B, in_channels, H, W]`` to ``[B, out_channels, H / stride, W / stride]``."""
        return self.bn(self.conv(x, *offset_and_mask))


class DyConv(nn.Module):
    """Every level becomes a weighted mean of itself and its neighbours, each convolved.

    For level l the same level, the finer level (stride 2) and the coarser level (enlarged
    afterwards, bilinearly with aligned corners) are convolved by three different filters, all
    displaced by one offset map made from level l. A scalar weight per image and neighbour, between
    0.5 and 1, comes from a global average. The levels end in a dynamic ReLU.

    The coarser level is smaller than the offset map: its convolution reads the offsets as published
    weights were trained to, see ``offset_prefix``.

    Args:
        in_channels, out_channels: channels.
        norm: makes a normalisation from a number of channels; None: no normalisation.
        deformable: deformable convolutions; otherwise plain ones.
        weigh_neighbours: weighted mean; otherwise the plain mean.
        dynamic_relu: end in a dynamic ReLU; otherwise in a ReLU.
        identity_init: the convolution of a level with itself starts as the identity plus the usual
            small numbers; needs ``in_channels`` equal to ``out_channels``.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        norm: Callable[[int], nn.Module] | None = None,
        deformable: bool = True,
        weigh_neighbours: bool = True,
        dynamic_relu: bool = True,
        identity_init: bool = False,
    ) -> None:
        super().__init__()
        # For the coarser, the same and the finer level.
        self.DyConv = nn.ModuleList(
            NormedConv(in_channels, out_channels, stride, deformable=deformable, norm=norm)
            for stride in (1, 1, 2)
        )
        self.AttnConv = None
        if weigh_neighbours:
            self.AttnConv = nn.Sequential(
                nn.AdaptiveAvgPool2d(1), nn.Conv2d(out_channels, 1, kernel_size=1), nn.ReLU()
            )
        self.relu = DYReLU(out_channels) if dynamic_relu else nn.ReLU()
        self._reset_parameters()
        if identity_init:
            weight = self.DyConv[1].conv.weight
            with torch.no_grad():
                weight += nn.init.dirac_(torch.empty_like(weight))
        # Starts as the framework has it, unlike the other convolutions: with displacements.
        self.offset = None
        if deformable:
            self.offset = nn.Conv2d(in_channels, 3 * _POINTS, kernel_size=3, padding=1)

    def _reset_parameters(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
                nn.init.zeros_(module.bias)

    def forward(
        self, visual: list[Tensor], text: TextFeatures
    ) -> tuple[list[Tensor], TextFeatures]:
        """Maps ``[B, in_channels, H_l, W_l]``, finest first, to as many of ``out_channels``.

        The text passes through.
        """
        neighbours = [self._neighbours(visual, index) for index in range(len(visual))]
        return self._activated_means(neighbours), text

    def _neighbours(self, visual: list[Tensor], index: int) -> list[Tensor]:
        """A level, the finer and the coarser one, convolved and as large as the level."""
        from_coarser, from_same, from_finer = self.DyConv
        level = visual[index]
        sampling = self._offset_and_mask(level)
        neighbours = [from_same(level, *sampling)]
        if index > 0:
            neighbours.append(from_finer(visual[index - 1], *sampling))
        if index + 1 < len(visual):
            coarser = visual[index + 1]
            height, width = coarser.shape[-2:]
            prefix = offset_prefix(*sampling, height, width) if sampling else ()
            neighbours.append(_enlarge(from_coarser(coarser, *prefix), level))
        return neighbours

    def _offset_and_mask(self, level: Tensor) -> tuple[Tensor, Tensor] | tuple[()]:
        if self.offset is None:
            return ()
        maps = self.offset(level)
        offset, mask = maps.split((2 * _POINTS, _POINTS), dim=1)
        return offset.contiguous(), mask.sigmoid().contiguous()

    def _activated_means(self, neighbours: list[list[Tensor]]) -> list[Tensor]:
        """Per level, the activated mean of its neighbours."""
        counts = [len(maps) for maps in neighbours]
        if self.AttnConv is None:
            return [self.relu(sum(maps) / len(maps)) for maps in neighbours]
        # Weights of all maps, and lines of all levels, at once: they are many small numbers.
        averages = torch.stack([global_average(x) for maps in neighbours for x in maps])
        weights = self._weight(averages)
        if not (isinstance(self.relu, DYReLU) and self.relu.is_two_lines):
            return [
                self.relu(sum(x * w[..., None, None] for x, w in zip(maps, of_maps)) / len(maps))
                for maps, of_maps in zip(neighbours, weights.split(counts))
            ]
        # The average of a mean is known without the mean.
        means = [part.mean(0) for part in (averages * weights).split(counts)]
        pieces = self.relu.coefficients(torch.stack(means))
        weights = weights.squeeze(-1).transpose(0, 1).split(counts, dim=1)
        return [dynamic_mean(*level) for level in zip(neighbours, weights, pieces, strict=True)]

    def _weight(self, averages: Tensor) -> Tensor:
        """``[..., 1]``, what a neighbour counts for, from its global average ``[..., C]``."""
        _, conv, relu = self.AttnConv
        return h_sigmoid(relu(F.linear(averages, conv.weight.flatten(1), conv.bias)))


def _enlarge(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=True)
