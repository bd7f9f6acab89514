"""A text encoder must not run on random weights unnoticed.

Weights come into a model by many ways, and nearly always after it is built: whether they have come
is therefore asked when the encoder is first used.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch
from torch import Tensor, nn

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RandomStart:
    """How a text encoder was initialised.

    Attributes:
        reason: why it has no other weights.
        sample: a row of them, by which they are known again.
    """

    reason: str
    sample: Tensor


def mark_untrained(encoder: nn.Module, reason: str) -> None:
    """Remember that the weights which an encoder has now are random ones.

    Args:
        encoder: has a linear layer.
        reason: why it has no others.
    """
    encoder.random_start = RandomStart(reason, _sample(encoder).clone())


def warn_if_untrained(backbone: nn.Module) -> None:
    """Say of every marked encoder in ``backbone`` that still has its random weights that it has."""
    for encoder in backbone.modules():
        start = getattr(encoder, "random_start", None)
        if start is None:
            continue
        sample = _sample(encoder)
        if torch.equal(sample, start.sample.to(sample)):
            logger.warning(
                "the text encoder is UNTRAINED: it runs with random weights, because no checkpoint "
                "brought others and %s",
                start.reason,
            )


def _sample(encoder: nn.Module) -> Tensor:
    """Embeddings will not do: the row of the padding stays zero, trained or not."""
    layer = next(module for module in encoder.modules() if isinstance(module, nn.Linear))
    weight = layer.weight.detach()
    if hasattr(weight, "full_tensor"):  # shared out over processes, which all come here together
        weight = weight.full_tensor()
    return weight[0]
