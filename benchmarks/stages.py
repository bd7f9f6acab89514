"""Where the cost of a detector goes: time, operations and bytes by stage.

Stages are modules; a clock reads its meters whenever one of them begins or ends.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.hooks import RemovableHandle

from maskrcnn_benchmark.modeling.fusion import BiAttentionFuse
from maskrcnn_benchmark.modeling.rpn.dyconv import DyConv
from maskrcnn_benchmark.modeling.rpn.language_layers import BertEncoderLayer

Meters = Mapping[str, Callable[[], float]]
CLOCKS: Meters = {"cpu": time.process_time, "wall": time.perf_counter}
FUSION, TEXT_LAYERS, VISION_LAYERS = "fusion", "text layers", "vision layers"
_LAYERS = {FUSION: BiAttentionFuse, TEXT_LAYERS: BertEncoderLayer, VISION_LAYERS: DyConv}
ELSEWHERE = "branches and glue"


def stages_of(model: nn.Module) -> dict[str, list[nn.Module]]:
    """The modules of every stage, none inside another."""
    stages = {
        "visual body": [model.backbone.body],
        "pyramid": [model.backbone.fpn],
        "text encoder": [model.language_backbone],
    }
    for name, kind in _LAYERS.items():
        stages[name] = [layer for layer in model.rpn.head.dyhead_tower if isinstance(layer, kind)]
    stages["post-processing"] = [model.rpn.post_processor]
    return stages


@contextmanager
def measured_stages(
    model: nn.Module, meters: Meters = CLOCKS
) -> Iterator[dict[str, dict[str, float]]]:
    """Read meters around every stage of what runs inside.

    Yields:
        stage to meter to sum, complete at the end; what ran outside all stages is in
        ``ELSEWHERE``.
    """
    sums = {name: dict.fromkeys(meters, 0.0) for name in (*stages_of(model), ELSEWHERE)}
    begun: dict[str, float] = {}
    handles: list[RemovableHandle] = []

    def read() -> dict[str, float]:
        return {name: meter() for name, meter in meters.items()}

    for stage, modules in stages_of(model).items():

        def begin(*_: Any) -> None:
            begun.update(read())

        def end(*_: Any, stage: str = stage) -> None:
            for name, value in read().items():
                sums[stage][name] += value - begun[name]

        for module in modules:
            handles += [
                module.register_forward_pre_hook(begin),
                module.register_forward_hook(end),
            ]
    start = read()
    try:
        yield sums
    finally:
        whole = {name: value - start[name] for name, value in read().items()}
        for handle in handles:
            handle.remove()
        for name, total in whole.items():
            named = sum(meter[name] for stage, meter in sums.items() if stage != ELSEWHERE)
            sums[ELSEWHERE][name] = total - named


class Traffic(TorchDispatchMode):
    """Bytes that operators read and write, each on its own: what goes through the caches.

    Views cost nothing. An operator that is one node here, like the folded attention, counts its
    inputs and outputs only.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if not func.is_view:
            self.bytes += _bytes((args, kwargs)) + _bytes(out)
        return out


def _bytes(tree: Any) -> int:
    leaves = torch.utils._pytree.tree_leaves(tree)
    return sum(leaf.numel() * leaf.element_size() for leaf in leaves if isinstance(leaf, Tensor))
