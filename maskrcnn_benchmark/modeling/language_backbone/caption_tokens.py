"""Captions as the tokens of one sentence: one vector for each (GLIPKNOW)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from maskrcnn_benchmark.errors import ConfigError
from maskrcnn_benchmark.modeling.language_backbone.text_features import TextFeatures

POOLINGS = ("first", "mean")


def captions_as_tokens(
    encode: Callable[[Sequence[str]], TextFeatures],
    captions: Sequence[str],
    pooling: str,
    captions_at_once: int = 32,
) -> TextFeatures:
    """Features of one sentence whose token i is caption i.

    After the captions comes an empty one, "no object", which is masked. It is no padding: its
    features are not zero.

    Args:
        encode: features of a batch of captions.
        captions: ``C`` sentences.
        pooling: "first", the token that opens a caption, or "mean" over its tokens.
        captions_at_once: bounds the memory, changes nothing.

    Returns:
        Features of a single sentence with ``C + 1`` tokens.

    Raises:
        ConfigError: for another way of pooling.
    """
    check_pooling(pooling)
    sentences = [*captions, ""]
    # Captions that are encoded together are padded to the longest: neighbours in length are.
    order = sorted(range(len(sentences)), key=lambda index: len(sentences[index]))
    parts = []
    for begin in range(0, len(order), captions_at_once):
        text = encode([sentences[index] for index in order[begin : begin + captions_at_once]])
        parts.append([_pool(x, text.masks, pooling) for x in (text.hidden, text.embedded)])
    places = torch.tensor(order).argsort()
    hidden, embedded = (torch.cat(vectors)[places.to(vectors[0].device)] for vectors in zip(*parts))
    masks = F.pad(torch.ones(1, len(captions), dtype=torch.int64, device=hidden.device), (0, 1))
    aggregate = embedded[:-1].mean(dim=0)
    return TextFeatures(hidden[None], embedded[None], aggregate[None], masks)


def check_pooling(pooling: str) -> None:
    """Refuse a GLIPKNOW.LAN_FEATURE_AGG_TYPE that is unknown."""
    if pooling not in POOLINGS:
        raise ConfigError(
            f"GLIPKNOW.LAN_FEATURE_AGG_TYPE is {pooling!r}, not one of {', '.join(POOLINGS)}"
        )


def _pool(features: Tensor, masks: Tensor, pooling: str) -> Tensor:
    """``[B, T, dim]`` and ``[B, T]`` to ``[B, dim]``."""
    if pooling == "first":
        return features[:, 0]
    weights = masks.to(features.dtype)
    return (features * weights[..., None]).sum(dim=1) / weights.sum(dim=1, keepdim=True)
