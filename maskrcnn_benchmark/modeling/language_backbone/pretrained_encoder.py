"""Text encoders of transformers, with their weights where they can be had."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from maskrcnn_benchmark.errors import ConfigError
from maskrcnn_benchmark.modeling.language_backbone.hub import (
    PretrainedFilesMissing,
    find_folder,
    load_pretrained,
)
from maskrcnn_benchmark.modeling.language_backbone.untrained import mark_untrained

WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)


@dataclass(frozen=True)
class EncoderFamily:
    """A kind of text encoder.

    Attributes:
        kind: its ``model_type`` in configuration files.
        model: its class, which takes ``add_pooling_layer``.
        config: class of its configuration.
        known: settings of models by name, so that a checkpoint can be loaded without a network.
    """

    kind: str
    model: type[PreTrainedModel]
    config: type[PretrainedConfig]
    known: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def load_encoder(name: str, family: EncoderFamily) -> PreTrainedModel:
    """A text encoder without pooling layer, by name or from a folder.

    Without weights the model is built from its configuration and marked as untrained, see
    ``warn_if_untrained``.

    Args:
        name: a name on the hub, or a folder with ``config.json`` and possibly weights.
        family: what kind of model it is.

    Raises:
        FileNotFoundError: if a folder, or its configuration, does not exist.
        PretrainedFilesMissing: if even the configuration of ``name`` is out of reach.
        ConfigError: if the folder holds another kind of model.
    """
    advice = (
        "Set MODEL.LANGUAGE_BACKBONE.MODEL_TYPE to a folder with config.json (weights beside it "
        "are optional), or run once with network access to fill the cache."
    )

    def pretrained(source: str, local_files_only: bool) -> PreTrainedModel:
        model = family.model.from_pretrained(
            source, add_pooling_layer=False, local_files_only=local_files_only
        )
        return model.float()

    folder = find_folder(name)
    if folder.is_dir():
        config = _read_config(folder, family)
        if not any((folder / file).is_file() for file in WEIGHT_FILES):
            return _untrained(config, family, f"{folder} holds no weights")
    try:
        return load_pretrained(name, "the text encoder", pretrained, advice)
    except PretrainedFilesMissing as error:
        if name in family.known:
            return _untrained(family.config(**family.known[name]), family, str(error))
        raise


def store_position_ids(model: PreTrainedModel) -> None:
    """Keep the numbers of the positions in the state dict, as published checkpoints do.

    Newer ones lack them; both load.
    """
    embeddings = model.embeddings
    embeddings.register_buffer("position_ids", embeddings.position_ids.clone(), persistent=True)
    embeddings.register_load_state_dict_pre_hook(_fill_in_position_ids)


def _read_config(folder: Path, family: EncoderFamily) -> PretrainedConfig:
    path = folder / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: a text encoder's folder needs it")
    kind = json.loads(path.read_text(encoding="utf-8")).get("model_type", family.kind)
    if kind != family.kind:
        raise ConfigError(
            f"{path} describes a {kind!r} model, but this detector's "
            f"MODEL.LANGUAGE_BACKBONE.MODEL_TYPE takes folders of {family.kind!r} models"
        )
    return family.config.from_pretrained(str(folder), local_files_only=True)


def _untrained(config: PretrainedConfig, family: EncoderFamily, reason: str) -> PreTrainedModel:
    model = family.model(config, add_pooling_layer=False)
    mark_untrained(model, reason)
    return model


def _fill_in_position_ids(
    module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any
) -> None:
    state_dict.setdefault(prefix + "position_ids", module.position_ids)
