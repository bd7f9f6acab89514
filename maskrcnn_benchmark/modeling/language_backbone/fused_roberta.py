"""RoBERTa whose last layers look at the image (FIBER: Dou et al., NeurIPS 2022)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import RobertaConfig, RobertaModel
from transformers.models.roberta.modeling_roberta import RobertaLayer

from maskrcnn_benchmark.modeling.language_backbone.pretrained_encoder import store_position_ids
from maskrcnn_benchmark.modeling.language_backbone.text_features import (
    TextFeatures,
    text_features,
)


class ImageAttention(nn.Module):
    """Tokens attend to all positions of a map.

    Args:
        dim: width of the tokens.
        visual_dim: channels of the map.
        num_heads: attention heads; ``dim`` must be divisible.
        attention_dropout: probability of dropping an attention weight in training.
        dropout: probability of dropping an output in training.
        initial_std: standard deviation of the initial weights; initial biases are zero.
    """

    def __init__(
        self,
        dim: int,
        visual_dim: int,
        num_heads: int,
        attention_dropout: float = 0.1,
        dropout: float = 0.1,
        initial_std: float = 0.02,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.self = nn.ModuleDict(
            {
                "query": nn.Linear(dim, dim),
                "key": nn.Linear(visual_dim, dim),
                "value": nn.Linear(visual_dim, dim),
            }
        )
        self.output = nn.ModuleDict({"dense": nn.Linear(dim, dim)})
        self.attention_dropout = nn.Dropout(attention_dropout)
        self.dropout = nn.Dropout(dropout)
        for linear in (*self.self.values(), *self.output.values()):
            nn.init.normal_(linear.weight, std=initial_std)
            nn.init.zeros_(linear.bias)

    def forward(self, tokens: Tensor, visual: Tensor) -> Tensor:
        """What the tokens read from the map.

        Args:
            tokens: ``(batch, num_tokens, dim)``.
            visual: ``(batch, height, width, visual_dim)``; padding of the image is read too.

        Returns:
            ``(batch, num_tokens, dim)``.
        """
        visual = visual.flatten(1, 2)
        query, key, value = (
            self.self[name](x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for name, x in (("query", tokens), ("key", visual), ("value", visual))
        )
        dropout = self.attention_dropout.p if self.training else 0.0
        context = F.scaled_dot_product_attention(query, key, value, dropout_p=dropout)
        return self.dropout(self.output["dense"](context.transpose(1, 2).flatten(2)))


class FusedRobertaLayer(RobertaLayer):
    """A layer that looks at the image between its self-attention and the first normalisation.

    What it reads is weighed by a gate that starts at zero, so that a new layer is a plain one.

    Args:
        config: of the whole encoder.
        visual_dim: channels of the map.
    """

    def __init__(self, config: RobertaConfig, visual_dim: int) -> None:
        super().__init__(config)
        self.crossattention_t2i = ImageAttention(
            config.hidden_size,
            visual_dim,
            config.num_attention_heads,
            attention_dropout=config.attention_probs_dropout_prob,
            dropout=config.hidden_dropout_prob,
            initial_std=config.initializer_range,
        )
        self.alpha_t2i = nn.Parameter(torch.zeros(1))

    def forward(self, hidden: Tensor, padding: Tensor, visual: Tensor) -> Tensor:
        """Update the tokens.

        Args:
            hidden: ``(batch, num_tokens, dim)``.
            padding: see ``padding_scores``.
            visual: ``(batch, height, width, visual_dim)``.
        """
        output = self.attention.output
        context = self.attention.self(hidden, padding)[0]
        update = output.dropout(output.dense(context))
        update = update + self.alpha_t2i * self.crossattention_t2i(update, visual)
        return self.feed_forward_chunk(output.LayerNorm(update + hidden))


class FusedRobertaEncoder(nn.Module):
    """RoBERTa, without its pooling layer, whose last layers read maps of the image.

    ``forward`` runs the layers before them; the others are run one by one, in step with the
    visual encoder, see ``FusedBackbone``.

    Args:
        model: the encoder; its last layers become fused ones and keep their weights.
        visual_dims: channels of the map that each fused layer reads, from lowest to highest.
        use_checkpoint: recompute each layer in the backward pass.

    Raises:
        ValueError: if the model has fewer layers than are to be fused.
    """

    def __init__(
        self, model: RobertaModel, visual_dims: Sequence[int], use_checkpoint: bool = False
    ) -> None:
        super().__init__()
        layers = model.encoder.layer
        if len(visual_dims) > len(layers):
            raise ValueError(
                f"{len(visual_dims)} layers to fuse, but the encoder has {len(layers)}"
            )
        self.model = model
        self.language_dim = model.config.hidden_size
        self.vocabulary_size = model.config.vocab_size
        self.use_checkpoint = use_checkpoint
        self.num_plain = len(layers) - len(visual_dims)
        for index, visual_dim in enumerate(visual_dims, self.num_plain):
            fused = FusedRobertaLayer(model.config, visual_dim)
            fused.load_state_dict({**fused.state_dict(), **layers[index].state_dict()})
            layers[index] = fused
        store_position_ids(model)

    @property
    def fused_layers(self) -> nn.ModuleList:
        """The layers that read the image, from lowest to highest."""
        return self.model.encoder.layer[self.num_plain :]

    def forward(self, tokens: Mapping[str, Tensor], offsets: Tensor | None = None) -> TextFeatures:
        """Encode captions up to the first fused layer.

        Args:
            tokens: ``input_ids`` and ``attention_mask``, each ``(batch, num_tokens)``.
            offsets: ``(num_slots, language_dim)`` with at least ``num_tokens`` rows, added to the
                embedded tokens.
        """
        masks = tokens["attention_mask"].long()
        # Counted from the mask: the tokenizer's padding may have another number than the model's.
        positions = masks.cumsum(dim=1) * masks + self.model.config.pad_token_id
        hidden = self.model.embeddings(input_ids=tokens["input_ids"], position_ids=positions)
        if offsets is not None:
            hidden = hidden + offsets[: hidden.shape[1]]
        padding = padding_scores(masks, hidden.dtype)
        for layer in self.model.encoder.layer[: self.num_plain]:
            hidden = self.run_layer(layer, hidden, padding)
        return text_features(hidden, masks)

    def run_layer(self, layer: nn.Module, hidden: Tensor, *context: Tensor) -> Tensor:
        """One layer of the encoder, recomputed in the backward pass if the encoder is set to."""
        if self.use_checkpoint and torch.is_grad_enabled():
            output = checkpoint(layer, hidden, *context, use_reentrant=False)
        else:
            output = layer(hidden, *context)
        # Plain layers of transformers before version 5 return a tuple.
        return output[0] if isinstance(output, tuple) else output


def padding_scores(masks: Tensor, dtype: torch.dtype) -> Tensor:
    """What is added to attention scores so that no token attends to padding.

    Args:
        masks: ``(batch, num_tokens)``, non-zero where a token stands.
        dtype: of the scores.

    Returns:
        ``(batch, 1, 1, num_tokens)``: 0 or the lowest number of ``dtype``.
    """
    lowest = torch.finfo(dtype).min
    scores = torch.zeros(masks.shape, dtype=dtype, device=masks.device)
    return scores.masked_fill(masks == 0, lowest)[:, None, None]
