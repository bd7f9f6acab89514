"""Focal losses (Lin et al. 2017, equation 5) on logits, fused into one pass over the data.

Both use the stable form of the logarithms: ln p = -softplus(-z), ln(1 - p) = -softplus(z).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from maskrcnn_benchmark.layers import _native
from maskrcnn_benchmark.layers._checks import (
    at_least_single,
    check_device,
    check_floating,
    check_integer,
    check_rank,
    check_shape,
)


def sigmoid_focal_loss(logits: Tensor, targets: Tensor, gamma: float, alpha: float) -> Tensor:
    """Focal loss of every (anchor, class) entry for integer class targets.

    Args:
        logits: (num_anchors, num_classes), floating point; half precision is computed in float32.
        targets: (num_anchors,) integers: 0 is background, class d owns column d - 1, a negative
            label is ignored (loss 0), a label beyond the columns makes every column negative.
        gamma: focusing exponent.
        alpha: weight of positives; negatives weigh 1 - alpha.

    Returns:
        (num_anchors, num_classes) losses, not reduced, at least float32.

    Raises:
        ValueError, TypeError: naming the argument with a wrong shape, device or dtype.
    """
    check_rank("logits", logits, 2, "(num_anchors, num_classes)")
    check_shape("targets", targets, (logits.shape[0],), "one label per row of logits")
    check_floating("logits", logits)
    check_integer("targets", targets)
    check_device("logits", logits, targets=targets)
    logits = at_least_single(logits)
    if _native.usable(logits):
        return torch.ops.glip.sigmoid_focal_loss(
            logits, targets.to(torch.int32), float(gamma), float(alpha)
        )
    return sigmoid_focal_loss_reference(logits, targets, gamma, alpha)


def token_sigmoid_focal_loss(
    logits: Tensor,
    targets: Tensor,
    text_mask: Tensor | None,
    alpha: float = 0.25,
    gamma: float = 2.0,
) -> Tensor:
    """Summed focal loss of anchor-to-token logits over the real tokens.

    ``alpha_t (1 - p_t)^gamma BCE(z, y)`` with ``p_t = p y + (1 - p)(1 - y)`` and
    ``alpha_t = alpha y + (1 - alpha)(1 - y)``.

    Args:
        logits: (batch, num_anchors, num_tokens), floating point; half is computed in float32.
        targets: (batch, num_anchors, num_tokens) in [0, 1], floating point or bool.
        text_mask: (batch, num_tokens), greater than 0 where a token counts; None counts all.
        alpha: weight of positives, negative for no weighting at all.
        gamma: focusing exponent.

    Returns:
        Scalar sum, at least float32; 0 when nothing counts.

    Raises:
        ValueError, TypeError: naming the argument with a wrong shape, device or dtype.
    """
    check_rank("logits", logits, 3, "(batch, num_anchors, num_tokens)")
    check_floating("logits", logits)
    check_shape("targets", targets, tuple(logits.shape), "the shape of logits")
    batch, _, num_tokens = logits.shape
    if text_mask is None:
        text_mask = logits.new_ones((batch, num_tokens), dtype=torch.bool)
    check_shape("text_mask", text_mask, (batch, num_tokens), "one entry per token")
    check_device("logits", logits, targets=targets, text_mask=text_mask)
    logits = at_least_single(logits)
    targets = targets.detach().to(logits.dtype)
    counted = text_mask > 0
    run = (
        torch.ops.glip.token_sigmoid_focal_loss
        if _native.usable(logits)
        else token_sigmoid_focal_loss_reference
    )
    return run(logits, targets, counted, float(alpha), float(gamma))


def sigmoid_focal_loss_reference(
    logits: Tensor, targets: Tensor, gamma: float, alpha: float
) -> Tensor:
    """`sigmoid_focal_loss` in plain PyTorch, differentiable by autograd."""
    columns = torch.arange(1, logits.shape[1] + 1, device=logits.device)
    labels = targets.unsqueeze(1).long()
    positive = labels == columns
    minus_log_p, minus_log_rest = F.softplus(-logits), F.softplus(logits)
    # Powers of probabilities as exponentials: their slope stays finite where they round to zero.
    loss = torch.where(
        positive,
        alpha * torch.exp(-gamma * minus_log_rest) * minus_log_p,
        (1 - alpha) * torch.exp(-gamma * minus_log_p) * minus_log_rest,
    )
    return torch.where(labels >= 0, loss, torch.zeros_like(loss))


def token_sigmoid_focal_loss_reference(
    logits: Tensor, targets: Tensor, counted: Tensor, alpha: float, gamma: float
) -> Tensor:
    """`token_sigmoid_focal_loss` in plain PyTorch, differentiable by autograd."""
    probability = logits.sigmoid()
    wrong = probability + targets - 2 * probability * targets  # 1 - p_t
    loss = wrong**gamma * F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    if alpha >= 0:
        loss = loss * (alpha * targets + (1 - alpha) * (1 - targets))
    return torch.where(counted.unsqueeze(1), loss, torch.zeros_like(loss)).sum()
