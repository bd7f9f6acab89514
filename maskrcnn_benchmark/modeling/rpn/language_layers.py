"""Language layers of the head's tower: the text, updated by the image, attends to itself."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from maskrcnn_benchmark.modeling.fusion.bi_attention import SCORE_LIMIT, score_bounds
from maskrcnn_benchmark.modeling.language_backbone.clip import CLIPBlock
from maskrcnn_benchmark.modeling.language_backbone.text_features import TextFeatures


def _clamp(x: Tensor) -> Tensor:
    """Keep half-precision activations away from infinity."""
    return x.clamp(-SCORE_LIMIT, SCORE_LIMIT)


class BertSelfAttention(nn.Module):
    """Scaled dot-product self-attention with optional bounds on the scores.

    Args:
        dim: width of the tokens.
        num_heads: number of heads; divides ``dim``.
        dropout: probability of dropping an attention weight in training.
        clamp_min, clamp_max: keep scores at or above -50000, at or below 50000.
    """

    def __init__(
        self, dim: int, num_heads: int, *, dropout: float, clamp_min: bool, clamp_max: bool
    ) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"dim {dim} is not a multiple of num_heads {num_heads}")
        self.num_heads = num_heads
        self.score_bounds = score_bounds(clamp_min, clamp_max)
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """``hidden [B, T, dim]`` attends to itself where ``mask [B, T]`` is not zero."""
        query, key, value = (
            projection(hidden).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for projection in (self.query, self.key, self.value)
        )
        scores = (query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5).clamp(*self.score_bounds)
        full_dtype = torch.float64 if scores.dtype == torch.float64 else torch.float32
        padding = (mask == 0)[:, None, None, :]
        scores = scores.to(full_dtype).masked_fill(padding, torch.finfo(full_dtype).min)
        weights = self.dropout(scores.softmax(-1)).to(value.dtype)
        return (weights @ value).transpose(1, 2).flatten(2)


class _Attention(nn.Module):
    def __init__(self, self_attention: BertSelfAttention, output: nn.Module) -> None:
        super().__init__()
        self.self = self_attention
        self.output = output


class _Output(nn.Module):
    """Projection back to the stream, dropout, skip connection, normalisation."""

    def __init__(self, in_features: int, dim: int, dropout: float) -> None:
        super().__init__()
        self.dense = nn.Linear(in_features, dim)
        self.LayerNorm = nn.LayerNorm(dim, eps=1e-12)
        self.dropout = nn.Dropout(dropout)


class _Intermediate(nn.Module):
    def __init__(self, dim: int, feedforward_dim: int) -> None:
        super().__init__()
        self.dense = nn.Linear(dim, feedforward_dim)


class BertEncoderLayer(nn.Module):
    """One post-norm encoder layer as in BERT, with activations kept within +-50000.

    Args:
        dim: width of the tokens.
        num_heads: attention heads.
        feedforward_dim: width of the hidden layer of the feed-forward part.
        dropout: probability for attention weights and both outputs.
        clamp_min, clamp_max: see ``BertSelfAttention``.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        feedforward_dim: int,
        *,
        dropout: float = 0.1,
        clamp_min: bool = False,
        clamp_max: bool = False,
    ) -> None:
        super().__init__()
        attention = BertSelfAttention(
            dim, num_heads, dropout=dropout, clamp_min=clamp_min, clamp_max=clamp_max
        )
        self.attention = _Attention(attention, _Output(dim, dim, dropout))
        self.intermediate = _Intermediate(dim, feedforward_dim)
        self.output = _Output(feedforward_dim, dim, dropout)

    def forward(
        self, visual: list[Tensor], text: TextFeatures
    ) -> tuple[list[Tensor], TextFeatures]:
        """The maps pass through; ``text.hidden [B, T, dim]`` is encoded once more."""
        hidden = text.hidden
        first, second = self.attention.output, self.output
        context = self.attention.self(hidden, text.masks)
        hidden = first.LayerNorm(hidden + first.dropout(first.dense(context)))
        inner = _clamp(F.gelu(_clamp(self.intermediate.dense(hidden))))
        update = _clamp(second.dropout(second.dense(inner)))
        return visual, text._replace(hidden=_clamp(second.LayerNorm(hidden + update)))


class CLIPTransformerLayer(CLIPBlock):
    """One pre-norm encoder layer as in CLIP, attending in both directions.

    Args:
        dim: width of the tokens.
        num_heads: attention heads.
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__(dim, num_heads)
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.trunc_normal_(parameter, std=0.02)

    def forward(
        self, visual: list[Tensor], text: TextFeatures
    ) -> tuple[list[Tensor], TextFeatures]:
        """The maps pass through; ``text.hidden [B, T, dim]`` is encoded once more."""
        return visual, text._replace(hidden=super().forward(text.hidden, text.masks == 0))


class PassThrough(nn.Module):
    """Keeps a place in the tower without doing anything."""

    def forward(
        self, visual: list[Tensor], text: TextFeatures
    ) -> tuple[list[Tensor], TextFeatures]:
        return visual, text
