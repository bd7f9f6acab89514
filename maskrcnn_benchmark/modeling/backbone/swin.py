"""Swin Transformer (Liu et al., ICCV 2021) as a detection backbone.

Top to bottom: patch embedding, window attention, block, patch merging, stage, backbone.  Maps are
channels-last, ``(batch, height, width, channels)``, until they leave the backbone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice

import torch
import torch.nn.functional as F
from timm.layers import DropPath
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

# Makes a block from the arguments of ``SwinBlock``.
BlockType = Callable[..., nn.Module]

MASKED = -100.0  # added to the score of two tokens that the cyclic shift brought together


class PatchEmbed(nn.Module):
    """Cut the image into square patches, project each, and normalise."""

    def __init__(self, patch_size: int = 4, in_channels: int = 3, embed_dim: int = 96) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Conv2d(in_channels, embed_dim, patch_size, stride=patch_size)
        self.norm = nn.LayerNorm(embed_dim)

    def forward(self, images: Tensor) -> Tensor:
        """``(batch, 3, H, W)`` to ``(batch, ceil(H / 4), ceil(W / 4), embed_dim)``."""
        images = F.pad(images, _padding_to_multiple(*images.shape[-2:], self.patch_size))
        return self.norm(self.proj(images).permute(0, 2, 3, 1))


class WindowAttention(nn.Module):
    """Multi-head attention inside windows, with a learned bias for relative position.

    Args:
        dim: channels.
        window_size: side of a window in tokens.
        num_heads: heads; ``dim`` must be divisible.

    Raises:
        ValueError: if ``dim`` is not divisible by ``num_heads``.
    """

    def __init__(self, dim: int, window_size: int, num_heads: int) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"dim {dim} cannot be shared by {num_heads} heads")
        self.window_size = window_size
        self.num_heads = num_heads
        self.relative_position_bias_table = nn.Parameter(
            torch.zeros((2 * window_size - 1) ** 2, num_heads)
        )
        self.register_buffer("relative_position_index", relative_position_index(window_size))
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)

    def position_bias(self) -> Tensor:
        """``(heads, tokens, tokens)`` bias, tokens = window_size ** 2."""
        num_tokens = self.window_size**2
        bias = self.relative_position_bias_table[self.relative_position_index.reshape(-1)]
        return bias.view(num_tokens, num_tokens, self.num_heads).permute(2, 0, 1)

    def forward(self, windows: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend within each window.

        Args:
            windows: ``(num_windows, tokens, dim)``.
            mask: added to the scores, ``(num_windows, 1, tokens, tokens)``.

        Returns:
            ``(num_windows, tokens, dim)``.
        """
        num_windows, num_tokens, dim = windows.shape
        qkv = self.qkv(windows).view(num_windows, num_tokens, 3, self.num_heads, -1)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        # Narrow before they are spread over the windows: under autocast that halves the largest
        # tensor of the block.
        bias = self.position_bias().to(query.dtype)[None]
        if mask is not None:
            bias = bias + mask.to(query.dtype)
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        return self.proj(out.transpose(1, 2).reshape(num_windows, num_tokens, dim))


class Mlp(nn.Module):
    """Linear, exact GELU, Linear."""

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Any leading shape, ``dim`` last; the same shape comes back."""
        return self.fc2(F.gelu(self.fc1(x)))


class SwinBlock(nn.Module):
    """Window attention and MLP, each normalised first, with a residual connection.

    Args:
        dim: channels.
        num_heads: attention heads.
        window_size: side of a window in tokens.
        shifted: whether the windows lie half a window further down and right; what the border
            cuts off is joined cyclically, and masked.
        mlp_ratio: width of the MLP relative to ``dim``.
        drop_path: probability to skip a residual branch for an image while training.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        window_size: int,
        shifted: bool,
        mlp_ratio: float = 4.0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.window_size = window_size
        self.shift = window_size // 2 if shifted else 0
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, window_size, num_heads)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        if self.shift:
            masks = border_masks(window_size, self.shift)
            self.register_buffer("border_masks", masks, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, height, width, dim)`` in and out."""
        x = x + self.drop_path(self.attend(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))

    def attend(self, x: Tensor) -> Tensor:
        """Attention over the windows of a normalised map ``(batch, height, width, dim)``."""
        batch, height, width, _ = x.shape
        # Padding comes after the normalisation: padded tokens are zero, yet the biases of qkv
        # make them keys and values like any other.
        padding = _padding_to_multiple(height, width, self.window_size)
        if any(padding):
            x = F.pad(x, (0, 0, *padding))
        if self.shift:
            x = torch.roll(x, (-self.shift, -self.shift), dims=(1, 2))
        padded_height, padded_width = x.shape[1:3]
        windows = partition_windows(x, self.window_size)
        windows = self.attn(windows, self.shift_mask(batch, padded_height, padded_width))
        x = join_windows(windows, self.window_size, padded_height, padded_width)
        if self.shift:
            x = torch.roll(x, (self.shift, self.shift), dims=(1, 2))
        return x[:, :height, :width]

    def shift_mask(self, batch: int, height: int, width: int) -> Tensor | None:
        """What the windows of a padded map may not mix, None without shift.

        Returns:
            ``(batch * windows, 1, tokens, tokens)``, 0 or ``MASKED``.
        """
        if not self.shift:
            return None
        device = self.border_masks.device
        rows, columns = height // self.window_size, width // self.window_size
        # Only the last row and the last column of windows hold tokens from both ends of the map.
        in_last_row = torch.arange(rows, device=device) == rows - 1
        in_last_column = torch.arange(columns, device=device) == columns - 1
        kind = 2 * in_last_row.long()[:, None] + in_last_column.long()
        return self.border_masks[kind.reshape(-1).repeat(batch), None]


class PatchMerging(nn.Module):
    """Join 2 x 2 neighbours: half the resolution, twice the channels."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, H, W, dim)`` to ``(batch, ceil(H / 2), ceil(W / 2), 2 * dim)``."""
        height, width = x.shape[1:3]
        if height % 2 or width % 2:
            x = F.pad(x, (0, 0, 0, width % 2, 0, height % 2))
        batch, height, width, dim = x.shape
        x = x.view(batch, height // 2, 2, width // 2, 2, dim)
        # The upper left neighbour comes first, then lower left, upper right, lower right.
        x = x.permute(0, 1, 3, 4, 2, 5).flatten(3)
        return self.reduction(self.norm(x))


class SwinStage(nn.Module):
    """Blocks of one resolution, then (except at the end) patch merging.

    Args:
        dim: channels.
        num_heads: attention heads.
        window_size: side of a window in tokens.
        drop_path: a probability per block; their number is the depth.
        mlp_ratio: width of the MLP relative to ``dim``.
        merge: whether to end with patch merging.
        use_checkpoint: recompute each block in the backward pass instead of keeping activations.
        block_types: what makes each block; None: all are ``SwinBlock``.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        window_size: int,
        drop_path: Sequence[float],
        mlp_ratio: float = 4.0,
        merge: bool = True,
        use_checkpoint: bool = False,
        block_types: Sequence[BlockType] | None = None,
    ) -> None:
        super().__init__()
        self.use_checkpoint = use_checkpoint
        types = block_types or [SwinBlock] * len(drop_path)
        self.blocks = nn.ModuleList(
            make(dim, num_heads, window_size, index % 2 == 1, mlp_ratio, probability)
            for index, (make, probability) in enumerate(zip(types, drop_path, strict=True))
        )
        self.downsample = PatchMerging(dim) if merge else None

    def forward(self, x: Tensor) -> Tensor:
        """The stage's output, before merging: ``(batch, height, width, dim)`` in and out."""
        for block in self.blocks:
            x = self.run_block(block, x)
        return x

    def run_block(self, block: nn.Module, x: Tensor, *context: Tensor) -> Tensor:
        """One block of the stage, recomputed in the backward pass if the stage is set to."""
        if self.use_checkpoint and torch.is_grad_enabled():
            return checkpoint(block, x, *context, use_reentrant=False)
        return block(x, *context)


class SwinTransformer(nn.Module):
    """Swin backbone.

    Args:
        embed_dim: channels of the first stage; each stage doubles them.
        depths: blocks per stage.
        num_heads: attention heads per stage.
        window_size: side of a window in tokens.
        mlp_ratio: width of the MLPs.
        drop_path_rate: probability of the last block's drop path; rises linearly from 0.
        absolute_position: add a learned map of absolute positions to the patches.
        out_stages: indices of the stages to return.
        norm_first_stage: whether the output of stage 0 is normalised.  RetinaNet-style pyramids
            do not read it, and their checkpoints have no such parameters.
        frozen_stages: negative: none; 0 or more: patch embedding; 1 or more: absolute positions;
            n >= 2: stages 0 to n - 2, patch merging included.  Frozen parts neither train nor
            drop paths.
        use_checkpoint: recompute blocks of stages that train in the backward pass.
        block_types: per stage what makes each of its blocks; None: all are ``SwinBlock``.

    Raises:
        ValueError: if ``depths`` and ``num_heads`` differ in length, or a stage does not exist.
    """

    def __init__(
        self,
        embed_dim: int = 96,
        depths: Sequence[int] = (2, 2, 6, 2),
        num_heads: Sequence[int] = (3, 6, 12, 24),
        window_size: int = 7,
        mlp_ratio: float = 4.0,
        drop_path_rate: float = 0.2,
        absolute_position: bool = False,
        out_stages: Sequence[int] = (0, 1, 2, 3),
        norm_first_stage: bool = False,
        frozen_stages: int = -1,
        use_checkpoint: bool = False,
        block_types: Sequence[Sequence[BlockType] | None] | None = None,
    ) -> None:
        super().__init__()
        num_stages = len(depths)
        if len(num_heads) != num_stages:
            raise ValueError(f"{num_stages} depths but {len(num_heads)} numbers of heads")
        if not set(out_stages) <= set(range(num_stages)):
            raise ValueError(f"out_stages {tuple(out_stages)}: there are {num_stages} stages")
        self.num_features = [embed_dim * 2**index for index in range(num_stages)]
        self.out_stages = tuple(out_stages)
        self.out_channels = [self.num_features[index] for index in self.out_stages]
        self.frozen_stages = frozen_stages

        self.patch_embed = PatchEmbed(embed_dim=embed_dim)
        self.absolute_pos_embed = None
        if absolute_position:
            self.absolute_pos_embed = nn.Parameter(torch.zeros(1, embed_dim, 56, 56))
            nn.init.trunc_normal_(self.absolute_pos_embed, std=0.02)

        last_block = max(sum(depths) - 1, 1)
        rates = iter(drop_path_rate * block / last_block for block in range(sum(depths)))
        self.layers = nn.ModuleList(
            SwinStage(
                dim=self.num_features[index],
                num_heads=num_heads[index],
                window_size=window_size,
                drop_path=list(islice(rates, depths[index])),
                mlp_ratio=mlp_ratio,
                merge=index < num_stages - 1,
                use_checkpoint=use_checkpoint and index > frozen_stages - 1,
                block_types=block_types[index] if block_types else None,
            )
            for index in range(num_stages)
        )
        for index in self.out_stages:
            normed = index > 0 or norm_first_stage
            norm = nn.LayerNorm(self.num_features[index]) if normed else nn.Identity()
            self.add_module(f"norm{index}", norm)
        self._freeze()

    def forward(self, images: Tensor) -> list[Tensor]:
        """Feature maps of the requested stages.

        Args:
            images: ``(batch, 3, H, W)``, normalised.

        Returns:
            per stage ``(batch, C_i, ceil(H / s_i), ceil(W / s_i))`` with strides 4, 8, 16, 32,
            in channels-last memory order.
        """
        x = self.embed(images)
        features = []
        for index, stage in enumerate(self.layers):
            x = self.leave_stage(index, stage(x), features)
        return features

    def embed(self, images: Tensor) -> Tensor:
        """``(batch, 3, H, W)`` to patches ``(batch, ceil(H / 4), ceil(W / 4), embed_dim)``."""
        x = self.patch_embed(images)
        if self.absolute_pos_embed is None:
            return x
        position = F.interpolate(self.absolute_pos_embed, x.shape[1:3], mode="bicubic")
        return x + position.permute(0, 2, 3, 1)

    def leave_stage(self, index: int, x: Tensor, features: list[Tensor]) -> Tensor:
        """Hand out the map of a stage, if it is asked for, and prepare the next stage's input.

        Args:
            index: of the stage.
            x: ``(batch, height, width, channels)``, what its last block gave.
            features: where the normalised map ``(batch, channels, height, width)`` is appended.

        Returns:
            ``x`` at half the resolution; after the last stage ``x``.
        """
        if index in self.out_stages:
            features.append(getattr(self, f"norm{index}")(x).permute(0, 3, 1, 2))
        downsample = self.layers[index].downsample
        return x if downsample is None else downsample(x)

    def train(self, mode: bool = True) -> SwinTransformer:
        """Set the mode; frozen parts stay in evaluation mode."""
        super().train(mode)
        self._freeze()
        return self

    def _freeze(self) -> None:
        if self.frozen_stages < 0:
            return
        frozen = [self.patch_embed, *self.layers[: max(self.frozen_stages - 1, 0)]]
        for module in frozen:
            module.eval()
            module.requires_grad_(False)
        if self.frozen_stages >= 1 and self.absolute_pos_embed is not None:
            self.absolute_pos_embed.requires_grad_(False)


def relative_position_index(window_size: int) -> Tensor:
    """Row of the bias table for each pair of tokens, int64 ``(tokens, tokens)``.

    ``(dy + w - 1) * (2w - 1) + (dx + w - 1)`` with the offset from key to query.
    """
    axis = torch.arange(window_size)
    y, x = (grid.reshape(-1) for grid in torch.meshgrid(axis, axis, indexing="ij"))
    dy = y[:, None] - y[None, :] + window_size - 1
    dx = x[:, None] - x[None, :] + window_size - 1
    return dy * (2 * window_size - 1) + dx


def border_masks(window_size: int, shift: int) -> Tensor:
    """What a shifted window may not mix, ``(4, tokens, tokens)``: 0 or ``MASKED``.

    After the cyclic shift the last ``shift`` rows (columns) of the map come from its other end.
    The kinds of window: 0 inside, 1 in the last column, 2 in the last row, 3 in the corner.
    """
    axis = torch.arange(window_size) >= window_size - shift
    y, x = (grid.reshape(-1) for grid in torch.meshgrid(axis, axis, indexing="ij"))
    across_rows = y[:, None] != y[None, :]
    across_columns = x[:, None] != x[None, :]
    inside = torch.zeros_like(across_rows)
    forbidden = torch.stack((inside, across_columns, across_rows, across_rows | across_columns))
    return torch.where(forbidden, MASKED, 0.0)


def partition_windows(x: Tensor, window_size: int) -> Tensor:
    """``(batch, H, W, dim)`` to ``(batch * windows, window_size ** 2, dim)``, image after image."""
    batch, height, width, dim = x.shape
    x = x.view(batch, height // window_size, window_size, width // window_size, window_size, dim)
    return x.transpose(2, 3).reshape(-1, window_size**2, dim)


def join_windows(windows: Tensor, window_size: int, height: int, width: int) -> Tensor:
    """The inverse of ``partition_windows``."""
    rows, columns = height // window_size, width // window_size
    x = windows.view(-1, rows, columns, window_size, window_size, windows.shape[-1])
    return x.transpose(2, 3).reshape(-1, height, width, windows.shape[-1])


def _padding_to_multiple(height: int, width: int, multiple: int) -> tuple[int, int, int, int]:
    """Padding at the left, right, top and bottom, as ``F.pad`` orders it."""
    return 0, -width % multiple, 0, -height % multiple
