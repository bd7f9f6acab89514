"""ResNet (He et al., CVPR 2016) and its relatives as a detection backbone.

Top to bottom: stem, deformable convolution, squeeze and excitation, bottleneck, backbone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from maskrcnn_benchmark.layers.batch_norm import FrozenBatchNorm2d
from maskrcnn_benchmark.layers.deform_conv import DeformConv, ModulatedDeformConv

NormBuilder = Callable[[int], nn.Module]

BLOCKS = {26: (2, 2, 2, 2), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
"""Bottlenecks per stage, by depth; 26 is for small models that start from scratch."""


class Stem(nn.Module):
    """Image to a quarter of its resolution.

    Args:
        out_channels: channels.
        norm: makes a normalisation from the number of channels.
        use_3x3: two 3 x 3 convolutions of stride 2 instead of one 7 x 7 and max pooling.
    """

    def __init__(self, out_channels: int, norm: NormBuilder, use_3x3: bool = False) -> None:
        super().__init__()
        self.use_3x3 = use_3x3
        kernel_size = 3 if use_3x3 else 7
        self.conv1 = _conv(3, out_channels, kernel_size, stride=2)
        self.bn1 = norm(out_channels)
        if use_3x3:
            self.conv2 = _conv(out_channels, out_channels, 3, stride=2)
            self.bn2 = norm(out_channels)

    def forward(self, images: Tensor) -> Tensor:
        """``(batch, 3, H, W)`` to ``(batch, out_channels, ~H / 4, ~W / 4)``."""
        x = F.relu(self.bn1(self.conv1(images)))
        if self.use_3x3:
            return F.relu(self.bn2(self.conv2(x)))
        return F.max_pool2d(x, kernel_size=3, stride=2, padding=1)


class DeformableConv3x3(nn.Module):
    """A 3 x 3 deformable convolution that predicts its own offsets (and, modulated, its mask).

    Args:
        in_channels, out_channels: channels.
        stride: stride.
        num_groups: groups of the convolution.
        dilation: distance of the kernel's samples.
        deformable_groups: groups of channels with offsets of their own.
        modulated: version 2 (Zhu et al., CVPR 2019): each sample is weighted, too.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        num_groups: int = 1,
        dilation: int = 1,
        deformable_groups: int = 1,
        modulated: bool = False,
    ) -> None:
        super().__init__()
        self.modulated = modulated
        self.num_offsets = 18 * deformable_groups
        num_masks = 9 * deformable_groups if modulated else 0
        geometry = {"stride": stride, "padding": dilation, "dilation": dilation}
        self.offset = nn.Conv2d(in_channels, self.num_offsets + num_masks, 3, **geometry)
        nn.init.kaiming_uniform_(self.offset.weight, a=1)
        nn.init.zeros_(self.offset.bias)
        geometry.update(groups=num_groups, deformable_groups=deformable_groups)
        if modulated:
            self.conv = ModulatedDeformConv(in_channels, out_channels, 3, bias=False, **geometry)
        else:
            self.conv = DeformConv(in_channels, out_channels, 3, **geometry)
        nn.init.kaiming_uniform_(self.conv.weight, a=1)

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, in_channels, H, W)`` to ``(batch, out_channels, H / stride, W / stride)``."""
        if not self.modulated:
            return self.conv(x, self.offset(x))
        predicted = self.offset(x)
        offset = predicted[:, : self.num_offsets]
        return self.conv(x, offset, predicted[:, self.num_offsets :].sigmoid())


class SqueezeExcitation(nn.Module):
    """Weigh the channels by what the whole map holds (Hu et al., CVPR 2018)."""

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        self.fc = nn.Sequential(
            nn.Linear(channels, channels // reduction, bias=False),
            nn.ReLU(inplace=True),
            nn.Linear(channels // reduction, channels, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, channels, H, W)`` in and out."""
        return x * self.fc(x.mean(dim=(2, 3)))[:, :, None, None]


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3 and 1 x 1 convolution with a residual connection.

    Args:
        in_channels, width, out_channels: channels before, inside and after.
        norm: makes a normalisation from the number of channels.
        stride: of the block; with a ``dilation`` above 1 the resolution is kept instead.
        num_groups: groups of the 3 x 3 convolution.
        stride_in_1x1: stride in the first convolution (Caffe) instead of the second.
        dilation: of the 3 x 3 convolution.
        avg_down: the shortcut averages before its 1 x 1 convolution instead of skipping pixels.
        with_se: weigh the channels at the end of the residual branch.
        deformable: makes the middle convolution from its channels, stride, groups and dilation;
            None: a plain one.
    """

    def __init__(
        self,
        in_channels: int,
        width: int,
        out_channels: int,
        norm: NormBuilder = FrozenBatchNorm2d,
        stride: int = 1,
        num_groups: int = 1,
        stride_in_1x1: bool = True,
        dilation: int = 1,
        avg_down: bool = False,
        with_se: bool = False,
        deformable: Callable[..., nn.Module] | None = None,
    ) -> None:
        super().__init__()
        stride = 1 if dilation > 1 else stride
        self.downsample = None
        if in_channels != out_channels:
            pool = nn.AvgPool2d(stride, ceil_mode=True, count_include_pad=False)
            shortcut_stride = 1 if avg_down else stride
            self.downsample = nn.Sequential(
                *([pool] if avg_down else []),
                _conv(in_channels, out_channels, 1, stride=shortcut_stride),
                norm(out_channels),
            )
        stride_1x1, stride_3x3 = (stride, 1) if stride_in_1x1 else (1, stride)
        self.conv1 = _conv(in_channels, width, 1, stride=stride_1x1)
        self.bn1 = norm(width)
        middle = deformable if deformable is not None else _conv_3x3
        self.conv2 = middle(
            width, width, stride=stride_3x3, num_groups=num_groups, dilation=dilation
        )
        self.bn2 = norm(width)
        self.conv3 = _conv(width, out_channels, 1)
        self.bn3 = norm(out_channels)
        self.se = SqueezeExcitation(out_channels) if with_se and deformable is None else None

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, in_channels, H, W)`` to ``(batch, out_channels, H / stride, W / stride)``."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        x = self.bn3(self.conv3(x))
        if self.se is not None:
            x = self.se(x)
        return F.relu(x + shortcut)


class ResNet(nn.Module):
    """ResNet backbone: ``stem``, then ``layer1`` to ``layer4``.

    Args:
        blocks: bottlenecks per stage; fewer than four numbers make fewer stages.
        out_stages: stages to return, 1 for ``layer1`` (stride 4) to 4 (stride 32).
        stem_channels: channels of the stem.
        first_channels: output channels of ``layer1``; each stage doubles them.
        num_groups, width_per_group: of the 3 x 3 convolutions (ResNeXt).
        stride_in_1x1: see ``Bottleneck``.
        last_dilation: dilation of the fourth stage; above 1 its stride becomes 1.
        stem_norm: normalisation of the stem.
        norm: normalisation of the blocks.
        norm_level: blocks of a stage that have ``norm``: 1: the first, 2: first and last,
            3: all.  The others are frozen batch normalisation.
        stem_3x3, avg_down, with_se: see ``Stem`` and ``Bottleneck``.
        deformable: one flag per stage, or empty for none.
        modulated, deformable_groups: see ``DeformableConv3x3``.
        frozen_stages: how many of stem, ``layer1``, ... do not train; negative: none.
        use_checkpoint: recompute each block in the backward pass.

    Raises:
        ValueError: for a stage that does not exist or an unknown ``norm_level``.
    """

    def __init__(
        self,
        blocks: Sequence[int] = BLOCKS[50],
        out_stages: Sequence[int] = (1, 2, 3, 4),
        *,
        stem_channels: int = 64,
        first_channels: int = 256,
        num_groups: int = 1,
        width_per_group: int = 64,
        stride_in_1x1: bool = True,
        last_dilation: int = 1,
        stem_norm: NormBuilder = FrozenBatchNorm2d,
        norm: NormBuilder = FrozenBatchNorm2d,
        norm_level: int = 3,
        stem_3x3: bool = False,
        avg_down: bool = False,
        with_se: bool = False,
        deformable: Sequence[bool] = (),
        modulated: bool = False,
        deformable_groups: int = 1,
        frozen_stages: int = -1,
        use_checkpoint: bool = False,
    ) -> None:
        super().__init__()
        if not set(out_stages) <= set(range(1, len(blocks) + 1)):
            raise ValueError(f"out_stages {tuple(out_stages)}: there are {len(blocks)} stages")
        if norm_level not in (1, 2, 3):
            raise ValueError(f"norm_level must be 1, 2 or 3, got {norm_level}")
        self.out_stages = tuple(out_stages)
        self.out_channels = [first_channels * 2 ** (stage - 1) for stage in out_stages]
        self.use_checkpoint = use_checkpoint

        def deformable_conv(*args: int, **geometry: int) -> nn.Module:
            return DeformableConv3x3(
                *args, **geometry, deformable_groups=deformable_groups, modulated=modulated
            )

        self.stem = Stem(stem_channels, stem_norm, stem_3x3)
        self.stages = []
        channels = stem_channels
        for stage, depth in enumerate(blocks, 1):
            out_channels = first_channels * 2 ** (stage - 1)
            own_norm = {1: {0}, 2: {0, depth - 1}, 3: set(range(depth))}[norm_level]
            layer = nn.Sequential()
            for index in range(depth):
                block = Bottleneck(
                    channels,
                    num_groups * width_per_group * 2 ** (stage - 1),
                    out_channels,
                    norm if index in own_norm else FrozenBatchNorm2d,
                    stride=2 if index == 0 and stage > 1 else 1,
                    num_groups=num_groups,
                    stride_in_1x1=stride_in_1x1,
                    dilation=last_dilation if stage == 4 else 1,
                    avg_down=avg_down,
                    with_se=with_se,
                    deformable=deformable_conv if any(deformable[stage - 1 : stage]) else None,
                )
                layer.append(block)
                channels = out_channels
            self.add_module(f"layer{stage}", layer)
            self.stages.append(f"layer{stage}")
        for name in ["stem", *self.stages][: max(frozen_stages, 0)]:
            getattr(self, name).requires_grad_(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Feature maps of the requested stages.

        Args:
            images: ``(batch, 3, H, W)``, normalised.

        Returns:
            per stage ``(batch, C_i, ~H / s_i, ~W / s_i)``, strides 4, 8, 16, 32.
        """
        x = self.stem(images)
        features = []
        for stage, name in enumerate(self.stages, 1):
            for block in getattr(self, name):
                if self.use_checkpoint and torch.is_grad_enabled():
                    x = checkpoint(block, x, use_reentrant=False)
                else:
                    x = block(x)
            if stage in self.out_stages:
                features.append(x)
        return features


def _conv(in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> nn.Conv2d:
    conv = nn.Conv2d(
        in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2, bias=False
    )
    nn.init.kaiming_uniform_(conv.weight, a=1)
    return conv


def _conv_3x3(
    in_channels: int, out_channels: int, stride: int, num_groups: int, dilation: int
) -> nn.Conv2d:
    conv = nn.Conv2d(
        in_channels, out_channels, 3, stride, dilation, dilation, groups=num_groups, bias=False
    )
    nn.init.kaiming_uniform_(conv.weight, a=1)
    return conv
