"""A projection to another width, normalised."""

from __future__ import annotations

from torch import Tensor, nn


class FeatureResizer(nn.Module):
    """Linear, layer norm, dropout.

    Args:
        in_features: width of the input.
        out_features: width of the output.
        dropout: probability of dropping an output element in training.
    """

    def __init__(self, in_features: int, out_features: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.fc = nn.Linear(in_features, out_features)
        self.layer_norm = nn.LayerNorm(out_features, eps=1e-12)
        self.dropout = nn.Dropout(dropout)

    def forward(self, features: Tensor) -> Tensor:
        """``[..., in_features]`` to ``[..., out_features]``."""
        return self.dropout(self.layer_norm(self.fc(features)))
