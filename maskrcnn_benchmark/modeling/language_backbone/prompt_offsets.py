"""Learned offsets of token features: what prompt tuning trains."""

from torch import nn

PROMPT_SLOTS = 1000
"""Token positions with an offset of their own under ``FUSE_CONFIG.ADD_LINEAR_LAYER``."""


def make_prompt_offsets(num_slots: int, dim: int) -> nn.Linear:
    """A table ``weight`` ``[num_slots, dim]`` of zeros; in checkpoints it is a linear layer's."""
    table = nn.Linear(dim, num_slots, bias=False)
    nn.init.zeros_(table.weight)
    return table
