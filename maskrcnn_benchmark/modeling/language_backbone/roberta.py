"""RoBERTa (Liu et al., 2019): where its weights come from."""

from __future__ import annotations

from transformers import RobertaConfig, RobertaModel

from maskrcnn_benchmark.modeling.language_backbone.pretrained_encoder import (
    EncoderFamily,
    load_encoder,
)

ROBERTA = EncoderFamily(
    kind="roberta",
    model=RobertaModel,
    config=RobertaConfig,
    known={
        "roberta-base": {
            "vocab_size": 50265,
            "max_position_embeddings": 514,
            "type_vocab_size": 1,
            "layer_norm_eps": 1e-5,
            "pad_token_id": 1,
            "bos_token_id": 0,
            "eos_token_id": 2,
        }
    },
)


def load_roberta(name: str) -> RobertaModel:
    """RoBERTa by name or from a folder, see ``load_encoder``."""
    return load_encoder(name, ROBERTA)


def longest_caption(model: RobertaModel) -> int:
    """Tokens that the position table has rows for: real ones are numbered behind the padding's."""
    return model.config.max_position_embeddings - model.config.pad_token_id - 1
