"""How far every part of GLIP-T is from what the machine allows, and how its cost grows.

    python -m benchmarks.roofline                   # GLIP-T, 800 x 1216
    python -m benchmarks.roofline --size 256 384
    python -m benchmarks.roofline --only growth     # counts only, nothing is computed

Operations are counted by ``torch.utils.flop_counter`` (two per multiplication and addition;
products and convolutions only), bytes by operator. The floor of a part is the larger of operations
over the measured speed of a matrix product and bytes over the measured speed of a copy. Bytes count
what each operator reads and writes as if nothing stayed in a cache, so a part that keeps its blocks
in the caches can lie below that part of the floor.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time

import torch
from torch import nn

from benchmarks.detector import CONFIG, build_glip, caption_of_length, random_image
from benchmarks.measuring import machine, print_table
from benchmarks.stages import CLOCKS, Traffic, measured_stages, operation_counter
from maskrcnn_benchmark.modeling.detector import GeneralizedVLRCNN
from maskrcnn_benchmark.structures.image_list import ImageList

MEASURED_TOKENS = (256, 16)
SIZES = ((400, 608), (800, 1216), (1200, 1824))
TOKENS = (16, 64, 128, 256)
CHUNKS = (1, 8, 31)
BATCHES = (1, 2, 4)


def speed_of_matrix_products(rounds: int = 5) -> float:
    """Operations per second of processor time, float32, at the shape of a transformer's layer."""
    left, right = torch.randn(4096, 768), torch.randn(768, 768)
    return 2 * 4096 * 768 * 768 / _median_seconds(lambda: left @ right, rounds)


def speed_of_copies(rounds: int = 5) -> float:
    """Bytes read and written per second of processor time."""
    source = torch.randn(32 << 20)
    target = torch.empty_like(source)
    return 2 * 4 * source.numel() / _median_seconds(lambda: target.copy_(source), rounds)


def _median_seconds(function, rounds: int) -> float:
    times = []
    for _ in range(rounds + 1):
        start = time.process_time()
        function()
        times.append(time.process_time() - start)
    return statistics.median(times[1:])


@torch.no_grad()
def measure_parts(model: GeneralizedVLRCNN, size: tuple[int, int]) -> None:
    """Table of time, operations, bytes and floor of every part."""
    operations, bandwidth = speed_of_matrix_products(), speed_of_copies()
    print(
        f"matrix product {operations / 1e9:.0f} GFLOP/s, copy {bandwidth / 1e9:.1f} GB/s, "
        f"one thread\n"
    )
    for tokens in MEASURED_TOKENS:
        caption, positive_map = caption_of_length(model, tokens)
        images = random_image(*size)
        with measured_stages(model, CLOCKS) as timed:
            model(images, captions=[caption], positive_map=positive_map)
        counts = count(model, images, caption, positive_map)
        rows = []
        for name, clock in timed.items():
            counted = counts[name]
            by_operations = counted["operations"] / operations
            by_bytes = counted["bytes"] / bandwidth
            floor = max(by_operations, by_bytes)
            rows.append(
                (
                    name,
                    f"{clock['cpu']:.2f}",
                    f"{counted['operations'] / 1e9:.1f}",
                    f"{counted['bytes'] / 1e9:.2f}",
                    f"{floor:.2f}",
                    "operations" if by_operations >= by_bytes else "bytes",
                    f"{clock['cpu'] / floor:.1f}x" if floor > 0.005 else "",
                )
            )
        rows.append(_total(rows))
        print_table(
            (f"{tokens} tokens", "CPU s", "GFLOP", "GB", "floor, s", "set by", "of the floor"), rows
        )


def _total(rows: list[tuple[str, ...]]) -> tuple[str, ...]:
    sums = [sum(float(row[column]) for row in rows) for column in (1, 2, 3, 4)]
    seconds, operations, volume, floor = sums
    return (
        "**all**",
        f"{seconds:.2f}",
        f"{operations:.0f}",
        f"{volume:.1f}",
        f"{floor:.2f}",
        "",
        f"{seconds / floor:.1f}x",
    )


def count(
    model: GeneralizedVLRCNN, images: ImageList, caption: str, positive_map: dict
) -> dict[str, dict[str, float]]:
    """Operations and bytes of every stage of one forward pass."""
    traffic = Traffic()
    with operation_counter() as counter, traffic:
        meters = {"operations": counter.get_total_flops, "bytes": lambda: traffic.bytes}
        with measured_stages(model, meters) as counts:
            model(images, captions=[caption] * len(images), positive_map=positive_map)
    return counts


class _OnMeta:
    """A detector without numbers, for counting at any size."""

    def __init__(self, model: GeneralizedVLRCNN) -> None:
        self.model = model.to("meta")

    @torch.no_grad()
    def operations(self, size: tuple[int, int], tokens: int, chunks: int, batch: int) -> float:
        """Operations of an evaluation of ``batch`` images with ``chunks`` captions each."""
        head = self._operations_of(self.model.rpn.head, size, tokens, batch)
        pixels = torch.empty(batch, 3, *size, device="meta")
        with operation_counter() as counter:
            self.model.backbone(pixels)
        return counter.get_total_flops() + chunks * head

    def _operations_of(
        self, head: nn.Module, size: tuple[int, int], tokens: int, batch: int
    ) -> float:
        ids = torch.ones(batch, tokens, dtype=torch.long, device="meta")
        text = self.model.encode_tokens({"input_ids": ids, "attention_mask": ids})
        features = self.model.backbone(torch.empty(batch, 3, *size, device="meta"))
        with operation_counter() as counter:
            head(features, text, text.embedded)
        return counter.get_total_flops()


def count_growth(model: GeneralizedVLRCNN) -> None:
    """Table of operations by image size, tokens, chunks and batch, text encoder left out."""
    meta = _OnMeta(model)
    base = {"size": (800, 1216), "tokens": 128, "chunks": 1, "batch": 1}
    rows = []
    for name, values in (
        ("size", SIZES),
        ("tokens", TOKENS),
        ("chunks", CHUNKS),
        ("batch", BATCHES),
    ):
        for value in values:
            total = meta.operations(**{**base, name: value}) / 1e9
            rows.append((name, f"{value}", f"{total:.0f}"))
    print("GFLOP; what is not varied: 800 x 1216, 128 tokens, 1 chunk, 1 image.\n")
    print_table(("varied", "value", "GFLOP"), rows)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=("parts", "growth"))
    parser.add_argument("--config-file", default=CONFIG)
    parser.add_argument("--size", type=int, nargs=2, default=(800, 1216), metavar=("H", "W"))
    args = parser.parse_args(arguments)
    print(f"{machine()}\n")
    model = build_glip(args.config_file)
    if args.only != "growth":
        torch.set_num_threads(1)
        measure_parts(model, tuple(args.size))
    if args.only != "parts":
        count_growth(model)
    return 0


if __name__ == "__main__":
    sys.exit(main())
