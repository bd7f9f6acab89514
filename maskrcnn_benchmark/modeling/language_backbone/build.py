"""From the configuration to a language backbone."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from torch import nn
from transformers import RobertaModel

from maskrcnn_benchmark.errors import ConfigError
from maskrcnn_benchmark.modeling.language_backbone.bert import BertEncoder, load_bert
from maskrcnn_benchmark.modeling.language_backbone.clip import CLIPTextEncoder, text_weights
from maskrcnn_benchmark.modeling.language_backbone.fused_roberta import FusedRobertaEncoder
from maskrcnn_benchmark.modeling.language_backbone.roberta import load_roberta, longest_caption
from maskrcnn_benchmark.modeling.language_backbone.untrained import mark_untrained
from maskrcnn_benchmark.utils.checkpoint_files import read_checkpoint
from maskrcnn_benchmark.utils.model_serialization import find_weights

logger = logging.getLogger(__name__)

FUSED_NAMES = {"roberta-fused-v2": "roberta-base"}
"""The name of a fused text encoder in published configurations, and where its weights come from."""


def build_language_backbone(cfg: Any) -> nn.Sequential:
    """Build the text encoder that ``MODEL.LANGUAGE_BACKBONE.MODEL_TYPE`` names.

    "clip", or a BERT by name or folder.

    Returns:
        a Sequential whose only child ``body`` maps tokens (``input_ids`` and ``attention_mask``,
        each ``(batch, num_tokens)``) to ``TextFeatures``; its attribute ``language_dim`` is the
        width of a token's features.

    Raises:
        ConfigError: for an encoder that is not offered, if ``LANG_DIM`` is not its width, or if
            captions may be longer than it reads.
        FileNotFoundError, PretrainedFilesMissing: if the encoder's files cannot be had.
    """
    options = cfg.MODEL.LANGUAGE_BACKBONE
    name = options.MODEL_TYPE
    if name == "clip":
        body = _build_clip(cfg)
    elif name == "rnn" or name.startswith("roberta"):
        raise ConfigError(
            f"MODEL.LANGUAGE_BACKBONE.MODEL_TYPE: {name!r} is not offered for GLIP models; use "
            "'bert-base-uncased', another BERT (name or folder), or 'clip'. (FIBER's "
            "'roberta-fused-v2' goes with MODEL.SWINT.VERSION 'fusion'.)"
        )
    else:
        model = load_bert(name)
        _check_length(options, model.config.max_position_embeddings)
        body = BertEncoder(model, options.N_LAYERS, options.USE_CHECKPOINT)
    return _as_backbone(options, body)


def load_fused_text(cfg: Any) -> RobertaModel:
    """RoBERTa for a detector that fuses in the backbone, its layers still plain.

    ``MODEL.LANGUAGE_BACKBONE.MODEL_TYPE`` is "roberta-fused-v2", which stands for roberta-base, or
    a RoBERTa by name or folder.

    Raises:
        ConfigError: for an encoder that is not RoBERTa, or reads too short captions.
        FileNotFoundError, PretrainedFilesMissing: if the encoder's files cannot be had.
    """
    options = cfg.MODEL.LANGUAGE_BACKBONE
    name = options.MODEL_TYPE
    if name in ("roberta-fused", "rnn", "clip") or name.startswith("bert"):
        raise ConfigError(
            f"MODEL.LANGUAGE_BACKBONE.MODEL_TYPE: {name!r} cannot be fused with the image; with "
            "MODEL.SWINT.VERSION 'fusion' use 'roberta-fused-v2', or a folder of a RoBERTa"
        )
    model = load_roberta(FUSED_NAMES.get(name, name))
    _check_length(options, longest_caption(model))
    return model


def build_fused_roberta(cfg: Any, model: RobertaModel, visual_dims: Sequence[int]) -> nn.Sequential:
    """Text encoder whose last layers read maps of the given channels.

    Returns:
        a Sequential as ``build_language_backbone`` gives, whose ``body`` is a
        ``FusedRobertaEncoder``.

    Raises:
        ConfigError: if ``LANG_DIM`` is not the encoder's width.
    """
    options = cfg.MODEL.LANGUAGE_BACKBONE
    body = FusedRobertaEncoder(model, visual_dims, options.USE_CHECKPOINT)
    return _as_backbone(options, body)


def _check_length(options: Any, longest: int) -> None:
    asked = options.MAX_QUERY_LEN
    if asked > longest:
        raise ConfigError(
            f"MODEL.LANGUAGE_BACKBONE.MAX_QUERY_LEN is {asked}, but {options.MODEL_TYPE} reads at "
            f"most {longest} tokens"
        )


def _as_backbone(options: Any, body: nn.Module) -> nn.Sequential:
    stated, width = options.LANG_DIM, body.language_dim
    if stated != width:
        raise ConfigError(
            f"MODEL.LANGUAGE_BACKBONE.LANG_DIM is {stated}, but {options.MODEL_TYPE} has features "
            f"of width {width}; set LANG_DIM to {width}"
        )
    backbone = nn.Sequential(OrderedDict(body=body))
    backbone.language_dim = width
    return backbone


def _build_clip(cfg: Any) -> CLIPTextEncoder:
    options = cfg.MODEL.CLIP
    encoder = CLIPTextEncoder(
        context_length=options.CONTEXT_LENGTH,
        width=options.WIDTH,
        num_layers=options.LAYERS,
        num_heads=options.HEADS,
        vocabulary_size=options.VOCAB_SIZE,
        drop_path_rate=options.DROP_PATH,
        use_checkpoint=cfg.MODEL.LANGUAGE_BACKBONE.USE_CHECKPOINT,
    )
    path = cfg.MODEL.LANGUAGE_BACKBONE.WEIGHT
    if path:
        weights = find_weights(read_checkpoint(path))
        encoder.load_state_dict(text_weights(weights, options.CONTEXT_LENGTH))
        logger.info("CLIP text encoder loaded from %s", path)
    else:
        mark_untrained(encoder, "MODEL.LANGUAGE_BACKBONE.WEIGHT names no file of CLIP's")
    return encoder
