"""BERT (Devlin et al., NAACL 2019) as a language backbone."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel

from maskrcnn_benchmark.modeling.language_backbone.hub import (
    PretrainedFilesMissing,
    load_pretrained,
)
from maskrcnn_benchmark.modeling.language_backbone.text_features import TextFeatures

logger = logging.getLogger(__name__)

WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
KNOWN_CONFIGS: dict[str, dict[str, int]] = {
    "bert-base-uncased": {},  # what BertConfig defaults to
    "bert-large-uncased": {
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
    },
}
"""Sizes that need no configuration file, so that a checkpoint can be loaded without a network."""


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
        # Published checkpoints carry the numbers of the positions; newer ones do not.
        positions = model.embeddings.position_ids
        model.embeddings.register_buffer("position_ids", positions.clone(), persistent=True)
        model.embeddings.register_load_state_dict_pre_hook(_fill_in_position_ids)
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
        embedded = features * masks[..., None].to(features.dtype)
        aggregate = embedded.sum(dim=1) / masks.sum(dim=1, keepdim=True).to(features.dtype)
        return TextFeatures(hidden, embedded, aggregate, masks)


def load_bert(name: str) -> BertModel:
    """BERT by name or from a folder, with its weights where they can be had.

    Without weights the model is built from its configuration, and a warning says that it is
    untrained.

    Args:
        name: a name on the hub, or a folder with ``config.json`` and possibly weights.

    Raises:
        FileNotFoundError: if a folder, or its configuration, does not exist.
        PretrainedFilesMissing: if even the configuration of ``name`` is out of reach.
        ValueError: if the folder holds another kind of model.
    """
    advice = (
        "Set MODEL.LANGUAGE_BACKBONE.MODEL_TYPE to a folder with config.json (weights beside it "
        "are optional), or run once with network access to fill the cache."
    )
    folder = Path(name).expanduser()
    if folder.is_dir():
        config = _read_config(folder)
        if not any((folder / file).is_file() for file in WEIGHT_FILES):
            return _untrained(config, f"{folder} holds no weights")
    try:
        return load_pretrained(name, "the text encoder", _pretrained, advice)
    except PretrainedFilesMissing as error:
        if name in KNOWN_CONFIGS:
            return _untrained(BertConfig(**KNOWN_CONFIGS[name]), str(error))
        raise


def _pretrained(name: str, local_files_only: bool) -> BertModel:
    model = BertModel.from_pretrained(
        name, add_pooling_layer=False, local_files_only=local_files_only
    )
    return model.float()


def _read_config(folder: Path) -> BertConfig:
    path = folder / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: a text encoder's folder needs it")
    kind = json.loads(path.read_text(encoding="utf-8")).get("model_type", "bert")
    if kind != "bert":
        raise ValueError(
            f"{path} describes a {kind!r} model; MODEL.LANGUAGE_BACKBONE.MODEL_TYPE takes BERT "
            "folders"
        )
    return BertConfig.from_pretrained(str(folder), local_files_only=True)


def _untrained(config: BertConfig, reason: str) -> BertModel:
    logger.warning(
        "the text encoder starts UNTRAINED, with random weights, unless a checkpoint brings "
        "them: %s",
        reason,
    )
    return BertModel(config, add_pooling_layer=False)


def _fill_in_position_ids(
    module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any
) -> None:
    state_dict.setdefault(prefix + "position_ids", module.position_ids)
