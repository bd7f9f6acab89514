"""Corruption of captions for masked language modelling (BERT, arXiv:1810.04805, section 3.1)."""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from torch import Tensor

IGNORED = -100
"""Label of a token that is not to be predicted."""

_MASK_RATE = 0.15


def mask_tokens(
    input_ids: Tensor,
    vocabulary: Sequence[int],
    *,
    mask_id: int,
    pad_id: int,
    greenlight_map: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Choose 15 % of the tokens; of these mask 80 %, replace 10 %, keep 10 %.

    Draws from Python's ``random``: one number per position, padding included, images
    outside, and a choice from ``vocabulary`` per replaced token. Seeded runs depend on it.

    Args:
        input_ids: int64 ``[B, T]`` on any device.
        vocabulary: ids of all words.
        mask_id: id of the mask token.
        pad_id: id of padding, never chosen.
        greenlight_map: ``[B, at least T]``: 1 may be masked and counts, 0 may be masked but does
            not count, -1 stays. None: everything may be masked and counts.

    Returns:
        The corrupted ids, and labels: the original id where a token was chosen and counts, -100
        elsewhere. Both ``[B, T]`` int64 on the device of the input.

    Raises:
        ValueError: for a map of the wrong size or with other values.
    """
    green = _check_map(input_ids, greenlight_map)
    rows = input_ids.tolist()
    labels = [[IGNORED] * len(row) for row in rows]
    for b, row in enumerate(rows):
        for i, token in enumerate(row):
            allowed = 1 if green is None else green[b][i]
            draw = random.random()
            if allowed == -1 or token == pad_id or draw >= _MASK_RATE:
                continue
            draw /= _MASK_RATE
            if draw < 0.8:
                row[i] = mask_id
            elif draw < 0.9:
                row[i] = random.choice(vocabulary)
            if allowed == 1:
                labels[b][i] = token
    return (
        torch.tensor(rows, dtype=torch.int64, device=input_ids.device),
        torch.tensor(labels, dtype=torch.int64, device=input_ids.device),
    )


def _check_map(input_ids: Tensor, greenlight_map: Tensor | None) -> list[list[int]] | None:
    if greenlight_map is None:
        return None
    batch, length = input_ids.shape
    if greenlight_map.shape[0] != batch or greenlight_map.shape[1] < length:
        raise ValueError(
            f"greenlight_map {tuple(greenlight_map.shape)} does not cover the tokens "
            f"{tuple(input_ids.shape)}"
        )
    green = greenlight_map[:, :length].to(torch.int64).tolist()
    values = {value for row in green for value in row}
    if not values <= {-1, 0, 1}:
        raise ValueError(f"greenlight_map holds {sorted(values)}, allowed are -1, 0 and 1")
    return green
