"""BERT (Devlin et al., NAACL 2019) as a language backbone."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel

from maskrcnn_benchmark.modeling.language_backbone.pretrained_encoder import (
    EncoderFamily,
    load_encoder,
    store_position_ids,
)
from maskrcnn_benchmark.modeling.language_backbone.text_features import (
    TextFeatures,
    text_features,
)

BERT = EncoderFamily(
    kind="bert",
    model=BertModel,
    config=BertConfig,
    known={
        "bert-base-uncased": {},  # what BertConfig defaults to
        "bert-large-uncased": {
            "hidden_size": 1024,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "intermediate_size": 4096,
        },
    },
)


class BertEncoder(nn.Module):
    """BERT without its pooling layer, giving token features.

    Args:
        model: the encoder; its names and shapes are those of published checkpoints.
        num_layers: how many last layers are averaged into ``TextFeatures.embedded``.
        use_checkpoint: recompute each layer in the backward pass.

    Raises:
        ValueError: if the model has fewer layers than ``num_layers``.
    """

    def __init__(self, model: BertModel, num_layers: int = 1, use_checkpoint: bool = False) -> None:
        super().__init__()
        depth = model.config.num_hidden_layers
        if not 1 <= num_layers <= depth:
            raise ValueError(f"num_layers {num_layers} is not between 1 and the depth {depth}")
        self.model = model
        self.num_layers = num_layers
        self.language_dim = model.config.hidden_size
        self.vocabulary_size = model.config.vocab_size
        store_position_ids(model)
        if use_checkpoint:
            # The method's new name since transformers 5; the old one goes in version 6.
            enable = getattr(model, "activation_checkpointing_enable", None)
            (enable or model.gradient_checkpointing_enable)({"use_reentrant": False})

    def forward(self, tokens: Mapping[str, Tensor]) -> TextFeatures:
        """Encode a batch of captions.

        Args:
            tokens: ``input_ids`` and ``attention_mask``, each ``(batch, num_tokens)``.

        Returns:
            ``TextFeatures``; ``hidden`` is not zeroed at padding.
        """
        masks = tokens["attention_mask"].long()
        outputs = self.model(
            input_ids=tokens["input_ids"],
            attention_mask=masks,
            output_hidden_states=self.num_layers > 1,
            return_dict=True,
        )
        hidden = outputs.last_hidden_state
        features = hidden
        if self.num_layers > 1:
            # Divided twice by the number of layers, as published models with more than one do.
            last = torch.stack(outputs.hidden_states[-self.num_layers :])
            features = last.mean(dim=0) / self.num_layers
        return text_features(hidden, masks, features)


def load_bert(name: str) -> BertModel:
    """BERT by name or from a folder, see ``load_encoder``."""
    return load_encoder(name, BERT)
