"""Masked language modelling: which tokens are hidden, and what is to be predicted."""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from torch import Tensor

IGNORED = -100
MASK_PROBABILITY = 0.15

NOT_MASKABLE = -1
"""Value of the greenlight map where a token stays as it is."""
SCORED = 1
"""Value of the greenlight map where a token may be hidden and its prediction counts."""


def mask_tokens(
    input_ids: Tensor,
    *,
    vocabulary: Sequence[int],
    mask_token_id: int,
    pad_token_id: int,
    greenlight_map: Tensor | None = None,
    rng: random.Random | None = None,
) -> tuple[Tensor, Tensor]:
    """Hide tokens as BERT does (Devlin et al., NAACL 2019, section 3.1).

    Each token is chosen with probability 0.15; of the chosen ones 80 % become the mask token,
    10 % a random token, 10 % stay.  One number is drawn for every position, padding included,
    image after image, and one more choice for each random token.

    Args:
        input_ids: ``(batch, num_tokens)`` int64; not changed.
        vocabulary: token ids to draw random tokens from.
        mask_token_id, pad_token_id: special tokens; padding is never hidden.
        greenlight_map: ``(batch, at least num_tokens)``: 1: may be hidden and is scored, 0: may
            be hidden but is not scored, -1: stays.  None: everything may be hidden and is scored,
            special tokens included.
        rng: source of randomness; None: Python's global one.

    Returns:
        ``input_ids`` with tokens hidden, and ``labels``: the original token where its prediction
        is scored, -100 elsewhere; both ``(batch, num_tokens)`` int64 on the device of the input.
    """
    source = rng if rng is not None else random
    hidden = input_ids.tolist()
    labels = [[IGNORED] * len(row) for row in hidden]
    lights = greenlight_map.tolist() if greenlight_map is not None else None
    for row_index, row in enumerate(hidden):
        for position, token in enumerate(row):
            draw = source.random() / MASK_PROBABILITY
            light = SCORED if lights is None else lights[row_index][position]
            if light == NOT_MASKABLE or token == pad_token_id or draw >= 1.0:
                continue
            if draw < 0.8:
                row[position] = mask_token_id
            elif draw < 0.9:
                row[position] = source.choice(vocabulary)
            if light == SCORED:
                labels[row_index][position] = token
    options = {"dtype": torch.int64, "device": input_ids.device}
    return torch.tensor(hidden, **options), torch.tensor(labels, **options)
