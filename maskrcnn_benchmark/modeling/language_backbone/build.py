"""From the configuration to a language backbone."""

from __future__ import annotations

import logging
from collections import OrderedDict
from typing import Any

from torch import nn

from maskrcnn_benchmark.modeling.language_backbone.bert import BertEncoder, load_bert
from maskrcnn_benchmark.modeling.language_backbone.clip import CLIPTextEncoder, text_weights
from maskrcnn_benchmark.utils.checkpoint_files import read_checkpoint
from maskrcnn_benchmark.utils.model_serialization import find_weights

logger = logging.getLogger(__name__)


def build_language_backbone(cfg: Any) -> nn.Sequential:
    """Build the text encoder that ``MODEL.LANGUAGE_BACKBONE.MODEL_TYPE`` names.

    "clip", or a BERT by name or folder.

    Returns:
        a Sequential whose only child ``body`` maps tokens (``input_ids`` and ``attention_mask``,
        each ``(batch, num_tokens)``) to ``TextFeatures``; its attribute ``language_dim`` is the
        width of a token's features.

    Raises:
        ValueError: if ``LANG_DIM`` is not the encoder's width, or captions may be longer than it
            reads.
        NotImplementedError: for encoders that are not offered.
        FileNotFoundError, PretrainedFilesMissing: if the encoder's files cannot be had.
    """
    options = cfg.MODEL.LANGUAGE_BACKBONE
    name = options.MODEL_TYPE
    if name == "clip":
        body = _build_clip(cfg)
    elif name == "rnn" or name.startswith("roberta"):
        raise NotImplementedError(
            f"MODEL.LANGUAGE_BACKBONE.MODEL_TYPE: {name!r} is not offered for GLIP models; use "
            "'bert-base-uncased', another BERT (name or folder), or 'clip'"
        )
    else:
        model = load_bert(name)
        asked, longest = options.MAX_QUERY_LEN, model.config.max_position_embeddings
        if asked > longest:
            raise ValueError(
                f"MODEL.LANGUAGE_BACKBONE.MAX_QUERY_LEN is {asked}, but {name} reads at most "
                f"{longest} tokens"
            )
        body = BertEncoder(model, options.N_LAYERS, options.USE_CHECKPOINT)
    stated, width = options.LANG_DIM, body.language_dim
    if stated != width:
        raise ValueError(
            f"MODEL.LANGUAGE_BACKBONE.LANG_DIM is {stated}, but {name} has features of width "
            f"{width}; set LANG_DIM to {width}"
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
        logger.warning(
            "the CLIP text encoder starts UNTRAINED unless a checkpoint brings its weights "
            "(MODEL.LANGUAGE_BACKBONE.WEIGHT)"
        )
    return encoder
