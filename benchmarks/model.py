"""The whole model and its fusion layer against the plain way, and against other detectors.

    python -m benchmarks.model                          # GLIP-T, 800 x 1216: many minutes
    python -m benchmarks.model --only fusion
    python -m benchmarks.model --size 256 384 --rounds 1
    python -m benchmarks.model --device cuda --compile  # adds compiled bfloat16

Everything runs in one process, in turns, with random weights. Seconds are of processor time on the
CPU, by the clock on a GPU. The plain way is that of ``benchmarks/detector.py``: 256 token slots,
however long the caption. Peers: Grounding DINO (Swin-T) and OWLv2 (B/16) of transformers, built
from their configurations, and Faster R-CNN (ResNet-50) of torchvision as the common unit.
"""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.detector import (
    CONFIG,
    build_glip,
    caption_of_length,
    difference,
    make_selective,
    plain_way,
    random_image,
)
from benchmarks.measuring import (
    Comparison,
    Cost,
    machine,
    measure_in_turn,
    print_table,
    write_comparisons,
)
from maskrcnn_benchmark.modeling.compilation import compile_for_evaluation
from maskrcnn_benchmark.modeling.fusion import BiAttentionFuse
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.utils.memory import keep_freed_memory

SLOTS = (256, 195, 16)
TEXT_SLOTS = 256
STRIDES = (8, 16, 32, 64, 128)


def num_visual_tokens(height: int, width: int) -> int:
    """Positions of all pyramid levels, 20,267 at 800 x 1216."""
    return sum(-(-height // stride) * -(-width // stride) for stride in STRIDES)


class FusionCase:
    """The fusion layer of GLIP on random features, ``real`` of 256 token slots filled.

    Args:
        num_visual: number of visual tokens.
        real: number of real tokens.
        device: "cpu" or "cuda".
    """

    def __init__(self, num_visual: int, real: int, device: str) -> None:
        torch.manual_seed(0)
        fuse = BiAttentionFuse(
            256, 768, num_heads=8, initial_scale=1 / 6, clamp_min=True, clamp_max=True, dropout=0.0
        )
        self.attention = fuse.b_attn.attn.to(device)
        self.visual = torch.randn(1, num_visual, 256, device=device)
        self.text = torch.randn(1, TEXT_SLOTS, 768, device=device)
        self.mask = (torch.arange(TEXT_SLOTS, device=device) < real).long()[None]
        self.real = real

    def run(self, way: str, slots: int) -> tuple[Tensor, Tensor]:
        """The attention alone, on the first ``slots`` token slots."""
        self.attention.set_implementation(way)
        return self.attention(self.visual, self.text[:, :slots], self.mask[:, :slots])

    def train(self, way: str, slots: int) -> dict[str, Tensor]:
        """Forward and backward; gradients of the input and of all parameters."""
        self.attention.zero_grad()
        self.visual.grad = None
        self.visual.requires_grad_()
        outputs = self.run(way, slots)
        sum((out[:, :slots].sin()).sum() for out in outputs).backward()
        gradients = {name: p.grad for name, p in self.attention.named_parameters()}
        return {"visual": self.visual.grad, **gradients}


def measure_fusion(num_visual: int, rounds: int, device: str) -> list[Comparison]:
    """Table of the fusion layer."""
    rows, comparisons = [], []
    for real in SLOTS:
        case = FusionCase(num_visual, real, device)
        for measure in (_fusion_forward, _fusion_training):
            label, costs, error = measure(case, rounds)
            plain, ours = (1000 * _seconds(costs[name]) for name in ("plain", "ours"))
            comparisons.append(
                Comparison(f"fusion layer, {label}", "plain path", plain, ours, "ms")
            )
            rows.append(
                (
                    label,
                    f"{plain:.0f}",
                    f"{ours:.0f}",
                    f"{plain / ours:.1f}x",
                    f"{costs['plain'].wall / costs['ours'].wall:.1f}x",
                    *(f"{costs[name].megabytes:.0f}" for name in ("plain", "ours")),
                    f"{error:.0e}",
                )
            )
    heads = "fusion layer|plain, ms|ours, ms|ratio|wall|plain, MB|ours, MB|error"
    print_table(heads.split("|"), rows)
    return comparisons


@torch.no_grad()
def _fusion_forward(case: FusionCase, rounds: int) -> tuple[str, dict[str, Cost], float]:
    """Against the plain path on all slots."""
    ways = {
        "plain": lambda: case.run("plain", TEXT_SLOTS),
        "ours": lambda: case.run("folded", case.real),
    }
    expected, found = (ways[name]() for name in ("plain", "ours"))
    real = slice(None, case.real)
    error = max(
        _relative(found[0], expected[0]), _relative(found[1][:, real], expected[1][:, real])
    )
    del expected, found
    label = f"forward, {case.real} tokens; plain on {TEXT_SLOTS} slots"
    return label, measure_in_turn(ways, rounds, warm_up=0), error


def _fusion_training(case: FusionCase, rounds: int) -> tuple[str, dict[str, Cost], float]:
    """Against the plain path on as many slots."""
    ways = {
        "plain": lambda: case.train("plain", case.real),
        "ours": lambda: case.train("folded", case.real),
    }
    expected = {name: grad.clone() for name, grad in ways["plain"]().items()}
    found = ways["ours"]()
    error = max(_relative(found[name], grad) for name, grad in expected.items())
    del expected, found
    label = f"forward and backward, {case.real} slots both"
    return label, measure_in_turn(ways, rounds, warm_up=0), error


def _relative(found: Tensor, expected: Tensor) -> float:
    """Largest difference in units of the largest value."""
    return ((found - expected).abs().max() / expected.abs().max().clamp(min=1e-12)).item()


def _seconds(times: Cost) -> float:
    return times.wall if torch.cuda.is_available() else times.cpu


@torch.no_grad()
def measure_models(
    size: tuple[int, int], rounds: int, device: str, config_file: str, peers: bool, compiled: bool
) -> list[Comparison]:
    """One table of whole forward passes: ours, plain, compiled, peers."""
    model = build_glip(config_file, device)
    images = random_image(*size, device=device)
    captions = {tokens: caption_of_length(model, tokens) for tokens in SLOTS}
    make_selective(model, captions[TEXT_SLOTS][0])

    found: dict[tuple[str, int], list[BoxList]] = {}

    def detect(tokens: int, way: str = "ours", detector: nn.Module = model) -> None:
        caption, positive_map = captions[tokens]
        found[way, tokens] = detector(images, captions=[caption], positive_map=positive_map)

    def detect_plainly(tokens: int) -> None:
        with plain_way(model):
            detect(tokens, "plain")

    ways: dict[str, Callable[[], object]] = {
        f"plain, {tokens} tokens in {TEXT_SLOTS} slots": lambda n=tokens: detect_plainly(n)
        for tokens in (TEXT_SLOTS, 16)
    }
    ways.update({f"ours, {tokens} tokens": lambda n=tokens: detect(n) for tokens in SLOTS})
    if compiled:
        fast = copy.deepcopy(model)
        compile_for_evaluation(fast, "default")

        def detect_fast(way: str, detector: nn.Module) -> None:
            with torch.autocast(device, torch.bfloat16):
                detect(TEXT_SLOTS, way, detector)

        name = f"ours, {TEXT_SLOTS} tokens, bfloat16"
        ways[name] = lambda: detect_fast("bfloat16", model)
        ways[f"{name}, compiled"] = lambda: detect_fast("compiled", fast)
    if peers:
        ways.update(build_peers(size, device))
    times = measure_in_turn(ways, rounds, warm_up=1 if device == "cuda" else 0)

    unit = times.get("torchvision Faster R-CNN R-50")
    plain = _seconds(times[f"plain, {TEXT_SLOTS} tokens in {TEXT_SLOTS} slots"])
    rows = [
        (
            name,
            f"{_seconds(taken):.2f}",
            f"{taken.wall:.2f}",
            f"{plain / _seconds(taken):.1f}x",
            "" if unit is None else f"{_seconds(taken) / _seconds(unit):.2f}",
            f"{taken.megabytes:.0f}",
        )
        for name, taken in times.items()
    ]
    print_table(
        (f"{size[0]} x {size[1]}", "s", "wall s", "plain / this", "this / R-CNN", "peak extra MB"),
        rows,
    )
    for tokens in (TEXT_SLOTS, 16):
        expected = found["plain", tokens]
        apart = difference(found["ours", tokens], expected)
        print(
            f"{tokens} tokens: {sum(map(len, expected))} boxes, {apart.unmatched} without a "
            f"counterpart, scores within {apart.scores:.1e}, boxes within {apart.pixels:.1e} pixels"
        )
    return [
        Comparison(
            f"{name}, {size[0]} x {size[1]}", "GLIP-T, plain path", plain, _seconds(taken), "s"
        )
        for name, taken in times.items()
        if not name.startswith("plain")
    ]


def build_peers(size: tuple[int, int], device: str) -> dict[str, Callable[[], object]]:
    """Forward passes of other detectors on an image of the same size, with 16 tokens of text."""
    from torchvision.models.detection import fasterrcnn_resnet50_fpn
    from transformers import (
        GroundingDinoConfig,
        GroundingDinoForObjectDetection,
        Owlv2Config,
        Owlv2ForObjectDetection,
    )

    height, width = size
    pixels = random_image(*size, device=device).tensors
    ids = torch.randint(2000, 20000, (1, 16), device=device)
    torch.manual_seed(0)
    frcnn = fasterrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, min_size=min(size), max_size=max(size)
    )
    frcnn = frcnn.to(device).eval()
    # Of small images the encoder has fewer positions than the usual number of queries.
    queries = min(900, num_visual_tokens(*size) // 2)
    dino = (
        GroundingDinoForObjectDetection(GroundingDinoConfig(num_queries=queries)).to(device).eval()
    )
    owl = Owlv2ForObjectDetection(Owlv2Config()).to(device).eval()
    present = torch.ones_like(ids)
    pixel_mask = torch.ones(1, height, width, dtype=torch.long, device=device)

    def run_dino() -> object:
        return dino(
            pixel_values=pixels, pixel_mask=pixel_mask, input_ids=ids, attention_mask=present
        )

    def run_owl() -> object:
        return owl(
            input_ids=ids,
            attention_mask=present,
            pixel_values=pixels,
            interpolate_pos_encoding=True,
        )

    return {
        "Grounding DINO-T, 16 tokens": run_dino,
        "OWLv2 B/16, 16 tokens": run_owl,
        "torchvision Faster R-CNN R-50": lambda: frcnn([pixels[0].sigmoid()]),
    }


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=("fusion", "forward"))
    parser.add_argument("--config-file", default=CONFIG)
    parser.add_argument("--size", type=int, nargs=2, default=(800, 1216), metavar=("H", "W"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--compile", action="store_true", help="also bfloat16 and compiled")
    parser.add_argument(
        "--keep-freed-memory", action="store_true", help="as the tools do on a CPU; both ways gain"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--json", type=Path, help="also write the comparisons to this file")
    args = parser.parse_args(arguments)
    if args.keep_freed_memory:
        keep_freed_memory()
    print(f"{machine(args.device)}\n")
    size = tuple(args.size)
    comparisons = []
    if args.only != "forward":
        comparisons += measure_fusion(num_visual_tokens(*size), args.rounds, args.device)
    if args.only != "fusion":
        comparisons += measure_models(
            size, args.rounds, args.device, args.config_file, not args.no_peers, args.compile
        )
    write_comparisons(args.json, comparisons)
    return 0


if __name__ == "__main__":
    sys.exit(main())
