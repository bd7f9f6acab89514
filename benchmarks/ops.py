"""Native operators against torchvision and plain PyTorch, side by side in one process.

    python -m benchmarks.ops [--quick] [--only deform] [--device cuda]

Prints medians of interleaved rounds. On the CPU both the process's CPU time (all threads; what a
kernel costs) and the wall time (what a user waits) are shown. The shapes are those of GLIP at
800 x 1216: feature maps of 100 x 152 down to 7 x 10, 20,267 anchors, 256 tokens.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torchvision
from torch import Tensor

from benchmarks.measuring import Comparison, write_comparisons
from maskrcnn_benchmark.layers import (
    _native,
    dynamic_mean,
    ml_nms,
    modulated_deform_conv,
    nms,
    roi_align,
    sigmoid_focal_loss,
    token_sigmoid_focal_loss,
)
from maskrcnn_benchmark.layers.dynamic_mean import dynamic_mean_reference

LEVELS = ((100, 152), (50, 76), (25, 38), (13, 19), (7, 10))
CHANNELS = 256


@dataclass
class Case:
    """One comparison: two functions of no arguments that do the same work."""

    name: str
    baseline_name: str
    baseline: Callable[[], object]
    ours: Callable[[], object]


@dataclass
class Row:
    """Median milliseconds of a comparison."""

    name: str
    baseline_name: str
    baseline_cpu: float
    ours_cpu: float
    baseline_wall: float
    ours_wall: float


def measure(case: Case, rounds: int, device: str) -> Row:
    """Run both sides in turn, `rounds` times after a warm-up."""
    times: dict[Callable, list[tuple[float, float]]] = {case.baseline: [], case.ours: []}
    for index in range(rounds + 1):
        for function, record in times.items():
            cpu, wall = time.process_time(), time.perf_counter()
            function()
            if device == "cuda":
                torch.cuda.synchronize()
            elapsed = time.process_time() - cpu, time.perf_counter() - wall
            if index > 0:
                record.append(elapsed)

    def median(function: Callable, which: int) -> float:
        return 1000 * statistics.median(pair[which] for pair in times[function])

    return Row(
        case.name,
        case.baseline_name,
        *(median(side, which) for which in (0, 1) for side in (case.baseline, case.ours)),
    )


def deform_cases(device: str, quick: bool) -> Iterator[Case]:
    """The modulated convolutions of one DyConv block: stride 1, and stride 2 from the finer level."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(device)

    weight, bias = normal(CHANNELS, CHANNELS, 3, 3) / 48, normal(CHANNELS)
    levels = LEVELS[1:] if quick else LEVELS
    calls = [((h, w), 1) for h, w in levels] + [((h, w), 2) for h, w in levels[:-1]]
    for (height, width), stride in calls:
        out = (height - 1) // stride + 1, (width - 1) // stride + 1
        maps = normal(1, 18, *out) * 2, normal(1, 9, *out).sigmoid()
        plain = normal(1, CHANNELS, height, width)
        innermost = plain.contiguous(memory_format=torch.channels_last)
        label = f"{height}x{width} stride {stride}"

        def theirs(plain=plain, maps=maps, stride=stride) -> Tensor:
            return torchvision.ops.deform_conv2d(
                plain, maps[0], weight, bias, stride, 1, mask=maps[1]
            )

        def ours(source, maps=maps, stride=stride) -> Tensor:
            return modulated_deform_conv(source, *maps, weight, bias, stride, 1)

        halved = [tensor.bfloat16() for tensor in (innermost, *maps, weight, bias)]

        def in_bfloat16(tensors=halved, stride=stride) -> Tensor:
            return modulated_deform_conv(*tensors, stride, 1)

        def backward(function, *leaves: Tensor) -> None:
            leaves = [leaf.detach().requires_grad_() for leaf in leaves]
            result = function(*leaves)
            result.backward(torch.ones_like(result))

        def train_theirs(source, offset, mask, w, b, stride=stride) -> Tensor:
            return torchvision.ops.deform_conv2d(source, offset, w, b, stride, 1, mask=mask)

        def train_ours(source, offset, mask, w, b, stride=stride) -> Tensor:
            return modulated_deform_conv(source, offset, mask, w, b, stride, 1)

        yield Case(
            f"deform_conv {label}, channels-last",
            "torchvision",
            theirs,
            lambda source=innermost, f=ours: f(source),
        )
        yield Case(
            f"deform_conv {label}, row-major",
            "torchvision",
            theirs,
            lambda source=plain, f=ours: f(source),
        )
        yield Case(
            f"deform_conv {label}, bfloat16",
            "torchvision float32",
            theirs,
            in_bfloat16,
        )
        leaves = (*maps, weight, bias)
        yield Case(
            f"deform_conv {label}, forward and backward",
            "torchvision",
            lambda a=plain, rest=leaves, f=train_theirs: backward(f, a, *rest),
            lambda a=innermost, rest=leaves, f=train_ours: backward(f, a, *rest),
        )


def random_boxes(count: int, device: str) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(count)
    corners = torch.rand(count, 2, generator=generator) * 1100
    sides = torch.rand(count, 2, generator=generator) * 150 + 1
    boxes = torch.cat((corners, corners + sides), 1).to(device)
    scores = torch.rand(count, generator=generator).to(device)
    labels = torch.randint(0, 80, (count,), generator=generator).to(device)
    return boxes, scores, labels


def nms_cases(device: str, quick: bool) -> Iterator[Case]:
    """Random boxes, most of which stay: the slow case."""
    for count in (100, 1000, 5000) if quick else (100, 1000, 5000, 20000):
        boxes, scores, labels = random_boxes(count, device)
        inclusive = boxes + boxes.new_tensor([0, 0, 1, 1])
        yield Case(
            f"nms, {count} boxes",
            "torchvision",
            lambda b=boxes, s=scores: torchvision.ops.nms(b, s, 0.6),
            lambda b=boxes, s=scores: nms(b, s, 0.6),
        )
        yield Case(
            f"ml_nms, {count} boxes, 80 labels",
            "torchvision batched_nms",
            lambda b=inclusive, s=scores, g=labels: torchvision.ops.batched_nms(b, s, g, 0.6),
            lambda b=boxes, s=scores, g=labels: ml_nms(b, s, g, 0.6),
        )


def roi_cases(device: str, quick: bool) -> Iterator[Case]:
    """A thousand boxes on the finest map, and one box on a small one."""
    size = LEVELS[1] if quick else LEVELS[0]
    settings = (("7x7, 2 samples", 7, 2, 1000), ("7x7, adaptive", 7, -1, 1000))
    settings += (("14x14, 2 samples", 14, 2, 1000), ("7x7, 2 samples", 7, 2, 1))
    for label, bins, ratio, count in settings:
        generator = torch.Generator().manual_seed(3)
        features = torch.randn(1, CHANNELS, *size, generator=generator).to(device)
        boxes, _, _ = random_boxes(count, device)
        rois = torch.cat((boxes.new_zeros(count, 1), boxes), 1)
        scale = size[0] / 1250

        def run(function, source, bins=bins, ratio=ratio, rois=rois, scale=scale) -> Tensor:
            return function(source, rois, bins, scale, ratio)

        def train(function, source, run=run) -> None:
            leaf = source.detach().requires_grad_()
            result = run(function, leaf)
            result.backward(torch.ones_like(result))

        for title, work in (("", run), (", forward and backward", train)):
            yield Case(
                f"roi_align, {count} boxes, {label}{title}",
                "torchvision",
                lambda x=features, work=work: work(torchvision.ops.roi_align, x),
                lambda x=features, work=work: work(roi_align, x),
            )


def focal_cases(device: str, quick: bool) -> Iterator[Case]:
    """Losses over all anchors of an image, forward alone and with the backward pass."""
    anchors = 5067 if quick else 20267
    generator = torch.Generator().manual_seed(4)
    logits = torch.randn(anchors, 80, generator=generator).to(device)
    labels = (torch.rand(anchors, generator=generator) * 90 - 10).clamp(min=0).long().to(device)
    tokens = torch.randn(1, anchors, 256, generator=generator).to(device)
    targets = (torch.rand(1, anchors, 256, generator=generator) < 0.001).float().to(device)

    def class_loss(z: Tensor) -> Tensor:
        return sigmoid_focal_loss(z, labels, 2.0, 0.25).sum()

    def token_loss(z: Tensor, mask: Tensor) -> Tensor:
        return token_sigmoid_focal_loss(z, targets, mask, 0.25, 2.0)

    def plainly(function: Callable, *arguments: Tensor) -> Tensor:
        with _native.disabled():
            return function(*arguments)

    def train(function: Callable, leaf: Tensor, *rest: Tensor) -> None:
        leaf = leaf.detach().requires_grad_()
        function(leaf, *rest).backward()

    yield Case(
        "sigmoid_focal_loss, 80 classes",
        "plain PyTorch",
        lambda: plainly(class_loss, logits),
        lambda: class_loss(logits),
    )
    yield Case(
        "sigmoid_focal_loss, 80 classes, forward and backward",
        "plain PyTorch",
        lambda: train(lambda z: plainly(class_loss, z), logits),
        lambda: train(class_loss, logits),
    )
    for real in (256, 16):
        mask = (torch.arange(256) < real).unsqueeze(0).to(device)
        yield Case(
            f"token_focal_loss, {real} of 256 tokens",
            "plain PyTorch",
            lambda mask=mask: plainly(token_loss, tokens, mask),
            lambda mask=mask: token_loss(tokens, mask),
        )
        yield Case(
            f"token_focal_loss, {real} of 256 tokens, forward and backward",
            "plain PyTorch",
            lambda mask=mask: train(lambda z, m: plainly(token_loss, z, m), tokens, mask),
            lambda mask=mask: train(token_loss, tokens, mask),
        )


def mean_cases(device: str, quick: bool) -> Iterator[Case]:
    """Mean of a level of 800 x 1216 pixels and its two neighbours, with dynamic ReLU."""
    height, width = (50, 76) if quick else (100, 152)
    generator = torch.Generator().manual_seed(5)
    maps = [
        torch.randn(1, 256, height, width, generator=generator)
        .to(device)
        .to(memory_format=torch.channels_last)
        for _ in range(3)
    ]
    weights = torch.rand(1, 3, generator=generator).to(device)
    pieces = torch.randn(1, 4, 256, generator=generator).to(device)

    def train(function: Callable) -> None:
        leaves = [x.detach().requires_grad_() for x in (*maps, weights, pieces)]
        out = function(leaves[:3], *leaves[3:])
        out.backward(torch.ones_like(out))

    yield Case(
        "dynamic_mean of three maps",
        "plain PyTorch",
        lambda: dynamic_mean_reference(maps, weights, pieces),
        lambda: dynamic_mean(maps, weights, pieces),
    )
    yield Case(
        "dynamic_mean of three maps, forward and backward",
        "plain PyTorch",
        lambda: train(dynamic_mean_reference),
        lambda: train(dynamic_mean),
    )


GROUPS = {
    "deform": deform_cases,
    "nms": nms_cases,
    "roi": roi_cases,
    "focal": focal_cases,
    "mean": mean_cases,
}


def run(device: str = "cpu", quick: bool = False, only: str | None = None) -> list[Row]:
    """Measure all comparisons, or those of one group; prints each as it is done."""
    if not _native.loaded():
        raise SystemExit(f"nothing to measure: {_native.describe()}")
    rounds = 5 if quick else 7
    print(f"{'':52}{'baseline':>11}{'ours':>10}{'ratio':>8}{'wall ratio':>12}   against")
    rows = []
    for name, cases in GROUPS.items():
        if only is not None and name != only:
            continue
        for case in cases(device, quick):
            row = measure(case, rounds, device)
            rows.append(row)
            cpu = device == "cpu"
            baseline, ours = (
                (row.baseline_cpu, row.ours_cpu) if cpu else (row.baseline_wall, row.ours_wall)
            )
            print(
                f"{row.name:52}{baseline:8.2f} ms{ours:7.2f} ms{baseline / ours:7.2f}x"
                f"{row.baseline_wall / row.ours_wall:11.2f}x   {row.baseline_name}",
                flush=True,
            )
    return rows


def summarise(rows: list[Row]) -> None:
    """Sums over the levels of a DyConv block."""
    for kind in ("channels-last", "row-major", "bfloat16", "forward and backward"):
        chosen = [r for r in rows if r.name.startswith("deform_conv") and r.name.endswith(kind)]
        if not chosen:
            continue
        cpu = sum(r.baseline_cpu for r in chosen) / sum(r.ours_cpu for r in chosen)
        wall = sum(r.baseline_wall for r in chosen) / sum(r.ours_wall for r in chosen)
        print(f"all deform_conv, {kind}: {cpu:.2f}x CPU time, {wall:.2f}x wall time")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="smaller maps and fewer rounds")
    parser.add_argument("--only", choices=sorted(GROUPS), help="one group of operators")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--json", type=Path, help="also write the comparisons to this file")
    arguments = parser.parse_args()
    print(
        f"torch {torch.__version__}, torchvision {torchvision.__version__}, "
        f"{torch.get_num_threads()} threads, CPU time in ms unless on CUDA"
    )
    with torch.autograd.set_grad_enabled(True):
        rows = run(arguments.device, arguments.quick, arguments.only)
    summarise(rows)
    write_comparisons(arguments.json, [comparison(row, arguments.device) for row in rows])


def comparison(row: Row, device: str) -> Comparison:
    """A line of the table over all benchmarks."""
    times = row.baseline_cpu, row.ours_cpu
    if device == "cuda":
        times = row.baseline_wall, row.ours_wall
    return Comparison(row.name, row.baseline_name, *times, "ms")


if __name__ == "__main__":
    main()
