"""Block dropout for feature maps (Ghiasi et al., DropBlock, NeurIPS 2018)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class DropBlock2D(nn.Module):
    """While training, zero square blocks of positions and rescale what is left.

    Every position is a block centre with probability ``drop_prob / block_size**2``; a block
    covers all channels and is drawn for each image on its own.  The rest is multiplied by
    (positions) / (kept positions), a ratio over the *whole batch*.  In evaluation mode, or with
    ``drop_prob`` 0, the identity.

    Args:
        drop_prob: expected share of dropped positions if blocks never met, in [0, 1].
        block_size: side of a block in positions.

    Raises:
        ValueError: for a probability outside [0, 1] or a block smaller than one position.
    """

    def __init__(self, drop_prob: float, block_size: int) -> None:
        super().__init__()
        if not 0.0 <= drop_prob <= 1.0:
            raise ValueError(f"drop_prob must be in [0, 1], got {drop_prob}")
        if block_size < 1:
            raise ValueError(f"block_size must be at least 1, got {block_size}")
        self.drop_prob = drop_prob
        self.block_size = block_size

    def forward(self, x: Tensor) -> Tensor:
        """Args: ``x`` ``(batch, channels, height, width)``.  Returns the same shape."""
        if not self.training or self.drop_prob == 0.0:
            return x
        batch, _, height, width = x.shape
        # float32 whatever x is: in half precision the sum below would stop counting at 2048.
        centres = torch.rand(batch, height, width, device=x.device)
        centres = (centres < self.drop_prob / self.block_size**2).float()
        dropped = F.max_pool2d(centres, self.block_size, stride=1, padding=self.block_size // 2)
        # An even block makes the pooled map one larger.
        keep = 1.0 - dropped[:, :height, :width]
        ratio = keep.numel() / keep.sum().clamp(min=1.0)
        return x * (keep * ratio).to(x.dtype)[:, None]

    def extra_repr(self) -> str:
        return f"drop_prob={self.drop_prob}, block_size={self.block_size}"
