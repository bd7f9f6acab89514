"""Attention that updates image and text from each other (GLIP paper, section 3.2, equations 4-6)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from maskrcnn_benchmark.modeling.fusion.folded_attention import folded_bi_attention

IMPLEMENTATIONS = ("folded", "plain")

# Scores are kept within these bounds where the configuration asks for it.
SCORE_LIMIT = 50000.0
# What a padding token adds to its scores. Finite on purpose: in a caption without any real token
# all scores round to it and attention is uniform.
PADDING_BIAS = -9e15


class BiMultiHeadAttention(nn.Module):
    """Multi-head attention in both directions that share one matrix of scores.

    ``S = Q K^T`` with ``Q`` from the image and ``K`` from the text. Its softmax over the text
    weighs text values for the image, its softmax over the image positions weighs image values for
    the text. Padding tokens are not attended to; image positions are all attended to, padding of
    the batch included, and updates are computed for padding tokens too.

    Two implementations give the same numbers up to rounding:

    * ``"plain"``: one operation after the other, as the formulas say. For reference.
    * ``"folded"``: with heads as wide as visual tokens, the three projections of the image can be
      moved to the text at no cost, and there are a hundred times more visual tokens than text
      tokens. With ``Wq, Wv, Wo`` the parts of the projection weights that belong to one head::

          scores       = v (Wq^T k) s + bq . k s          instead of (Wq v + bq) s . k
          image update = sum over heads of P (Wo u) + bo  instead of Wo concat(P u) + bo
          text context = (P' v) Wv^T + (P' 1) bv          instead of P' (Wv v + bv)

      Scores are made, used and forgotten in blocks, see ``folded_attention.py``.

    Args:
        visual_dim: width of visual tokens.
        text_dim: width of text tokens.
        embed_dim: width of queries, keys and values, all heads together.
        num_heads: number of heads; divides ``embed_dim``.
        dropout: probability of dropping an attention weight in training, independently for the
            two directions.
        stable_softmax_2d: subtract the largest score of the whole batch before clamping. Always
            computed by the plain implementation.
        clamp_min: keep scores at or above -50000.
        clamp_max: keep scores at or below 50000.
        implementation: "folded" or "plain", see ``set_implementation``.

    Raises:
        ValueError: for a number of heads that does not divide ``embed_dim`` or an unknown
            implementation.
    """

    def __init__(
        self,
        visual_dim: int,
        text_dim: int,
        embed_dim: int,
        num_heads: int,
        *,
        dropout: float = 0.1,
        stable_softmax_2d: bool = False,
        clamp_min: bool = False,
        clamp_max: bool = False,
        implementation: str = "folded",
    ) -> None:
        super().__init__()
        if embed_dim % num_heads:
            raise ValueError(f"embed_dim {embed_dim} is not a multiple of num_heads {num_heads}")
        self.embed_dim = embed_dim
        self.num_heads = num_heads
        self.head_dim = embed_dim // num_heads
        self.scale = self.head_dim**-0.5
        self.dropout = dropout
        self.stable_softmax_2d = stable_softmax_2d
        self.score_bounds = score_bounds(clamp_min, clamp_max)
        self.set_implementation(implementation)

        self.v_proj = nn.Linear(visual_dim, embed_dim)
        self.l_proj = nn.Linear(text_dim, embed_dim)
        self.values_v_proj = nn.Linear(visual_dim, embed_dim)
        self.values_l_proj = nn.Linear(text_dim, embed_dim)
        self.out_v_proj = nn.Linear(embed_dim, visual_dim)
        self.out_l_proj = nn.Linear(embed_dim, text_dim)
        initialise_projections(self)

    def set_implementation(self, implementation: str) -> None:
        """Choose how to compute; the parameters are the same."""
        if implementation not in IMPLEMENTATIONS:
            raise ValueError(
                f"unknown attention implementation {implementation!r}, choose of {IMPLEMENTATIONS}"
            )
        self.implementation = implementation

    def forward(self, visual: Tensor, text: Tensor, text_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Updates for both streams.

        Args:
            visual: ``[B, N, visual_dim]``.
            text: ``[B, T, text_dim]``.
            text_mask: ``[B, T]``, non-zero where a real token stands.

        Returns:
            ``[B, N, visual_dim]`` and ``[B, T, text_dim]``.
        """
        if self.implementation == "plain" or self.stable_softmax_2d:
            return self._attend_plainly(visual, text, text_mask)
        return self._attend_folded(visual, text, text_mask)

    def _split_heads(self, tensor: Tensor) -> Tensor:
        """``[B, L, embed_dim]`` to ``[B, H, L, head_dim]``."""
        return tensor.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)

    def _attend_plainly(
        self, visual: Tensor, text: Tensor, text_mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        query = self._split_heads(self.v_proj(visual) * self.scale)
        key = self._split_heads(self.l_proj(text))
        visual_value = self._split_heads(self.values_v_proj(visual))
        text_value = self._split_heads(self.values_l_proj(text))

        scores = query @ key.transpose(-1, -2)  # [B, H, N, T]
        if self.stable_softmax_2d:
            scores = scores - scores.max()
        scores = scores.clamp(*self.score_bounds)

        text_scores = scores.transpose(-1, -2)
        text_scores = text_scores - text_scores.amax(-1, keepdim=True)
        text_weights = text_scores.clamp(*self.score_bounds).softmax(-1)

        # Half precision cannot hold the padding bias.
        full_dtype = torch.float64 if scores.dtype == torch.float64 else torch.float32
        padding_bias = (text_mask == 0).to(full_dtype) * PADDING_BIAS
        visual_weights = (scores + padding_bias[:, None, None, :]).softmax(-1)

        visual_weights = F.dropout(visual_weights, self.dropout, self.training)
        text_weights = F.dropout(text_weights, self.dropout, self.training)
        visual_update = (visual_weights.to(text_value.dtype) @ text_value).transpose(1, 2)
        text_update = (text_weights.to(visual_value.dtype) @ visual_value).transpose(1, 2)
        return self.out_v_proj(visual_update.flatten(2)), self.out_l_proj(text_update.flatten(2))

    def _attend_folded(
        self, visual: Tensor, text: Tensor, text_mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        device = visual.device.type
        compute_dtype = visual.dtype
        if torch.is_autocast_enabled(device):
            compute_dtype = torch.get_autocast_dtype(device)
        # The text side is small; folding it in full precision costs nothing worth saving.
        full_dtype = torch.float64 if visual.dtype == torch.float64 else torch.float32
        text_dtype = text.dtype
        with torch.autocast(device, enabled=False):
            text = text.to(full_dtype)
            per_head = (self.num_heads, self.head_dim)
            key = self._split_heads(_project(self.l_proj, text)) * self.scale
            value = self._split_heads(_project(self.values_l_proj, text))
            query_weight = self.v_proj.weight.to(full_dtype).unflatten(0, per_head)  # [H, d, C]
            query_bias = self.v_proj.bias.to(full_dtype).unflatten(0, per_head)  # [H, d]
            output_weight = self.out_v_proj.weight.to(full_dtype).unflatten(
                1, per_head
            )  # [C, H, d]
            # Not by broadcasting, which would copy the weights for every image.
            folded_keys = torch.einsum("bhtd,hdc->bhtc", key, query_weight)
            folded_values = torch.einsum("bhtd,chd->bhtc", value, output_weight)
            key_bias = (key * query_bias[:, None]).sum(-1)

            update, context, weight = folded_bi_attention(
                visual.to(compute_dtype),
                folded_keys.to(compute_dtype),
                key_bias,
                folded_values.to(compute_dtype),
                (text_mask == 0).to(full_dtype) * PADDING_BIAS,
                clamp=self.score_bounds,
                dropout=self.dropout if self.training else 0.0,
            )
            value_weight = self.values_v_proj.weight.to(full_dtype).unflatten(0, per_head)
            value_bias = self.values_v_proj.bias.to(full_dtype).unflatten(0, per_head)
            text_update = torch.einsum("bhtc,hdc->bhtd", context, value_weight)
            text_update = text_update + weight[..., None] * value_bias[:, None]
            text_update = _project(self.out_l_proj, text_update.transpose(1, 2).flatten(2))
            return update + self.out_v_proj.bias.to(compute_dtype), text_update.to(text_dtype)


def _project(layer: nn.Linear, x: Tensor) -> Tensor:
    """``layer`` in the precision of ``x``, whatever that of its parameters."""
    return F.linear(x, layer.weight.to(x.dtype), layer.bias.to(x.dtype))


def score_bounds(clamp_min: bool, clamp_max: bool) -> tuple[float, float]:
    """Between what attention scores are kept."""
    return (
        -SCORE_LIMIT if clamp_min else float("-inf"),
        SCORE_LIMIT if clamp_max else float("inf"),
    )


def initialise_projections(attention: nn.Module) -> None:
    """Xavier's weights and zero biases for the linear layers that an attention consists of."""
    for projection in attention.children():
        nn.init.xavier_uniform_(projection.weight)
        nn.init.zeros_(projection.bias)
