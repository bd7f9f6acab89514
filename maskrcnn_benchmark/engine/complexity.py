"""How large a model is: parameters, and operations of a forward pass."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from maskrcnn_benchmark.config import CfgNode
from maskrcnn_benchmark.grounding import build_queries
from maskrcnn_benchmark.layers import _native
from maskrcnn_benchmark.modeling.detector import GeneralizedVLRCNN

# What a model is asked for where only the cost counts.
_NAMES = {1: "person", 2: "bicycle", 3: "car"}


@torch.no_grad()
def complexity_line(cfg: CfgNode, model: GeneralizedVLRCNN) -> str:
    """``FLOPs: ..., #Parameter: ...`` of a forward pass on one random picture and a short caption.

    A multiplication and an addition are two operations. The picture is as large as evaluation
    makes them: (3, INPUT.MAX_SIZE_TEST, INPUT.MIN_SIZE_TEST).
    """
    divisor = max(1, cfg.DATALOADER.SIZE_DIVISIBILITY)
    height, width = (
        -(-side // divisor) * divisor for side in (cfg.INPUT.MAX_SIZE_TEST, cfg.INPUT.MIN_SIZE_TEST)
    )
    query = build_queries(
        _NAMES, model.tokenizer, separation_tokens=cfg.DATASETS.SEPARATION_TOKENS
    )[0]
    parameters = list(model.parameters())
    picture = torch.randn(1, 3, height, width, device=parameters[0].device)
    with operation_counter() as counter:
        model(picture, captions=[query.caption], positive_map=query.label_to_tokens)
    count = sum(parameter.numel() for parameter in parameters)
    return f"FLOPs: {counter.get_total_flops() / 1e9:.2f} G, #Parameter: {count / 1e6:.2f} M"


def operation_counter() -> FlopCounterMode:
    """Counts two operations per multiplication and addition, in our operators too."""
    formulas = {torch.ops.glip.folded_bi_attention: _folded_attention_flops}
    if _native.loaded():
        formulas[torch.ops.glip.deform_conv] = _deform_conv_flops
    else:
        importlib.import_module("torchvision")  # registers the operator that stands in
        formulas[torch.ops.torchvision.deform_conv2d] = _torchvision_deform_conv_flops
    return FlopCounterMode(display=False, custom_mapping=formulas)


def _folded_attention_flops(
    visual: tuple[int, ...], keys: tuple[int, ...], *_: Any, **__: Any
) -> int:
    """Three products of visual tokens and the columns of all heads."""
    batch, num_visual, channels = visual
    return 3 * 2 * batch * num_visual * keys[1] * keys[2] * channels


def _deform_conv_flops(
    input: tuple[int, ...],
    offset: tuple[int, ...],
    mask: tuple[int, ...],
    weight: tuple[int, ...],
    *_: Any,
    **__: Any,
) -> int:
    batch, _, height, width = offset
    out_channels, channels, rows, columns = weight
    return 2 * batch * height * width * out_channels * channels * rows * columns


def _torchvision_deform_conv_flops(
    input: tuple[int, ...],
    weight: tuple[int, ...],
    offset: tuple[int, ...],
    mask: tuple[int, ...],
    *_: Any,
    **__: Any,
) -> int:
    return _deform_conv_flops(input, offset, mask, weight)
