"""Swin Transformer whose last blocks look at the text (FIBER: Dou et al., NeurIPS 2022)."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskrcnn_benchmark.modeling.backbone.swin import (
    SwinBlock,
    SwinStage,
    SwinTransformer,
    WindowAttention,
)


class TextWindowAttention(WindowAttention):
    """Window attention with a second attention on top, from positions to tokens of the text.

    What is read from the text is weighed by a gate that starts at zero.

    Args:
        dim, window_size, num_heads: see ``WindowAttention``; the heads also serve the text.
        text_dim: width of the tokens.
        norm_query: normalise the positions before they ask (FIBER's "v3"; "v2" does not).
    """

    def __init__(
        self, dim: int, window_size: int, num_heads: int, text_dim: int, norm_query: bool
    ) -> None:
        super().__init__(dim, window_size, num_heads)
        self.qkv_text_i2t = nn.Linear(text_dim, 2 * dim)
        self.qkv_i2t = nn.Linear(dim, dim)
        self.proj_i2t = nn.Linear(dim, dim)
        self.norm_i2t_i = nn.LayerNorm(dim) if norm_query else nn.Identity()
        self.alpha_i2t = nn.Parameter(torch.zeros(1))

    def read_text(self, x: Tensor, text: Tensor, is_token: Tensor) -> Tensor:
        """Add what each position reads from the text.

        Every position reads the whole text of its image, so windows play no part here.

        Args:
            x: ``(batch, height, width, dim)``, from the window attention.
            text: ``(batch, num_tokens, text_dim)``.
            is_token: ``(batch, num_tokens)`` bool, True where a token stands.
        """
        query = self.qkv_i2t(self.norm_i2t_i(x)).flatten(1, 2)
        query = query.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        key_value = self.qkv_text_i2t(text).unflatten(-1, (2, self.num_heads, -1))
        key, value = key_value.permute(2, 0, 3, 1, 4).unbind(0)
        out = F.scaled_dot_product_attention(
            query, key, value, attn_mask=is_token[:, None, None, :]
        )
        out = out.transpose(1, 2).reshape(x.shape)
        return x + self.alpha_i2t * self.proj_i2t(out)


class FusedSwinBlock(SwinBlock):
    """A block whose attention reads the text too, inside the residual branch.

    Args:
        dim, num_heads, window_size, shifted, mlp_ratio, drop_path: see ``SwinBlock``.
        text_dim, norm_query: see ``TextWindowAttention``.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        window_size: int,
        shifted: bool,
        mlp_ratio: float = 4.0,
        drop_path: float = 0.0,
        *,
        text_dim: int,
        norm_query: bool,
    ) -> None:
        super().__init__(dim, num_heads, window_size, shifted, mlp_ratio, drop_path)
        self.attn = TextWindowAttention(dim, window_size, num_heads, text_dim, norm_query)

    def forward(self, x: Tensor, text: Tensor, is_token: Tensor) -> Tensor:
        """``(batch, height, width, dim)`` in and out; the text as in ``read_text``."""
        attended = self.attn.read_text(self.attend(self.norm1(x)), text, is_token)
        x = x + self.drop_path(attended)
        return x + self.drop_path(self.mlp(self.norm2(x)))


class FusedSwinTransformer(SwinTransformer):
    """Swin whose last blocks read the text.

    ``forward`` runs what comes before them; the fused blocks are run one by one, in step with the
    text encoder, see ``FusedBackbone``.

    Args:
        depths, num_heads: blocks and heads per stage.
        num_fused: how many of the last blocks, over all stages, read the text.
        text_dim, norm_query: see ``TextWindowAttention``.
        options: see ``SwinTransformer``.

    Raises:
        ValueError: if there are fewer blocks than are to be fused.
    """

    def __init__(
        self,
        depths: tuple[int, ...],
        num_heads: tuple[int, ...],
        *,
        num_fused: int,
        text_dim: int,
        norm_query: bool,
        **options: Any,
    ) -> None:
        num_plain = sum(depths) - num_fused
        if not 0 < num_fused <= sum(depths):
            raise ValueError(f"{num_fused} blocks to fuse, of {sum(depths)}")
        fused = partial(FusedSwinBlock, text_dim=text_dim, norm_query=norm_query)
        places = [(stage, index) for stage, depth in enumerate(depths) for index in range(depth)]
        types = [[SwinBlock] * depth for depth in depths]
        for stage, index in places[num_plain:]:
            types[stage][index] = fused
        super().__init__(depths=depths, num_heads=num_heads, block_types=types, **options)
        self.first_fused = places[num_plain]
        # The last stage has few positions: recomputing it would save next to nothing.
        self.layers[-1].use_checkpoint = False

    @property
    def fused_dims(self) -> list[int]:
        """Channels of the map that each fused block gets, in order."""
        return [self.num_features[index] for index, _, _ in self.fused_blocks()]

    def fused_blocks(self) -> list[tuple[int, SwinStage, FusedSwinBlock]]:
        """Index of the stage, stage and block of all fused blocks, in order."""
        first_stage, first_block = self.first_fused
        return [
            (index, stage, block)
            for index, stage in enumerate(self.layers)
            if index >= first_stage
            for block in stage.blocks[first_block if index == first_stage else 0 :]
        ]

    def forward(self, images: Tensor) -> list[Tensor]:
        """Encode images up to the first fused block.

        Args:
            images: ``(batch, 3, H, W)``, normalised.

        Returns:
            the maps of finished stages that were asked for, ``(batch, channels, height, width)``,
            finest first; then what the first fused block gets, ``(batch, height, width,
            channels)``.
        """
        x = self.embed(images)
        features: list[Tensor] = []
        last_stage, first_block = self.first_fused
        for index, stage in enumerate(self.layers[:last_stage]):
            x = self.leave_stage(index, stage(x), features)
        stage = self.layers[last_stage]
        for block in stage.blocks[:first_block]:
            x = stage.run_block(block, x)
        return [*features, x]
