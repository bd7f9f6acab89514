"""Boxes as deltas against anchors, and back."""

from __future__ import annotations

import math

import torch
from torch import Tensor


class BoxCoder:
    """Encodes boxes relative to anchors, as Faster R-CNN does.

    With inclusive corners, ``w = x2 - x1 + 1`` and ``c = (x1 + x2) / 2``:
    ``d = (wx (cx - cx_a) / w_a, wy (cy - cy_a) / h_a, ww ln(w / w_a), wh ln(h / h_a))``.

    Args:
        weights: ``(wx, wy, ww, wh)``.
        max_log_scale: decoded boxes are at most ``exp(max_log_scale)`` times their anchor.
    """

    def __init__(
        self,
        weights: tuple[float, float, float, float] = (10.0, 10.0, 5.0, 5.0),
        max_log_scale: float = math.log(1000.0 / 16),
    ) -> None:
        self.weights = weights
        self.max_log_scale = max_log_scale

    def encode(self, boxes: Tensor, anchors: Tensor) -> Tensor:
        """Deltas that turn ``anchors`` into ``boxes``.

        Args:
            boxes: ``[..., 4]`` xyxy of positive width and height.
            anchors: broadcastable to ``boxes``.

        Returns:
            ``[..., 4]`` in the wider dtype of the two.
        """
        centre, size = _centre_and_size(boxes)
        anchor_centre, anchor_size = _centre_and_size(anchors)
        deltas = torch.cat(((centre - anchor_centre) / anchor_size, (size / anchor_size).log()), -1)
        return deltas * deltas.new_tensor(self.weights)

    def decode(self, deltas: Tensor, anchors: Tensor) -> Tensor:
        """Boxes that ``deltas`` make of ``anchors``.

        Args:
            deltas: ``[..., 4]``; half precision is computed and returned as the anchors' float32,
                because pixels beyond 256 (bfloat16) or 2048 (float16) have no exact value there.
            anchors: xyxy, broadcastable to ``deltas``.

        Returns:
            ``[..., 4]`` xyxy.
        """
        deltas = deltas.to(torch.promote_types(deltas.dtype, anchors.dtype))
        deltas = deltas / deltas.new_tensor(self.weights)
        anchor_centre, anchor_size = _centre_and_size(anchors)
        centre = deltas[..., :2] * anchor_size + anchor_centre
        size = anchor_size * deltas[..., 2:].clamp(max=self.max_log_scale).exp()
        half = (size - 1) / 2
        return torch.cat((centre - half, centre + half), -1)


def _centre_and_size(boxes: Tensor) -> tuple[Tensor, Tensor]:
    top_left, bottom_right = boxes[..., :2], boxes[..., 2:]
    return (top_left + bottom_right) / 2, bottom_right - top_left + 1
