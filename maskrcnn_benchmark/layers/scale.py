"""A learned factor."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Scale(nn.Module):
    """Multiplies by one learned number.

    Args:
        initial: its initial value.
    """

    def __init__(self, initial: float = 1.0) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([float(initial)]))

    def forward(self, x: Tensor) -> Tensor:
        """Any shape in, the same out."""
        return x * self.scale
