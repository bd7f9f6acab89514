"""Batch normalisation that is frozen, and one that is shared by all processes."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


class FrozenBatchNorm2d(nn.Module):
    """Batch normalisation with constants: ``x * scale + shift``.

    The four vectors are buffers, so nothing here trains.  ``eps`` is 0 as in the weights that
    Detectron-style detectors start from; torchvision's own frozen layer uses 1e-5.  With 0, a
    variance of zero gives infinity.

    Args:
        num_features: channels.
        eps: added to the variance.
    """

    def __init__(self, num_features: int, eps: float = 0.0) -> None:
        super().__init__()
        self.eps = eps
        self.register_buffer("weight", torch.ones(num_features))
        self.register_buffer("bias", torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args: Any) -> None:
        # Checkpoints of trainable layers carry a counter that means nothing here.
        state_dict.pop(prefix + "num_batches_tracked", None)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def forward(self, x: Tensor) -> Tensor:
        """Args: ``x`` ``(batch, channels, height, width)``.  Returns the same shape."""
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        shift = self.bias - self.running_mean * scale
        return x * scale.to(x.dtype)[:, None, None] + shift.to(x.dtype)[:, None, None]

    def extra_repr(self) -> str:
        return f"{self.weight.numel()}, eps={self.eps}"


class NaiveSyncBatchNorm(nn.BatchNorm2d):
    """Batch normalisation over all processes, each counting the same.

    Mean and mean square are averaged over the processes whatever the size of their batches
    (``torch.nn.SyncBatchNorm`` weighs by size), and the running variance is the biased one.  In
    evaluation mode or with a single process: plain batch normalisation.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Args: ``x`` ``(batch, channels, height, width)``.  Returns the same shape."""
        world_size = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
        if not self.training or world_size == 1:
            return super().forward(x)
        values = x.float()
        local = torch.cat((values.mean(dim=(0, 2, 3)), values.square().mean(dim=(0, 2, 3))))
        mean, mean_square = (_SumOverProcesses.apply(local) / world_size).chunk(2)
        var = mean_square - mean.square()
        with torch.no_grad():
            self.num_batches_tracked += 1
            momentum = self.momentum
            if momentum is None:  # cumulative average, as in the parent class
                momentum = 1.0 / float(self.num_batches_tracked)
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
            self.running_var.lerp_(var.to(self.running_var.dtype), momentum)
        scale = self.weight * (var + self.eps).rsqrt()
        shift = self.bias - mean * scale
        return x * scale.to(x.dtype)[:, None, None] + shift.to(x.dtype)[:, None, None]


class _SumOverProcesses(torch.autograd.Function):
    """Sum over processes whose backward sums the gradients likewise."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        total = grad.clone()
        dist.all_reduce(total)
        return total
