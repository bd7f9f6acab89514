"""Fusion layers of the head's tower: both streams in, both streams out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from maskrcnn_benchmark.modeling.fusion.bi_attention import (
    PADDING_BIAS,
    BiMultiHeadAttention,
    initialise_projections,
    score_bounds,
)
from maskrcnn_benchmark.modeling.fusion.feature_resizer import FeatureResizer
from maskrcnn_benchmark.modeling.language_backbone.text_features import TextFeatures


def flatten_levels(levels: Sequence[Tensor]) -> Tensor:
    """Maps ``[B, C, H_l, W_l]`` to tokens ``[B, sum of H_l W_l, C]``, row by row, level by level."""
    return torch.cat([level.flatten(2).transpose(1, 2) for level in levels], dim=1)


def unflatten_levels(tokens: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Inverse of ``flatten_levels`` for maps as high and wide as those of ``like``.

    Every map has channels-last memory of its own, so that convolutions need not copy it.
    """
    sizes = [level.shape[-2:] for level in like]
    pieces = tokens.split([height * width for height, width in sizes], dim=1)
    maps = (piece.contiguous().transpose(1, 2) for piece in pieces)
    return [piece.unflatten(2, tuple(size)) for piece, size in zip(maps, sizes)]


class BiAttentionBlock(nn.Module):
    """Pre-norm attention in both directions with a learned scale per channel.

    The skip connection starts from the *normalised* input: ``out = LN(x) + gamma * update``.
    Published weights were trained so.

    Args:
        visual_dim, text_dim: widths of the streams.
        attention: the attention itself.
        initial_scale: initial value of the per-channel scales.
        separate_levels: let every pyramid level attend to the text on its own; the texts that
            come out, one per level, are joined by ``shrink_lang``.
        num_levels: number of pyramid levels, needed for separate levels.
        shrink_inside: whether ``shrink_lang`` belongs to this block; otherwise the texts are
            returned side by side, ``[B, T, num_levels * text_dim]``.
    """

    def __init__(
        self,
        visual_dim: int,
        text_dim: int,
        attention: BiMultiHeadAttention,
        *,
        initial_scale: float,
        separate_levels: bool = False,
        num_levels: int = 5,
        shrink_inside: bool = True,
    ) -> None:
        super().__init__()
        self.separate_levels = separate_levels
        self.gamma_v = nn.Parameter(torch.full((visual_dim,), initial_scale))
        self.gamma_l = nn.Parameter(torch.full((text_dim,), initial_scale))
        self.layer_norm_v = nn.LayerNorm(visual_dim)
        self.layer_norm_l = nn.LayerNorm(text_dim)
        self.attn = attention
        self.shrink_lang = None
        if separate_levels and shrink_inside:
            self.shrink_lang = FeatureResizer(num_levels * text_dim, text_dim)

    def forward(
        self, levels: list[Tensor], text: Tensor, text_mask: Tensor
    ) -> tuple[list[Tensor], Tensor]:
        """Fuse.

        Args:
            levels: maps ``[B, visual_dim, H_l, W_l]``.
            text: ``[B, T, text_dim]``.
            text_mask: ``[B, T]``, non-zero where a real token stands.

        Returns:
            The two streams, of the same shapes (but see ``shrink_inside``).
        """
        if not self.separate_levels:
            visual, text = self._fuse(flatten_levels(levels), text, text_mask)
            return unflatten_levels(visual, levels), text
        fused = [self._fuse(flatten_levels([level]), text, text_mask) for level in levels]
        visual = [unflatten_levels(v, [level])[0] for (v, _), level in zip(fused, levels)]
        text = torch.cat([text for _, text in fused], dim=-1)
        return visual, text if self.shrink_lang is None else self.shrink_lang(text)

    def _fuse(self, visual: Tensor, text: Tensor, text_mask: Tensor) -> tuple[Tensor, Tensor]:
        visual, text = self.layer_norm_v(visual), self.layer_norm_l(text)
        visual_update, text_update = self.attn(visual, text, text_mask)
        return visual + self.gamma_v * visual_update, text + self.gamma_l * text_update


class BiAttentionFuse(nn.Module):
    """Tower layer "MHA-B": image and text update each other.

    Args:
        visual_dim, text_dim: widths of the streams; heads are as wide as the visual stream.
        num_heads: number of attention heads.
        use_checkpoint: drop activations in training and compute them again in the backward pass.
            Only the plain attention gains by it: the folded one keeps no scores anyway.
        separate_levels, shrink_outside_checkpoint: see ``BiAttentionBlock``; the latter puts
            ``shrink_lang`` into this layer instead of the block.
        num_levels, initial_scale: see ``BiAttentionBlock``.
        dropout, stable_softmax_2d, clamp_min, clamp_max, implementation: see
            ``BiMultiHeadAttention``.
    """

    def __init__(
        self,
        visual_dim: int,
        text_dim: int,
        *,
        num_heads: int = 8,
        initial_scale: float,
        use_checkpoint: bool = False,
        separate_levels: bool = False,
        num_levels: int = 5,
        shrink_outside_checkpoint: bool = False,
        dropout: float = 0.1,
        stable_softmax_2d: bool = False,
        clamp_min: bool = False,
        clamp_max: bool = False,
        implementation: str = "folded",
    ) -> None:
        super().__init__()
        self.use_checkpoint = use_checkpoint
        attention = BiMultiHeadAttention(
            visual_dim,
            text_dim,
            embed_dim=num_heads * visual_dim,
            num_heads=num_heads,
            dropout=dropout,
            stable_softmax_2d=stable_softmax_2d,
            clamp_min=clamp_min,
            clamp_max=clamp_max,
            implementation=implementation,
        )
        self.b_attn = BiAttentionBlock(
            visual_dim,
            text_dim,
            attention,
            initial_scale=initial_scale,
            separate_levels=separate_levels,
            num_levels=num_levels,
            shrink_inside=not shrink_outside_checkpoint,
        )
        self.shrink_lang = None
        if separate_levels and shrink_outside_checkpoint:
            self.shrink_lang = FeatureResizer(num_levels * text_dim, text_dim)

    def forward(
        self, visual: list[Tensor], text: TextFeatures
    ) -> tuple[list[Tensor], TextFeatures]:
        """Maps ``[B, visual_dim, H_l, W_l]`` and text in, the same updated out."""
        plain = self.b_attn.attn.implementation == "plain"
        if self.use_checkpoint and plain and self.training and torch.is_grad_enabled():
            visual, hidden = checkpoint(
                self.b_attn, visual, text.hidden, text.masks, use_reentrant=False
            )
        else:
            visual, hidden = self.b_attn(visual, text.hidden, text.masks)
        if self.shrink_lang is not None:
            hidden = self.shrink_lang(hidden)
        return visual, text._replace(hidden=hidden)


class CrossAttention(nn.Module):
    """Multi-head attention of visual tokens to the text.

    Args:
        visual_dim, text_dim: widths of the streams.
        embed_dim: width of queries, keys and values, all heads together.
        num_heads: number of heads.
        dropout: probability of dropping an attention weight in training.
        clamp_min, clamp_max: keep scores at or above -50000, at or below 50000.
    """

    def __init__(
        self,
        visual_dim: int,
        text_dim: int,
        embed_dim: int,
        num_heads: int,
        *,
        dropout: float = 0.1,
        clamp_min: bool = False,
        clamp_max: bool = False,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.head_dim = embed_dim // num_heads
        self.dropout = dropout
        self.score_bounds = score_bounds(clamp_min, clamp_max)
        self.q_proj = nn.Linear(visual_dim, embed_dim)
        self.k_proj = nn.Linear(text_dim, embed_dim)
        self.v_proj = nn.Linear(text_dim, embed_dim)
        self.out_proj = nn.Linear(embed_dim, visual_dim)
        initialise_projections(self)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, text_mask: Tensor) -> Tensor:
        """Update of ``query [B, N, visual_dim]`` from ``key, value [B, T, text_dim]``."""
        query, key, value = (
            projected.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)
            for projected in (
                self.q_proj(query) * self.head_dim**-0.5,
                self.k_proj(key),
                self.v_proj(value),
            )
        )
        scores = (query @ key.transpose(-1, -2)).clamp(*self.score_bounds)
        full_dtype = torch.float64 if scores.dtype == torch.float64 else torch.float32
        padding_bias = (text_mask == 0).to(full_dtype) * PADDING_BIAS
        weights = (scores + padding_bias[:, None, None, :]).softmax(-1)
        weights = F.dropout(weights, self.dropout, self.training).to(value.dtype)
        return self.out_proj((weights @ value).transpose(1, 2).flatten(2))


class TextToImageBlock(nn.Module):
    """Attention of every pyramid level to the text, ``out = LN(x) + gamma * update``.

    The text is normalised once more for every level: level k sees it normalised k+1 times.

    Args:
        visual_dim, text_dim: widths of the streams.
        attention: the attention itself.
        initial_scale: initial value of the per-channel scale; None: no scale.
    """

    def __init__(
        self,
        visual_dim: int,
        text_dim: int,
        attention: CrossAttention,
        *,
        initial_scale: float | None,
    ) -> None:
        super().__init__()
        self.layer_norm_q_1 = nn.LayerNorm(visual_dim)
        self.layer_norm_k_1 = nn.LayerNorm(text_dim)
        self.attn = attention
        self.gamma = None
        if initial_scale is not None:
            self.gamma = nn.Parameter(torch.full((visual_dim,), initial_scale))

    def forward(self, levels: list[Tensor], text: Tensor, text_mask: Tensor) -> list[Tensor]:
        """Maps ``[B, visual_dim, H_l, W_l]`` updated from ``text [B, T, text_dim]``."""
        updated = []
        for level in levels:
            text = self.layer_norm_k_1(text)
            visual = self.layer_norm_q_1(flatten_levels([level]))
            update = self.attn(visual, text, text, text_mask)
            if self.gamma is not None:
                update = self.gamma * update
            updated.extend(unflatten_levels(visual + update, [level]))
        return updated


class TextToImageFuse(nn.Module):
    """Tower layer "MHA-S": the image is updated from the text, the text stays.

    Args:
        visual_dim, text_dim: widths of the streams; heads are as wide as the visual stream.
        num_heads: number of attention heads.
        initial_scale: see ``TextToImageBlock``.
        use_checkpoint: drop activations in training and compute them again in the backward pass.
        dropout, clamp_min, clamp_max: see ``CrossAttention``.
    """

    def __init__(
        self,
        visual_dim: int,
        text_dim: int,
        *,
        num_heads: int = 8,
        initial_scale: float | None,
        use_checkpoint: bool = False,
        dropout: float = 0.1,
        clamp_min: bool = False,
        clamp_max: bool = False,
    ) -> None:
        super().__init__()
        self.use_checkpoint = use_checkpoint
        attention = CrossAttention(
            visual_dim,
            text_dim,
            embed_dim=num_heads * visual_dim,
            num_heads=num_heads,
            dropout=dropout,
            clamp_min=clamp_min,
            clamp_max=clamp_max,
        )
        self.t2i_attn = TextToImageBlock(
            visual_dim, text_dim, attention, initial_scale=initial_scale
        )

    def forward(
        self, visual: list[Tensor], text: TextFeatures
    ) -> tuple[list[Tensor], TextFeatures]:
        """Maps ``[B, visual_dim, H_l, W_l]`` and text in, the maps updated out."""
        if self.use_checkpoint and self.training and torch.is_grad_enabled():
            visual = checkpoint(self.t2i_attn, visual, text.hidden, text.masks, use_reentrant=False)
        else:
            visual = self.t2i_attn(visual, text.hidden, text.masks)
        return visual, text


def set_fusion_implementation(model: nn.Module, implementation: str) -> None:
    """Switch every bi-directional attention in ``model`` to "folded" or "plain".

    Raises:
        ValueError: for another name.
    """
    for module in model.modules():
        if isinstance(module, BiMultiHeadAttention):
            module.set_implementation(implementation)
