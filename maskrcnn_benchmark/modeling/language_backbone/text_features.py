"""What a language backbone hands to the head."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class TextFeatures(NamedTuple):
    """Features of a batch of captions.

    A tuple, so it is never changed in place: ``features._replace(hidden=new)`` makes a new one.

    Attributes:
        hidden: ``(batch, num_tokens, language_dim)`` output of the last encoder layer; padding
            positions are *not* zero.
        embedded: ``(batch, num_tokens, language_dim)`` averaged features of the last layers,
            zero at padding.
        aggregate: ``(batch, language_dim)`` mean of ``embedded`` over the tokens of a caption.
            (CLIP has no pooled vector: there it is the whole sequence.)
        masks: ``(batch, num_tokens)`` int64, 1 where a token stands, special tokens included.
        mlm_labels: ``(batch, num_tokens)`` int64 with -100 where nothing is to be predicted;
            None unless tokens were masked.
    """

    hidden: Tensor
    embedded: Tensor
    aggregate: Tensor
    masks: Tensor
    mlm_labels: Tensor | None = None

    def to(self, *args, **kwargs) -> TextFeatures:
        """Copy with every tensor moved; a dtype among the arguments reaches floats only."""

        def move(tensor: Tensor) -> Tensor:
            if tensor.is_floating_point():
                return tensor.to(*args, **kwargs)
            # Never by way of a float, which cannot hold every token id.
            return tensor.to(tensor.new_empty(0).to(*args, **kwargs).device)

        return self._map(move)

    def select(self, captions: Sequence[int]) -> TextFeatures:
        """The captions of these numbers, each as often as it is named."""
        index = torch.tensor(captions, device=self.masks.device)
        return self._map(lambda tensor: tensor[index])

    def expand(self, batch_size: int) -> TextFeatures:
        """The only caption for a whole batch, without a copy."""
        return self._map(lambda tensor: tensor.expand(batch_size, *tensor.shape[1:]))

    def _map(self, change: Callable[[Tensor], Tensor]) -> TextFeatures:
        return TextFeatures(*(None if tensor is None else change(tensor) for tensor in self))


def join_captions(parts: Sequence[TextFeatures]) -> TextFeatures:
    """Captions of several batches as one batch, padded with zeros to the longest.

    Args:
        parts: features of ``B_i`` captions with ``T_i`` token slots, without masked tokens.

    Returns:
        features of all captions, in order, with as many slots as the longest part.
    """
    slots = max(part.masks.shape[1] for part in parts)
    padded = []
    for part in parts:
        missing = slots - part.masks.shape[1]
        # The aggregate has no token axis, except CLIP's.
        tokens = (x if x.ndim == 2 else F.pad(x, (0, 0, 0, missing)) for x in part[:3])
        padded.append((*tokens, F.pad(part.masks, (0, missing))))
    return TextFeatures(*(torch.cat(tensors) for tensors in zip(*padded)))


def text_features(hidden: Tensor, masks: Tensor, averaged: Tensor | None = None) -> TextFeatures:
    """Features from what an encoder gave.

    Args:
        hidden: ``(batch, num_tokens, language_dim)`` output of its last layer.
        masks: ``(batch, num_tokens)`` int64, 1 where a token stands.
        averaged: like ``hidden``, what becomes ``embedded``; None: ``hidden``.
    """
    features = hidden if averaged is None else averaged
    weights = masks.to(features.dtype)
    embedded = features * weights[..., None]
    aggregate = embedded.sum(dim=1) / weights.sum(dim=1, keepdim=True)
    return TextFeatures(hidden, embedded, aggregate, masks)
