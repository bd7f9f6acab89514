"""The text half of CLIP (Radford et al., ICML 2021) as a language backbone.

Unlike the original it reads in both directions: every token sees all others.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from timm.layers import DropPath
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from maskrcnn_benchmark.errors import ConfigError
from maskrcnn_benchmark.modeling.language_backbone.text_features import TextFeatures

EPS = 1e-12


class Float32LayerNorm(nn.LayerNorm):
    """Layer normalisation computed in float32 whatever comes in."""

    def forward(self, x: Tensor) -> Tensor:
        """Any leading shape; type and shape are kept."""
        full = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        return super().forward(full).to(x.dtype)


class QuickGELU(nn.Module):
    """``x * sigmoid(1.702 x)``."""

    def forward(self, x: Tensor) -> Tensor:
        """Element-wise."""
        return x * torch.sigmoid(1.702 * x)


class CLIPBlock(nn.Module):
    """Attention and MLP, each normalised first, with a residual connection.

    Args:
        dim: width of the tokens.
        num_heads: attention heads.
        drop_path: probability to skip a residual branch for a caption while training.
    """

    def __init__(self, dim: int, num_heads: int, drop_path: float = 0.0) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(dim, num_heads, batch_first=True)
        self.ln_1 = Float32LayerNorm(dim, eps=EPS)
        self.mlp = nn.Sequential(
            OrderedDict(
                c_fc=nn.Linear(dim, 4 * dim), gelu=QuickGELU(), c_proj=nn.Linear(4 * dim, dim)
            )
        )
        self.ln_2 = Float32LayerNorm(dim, eps=EPS)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: Tensor, padding: Tensor) -> Tensor:
        """Update the tokens.

        Args:
            x: ``(batch, num_tokens, dim)``.
            padding: ``(batch, num_tokens)`` bool, True where no token stands.
        """
        normed = self.ln_1(x)
        attended, _ = self.attn(
            normed, normed, normed, key_padding_mask=padding, need_weights=False
        )
        x = x + self.drop_path(attended)
        return x + self.drop_path(self.mlp(self.ln_2(x)))


class CLIPTextEncoder(nn.Module):
    """CLIP's text transformer.

    Args:
        context_length: number of tokens of every caption, padding included.
        width: width of the tokens.
        num_layers, num_heads: of the transformer.
        vocabulary_size: tokens.
        drop_path_rate: probability of the last block's drop path; rises linearly from 0.
        use_checkpoint: recompute each block in the backward pass.
    """

    def __init__(
        self,
        context_length: int = 256,
        width: int = 512,
        num_layers: int = 12,
        num_heads: int = 8,
        vocabulary_size: int = 49408,
        drop_path_rate: float = 0.0,
        use_checkpoint: bool = False,
    ) -> None:
        super().__init__()
        self.language_dim = width
        self.vocabulary_size = vocabulary_size
        self.context_length = context_length
        self.use_checkpoint = use_checkpoint
        self.token_embedding = nn.Embedding(vocabulary_size, width)
        self.positional_embedding = nn.Parameter(torch.empty(context_length, width))
        self.resblocks = nn.ModuleList(
            CLIPBlock(width, num_heads, drop_path_rate * index / max(num_layers - 1, 1))
            for index in range(num_layers)
        )
        self.ln_final = Float32LayerNorm(width, eps=EPS)
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.trunc_normal_(parameter, std=0.02)

    def forward(self, tokens: Mapping[str, Tensor]) -> TextFeatures:
        """Encode a batch of captions.

        Args:
            tokens: ``input_ids`` and ``attention_mask``, each ``(batch, context_length)``.

        Returns:
            ``TextFeatures`` whose ``hidden``, ``embedded`` and ``aggregate`` are all the final
            sequence, neither masked nor pooled.

        Raises:
            ConfigError: if the captions do not have ``context_length`` tokens.
        """
        input_ids, masks = tokens["input_ids"], tokens["attention_mask"].long()
        if input_ids.shape[1] != self.context_length:
            raise ConfigError(
                f"CLIP's text encoder reads exactly {self.context_length} tokens "
                f"(MODEL.CLIP.CONTEXT_LENGTH), got {input_ids.shape[1]}; set "
                "MODEL.LANGUAGE_BACKBONE.MAX_QUERY_LEN to the same and PAD_MAX to True"
            )
        x = self.token_embedding(input_ids) + self.positional_embedding
        padding = masks == 0
        for block in self.resblocks:
            if self.use_checkpoint and torch.is_grad_enabled():
                x = checkpoint(block, x, padding, use_reentrant=False)
            else:
                x = block(x, padding)
        x = self.ln_final(x)
        return TextFeatures(hidden=x, embedded=x, aggregate=x, masks=masks)


def text_weights(weights: Mapping[str, Tensor], context_length: int) -> dict[str, Tensor]:
    """The text half of an image-text checkpoint, its position table resized.

    Args:
        weights: names to tensors; the text half has the prefix ``text.``.
        context_length: length that the position table gets, by linear interpolation.

    Raises:
        ValueError: if no name has the prefix.
    """
    prefix = "text."
    text = {
        name[len(prefix) :]: value for name, value in weights.items() if name.startswith(prefix)
    }
    if not text:
        raise ValueError("no weight name starts with 'text.': not a CLIP checkpoint of this layout")
    positions = text.get("positional_embedding")
    if positions is not None and positions.shape[0] != context_length:
        # Bilinear over the table seen as a picture; its width does not change.
        resized = F.interpolate(
            positions.float()[None, None],
            (context_length, positions.shape[1]),
            mode="bilinear",
            align_corners=False,
        )
        text["positional_embedding"] = resized[0, 0].to(positions.dtype)
    return text
