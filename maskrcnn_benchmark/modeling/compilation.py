"""Compiling the parts of a detector in which nearly all time goes, by ``torch.compile``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

PARTS = ("backbone", "language_backbone", "head")


def compile_parts(model: nn.Module, parts: Sequence[str] = PARTS, **options: Any) -> None:
    """Compile parts of a detector in place.

    Compilation happens at the first call of each part, and again for shapes of a new kind. Modules
    keep their names, so checkpoints do not change; what is not compiled (tokenisation, losses,
    post-processing) depends on the data and gains nothing.

    Args:
        model: a ``GeneralizedVLRCNN`` or a ``FusedVLRCNN``, not wrapped.
        parts: which parts, of ``PARTS``. Where image and text meet in the backbone, the layers in
            which they do belong to "backbone".
        options: go to ``torch.compile``: ``backend``, ``mode`` ("reduce-overhead" replays CUDA
            graphs, "max-autotune" tries kernels out), ``dynamic``, ``fullgraph``.

    Raises:
        ValueError: for an unknown part.
    """
    unknown = [part for part in parts if part not in PARTS]
    if unknown:
        raise ValueError(f"unknown part {unknown[0]!r} of a detector, choose of {PARTS}")
    for part in parts:
        for module in _modules(model, part):
            module.compile(**options)


def _modules(model: nn.Module, part: str) -> list[nn.Module]:
    """What is called, at evaluation and in training, where a part runs."""
    if part == "head":
        return [model.rpn.head]
    fused = getattr(model, "fusion_backbone", None)
    if fused is None:
        return [getattr(model, part)]
    if part == "backbone":
        return [model.backbone.body, fused]
    return [model.language_backbone.body]
