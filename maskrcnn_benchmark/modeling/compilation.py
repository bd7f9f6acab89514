"""Compiling the parts of a detector in which nearly all time goes, by ``torch.compile``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from maskrcnn_benchmark.errors import ConfigError

ENCODERS = ("backbone", "language_backbone")
PARTS = (*ENCODERS, "head")
MODES = ("", "default", "reduce-overhead", "max-autotune-no-cudagraphs")


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


def compile_for_evaluation(model: nn.Module, mode: str) -> None:
    """Compile a detector as TEST.COMPILE says.

    CUDA graphs ("reduce-overhead") are for the head alone: what they return is overwritten by
    their next run, which is after the detections have been made of it. Encoded images and texts
    are kept for longer.

    Args:
        model: as for ``compile_parts``.
        mode: of ``MODES``; empty leaves the model as it is.

    Raises:
        ConfigError: for another mode.
    """
    if mode not in MODES:
        raise ConfigError(f"TEST.COMPILE is {mode!r}, not one of {list(MODES)}")
    if not mode:
        return
    compile_parts(model, ENCODERS, mode="default" if mode == "reduce-overhead" else mode)
    compile_parts(model, ("head",), mode=mode)


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
