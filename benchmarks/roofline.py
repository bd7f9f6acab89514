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
from collections.abc import Callable

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks.detector import CONFIG, build_glip, caption_of_length, random_image
from benchmarks.measuring import machine, print_table
from benchmarks.stages import Traffic, measured_stages
from maskrcnn_benchmark.engine.complexity import operation_counter
from maskrcnn_benchmark.modeling.detector import GeneralizedVLRCNN

MEASURED_TOKENS = (256, 16)
SIZES = ((400, 608), (800, 1216), (1200, 1824))
TOKENS = (16, 128, 256)
CHUNKS = (1, 8, 31)
BATCHES = (1, 2)


def speed_of_matrix_products(rounds: int = 5) -> float:
    """Operations per second of processor time, float32, at the shape of a transformer's layer."""
    left, right = torch.randn(4096, 768), torch.randn(768, 768)
    return 2 * 4096 * 768 * 768 / _median_seconds(lambda: left @ right, rounds)


def speed_of_copies(rounds: int = 5) -> float:
    """Bytes read and written per second of processor time."""
    source = torch.randn(32 << 20)
    target = torch.empty_like(source)
    return 2 * 4 * source.numel() / _median_seconds(lambda: target.copy_(source), rounds)


def _median_seconds(function: Callable[[], object], rounds: int) -> float:
    times = []
    for _ in range(rounds + 1):
        start = time.process_time()
        function()
        times.append(time.process_time() - start)
    return statistics.median(times[1:])


@torch.no_grad()
def measure_parts(model: GeneralizedVLRCNN, counter: Counter, size: tuple[int, int]) -> None:
    """Table of time, operations, bytes and floor of every part."""
    operations, bandwidth = speed_of_matrix_products(), speed_of_copies()
    print(
        f"matrix product {operations / 1e9:.0f} GFLOP/s, copy {bandwidth / 1e9:.1f} GB/s, "
        f"one thread\n"
    )
    for tokens in MEASURED_TOKENS:
        caption, positive_map = caption_of_length(model, tokens)
        with measured_stages(model) as timed:
            model(random_image(*size), captions=[caption], positive_map=positive_map)
        counts = counter.count(size, tokens)
        rows = []
        for name, clock in timed.items():
            volume = counts[name]
            by_operations = volume["operations"] / operations
            by_bytes = volume["bytes"] / bandwidth
            floor = max(by_operations, by_bytes)
            rows.append(
                (
                    name,
                    f"{clock['cpu']:.2f}",
                    f"{volume['operations'] / 1e9:.1f}",
                    f"{volume['bytes'] / 1e9:.2f}",
                    f"{by_operations:.2f}",
                    f"{by_bytes:.2f}",
                    f"{clock['cpu'] / floor:.1f}x" if floor > 0.005 else "",
                )
            )
        heads = f"{tokens} tokens|CPU s|GFLOP|GB|by operations, s|by bytes, s|of the floor"
        print_table(heads.split("|"), rows)


class Counter:
    """Counts what a forward pass would do, at any size, without doing it.

    Args:
        model: only texts are encoded for good.
    """

    def __init__(self, model: GeneralizedVLRCNN) -> None:
        self.model = model
        # Kept, because it remembers the stand-ins of parameters.
        self.fake = FakeTensorMode(allow_non_fake_inputs=True)
        self.known: dict[tuple[tuple[int, int], int, int], dict[str, dict[str, float]]] = {}

    def count(
        self, size: tuple[int, int], tokens: int, batch: int = 1
    ) -> dict[str, dict[str, float]]:
        """Operations and bytes of every stage of a forward pass, the post-processing left out."""
        key = size, tokens, batch
        if key not in self.known:
            self.known[key] = self._count(*key)
        return self.known[key]

    @torch.no_grad()
    def _count(self, size: tuple[int, int], tokens: int, batch: int) -> dict[str, dict[str, float]]:
        model = self.model
        caption, _ = caption_of_length(model, tokens)
        traffic = Traffic()
        operations = operation_counter()
        meters = {"operations": operations.get_total_flops, "bytes": lambda: traffic.bytes}
        with operations, traffic, measured_stages(model, meters) as in_text:
            text = model.encode_text([caption] * batch)
        with self.fake, operations, traffic, measured_stages(model, meters) as counts:
            model.rpn.predict(model.backbone(torch.empty(batch, 3, *size)), text)
        counts["text encoder"] = in_text["text encoder"]
        return counts

    def operations(
        self, size: tuple[int, int], tokens: int, chunks: int = 1, batch: int = 1
    ) -> float:
        """Operations of evaluating images on several captions, whose encoding is left out."""
        counts = self.count(size, tokens, batch)
        once = sum(counts[name]["operations"] for name in ("visual body", "pyramid"))
        whole = sum(counts[name]["operations"] for name in counts if name != "text encoder")
        return once + chunks * (whole - once)


def count_growth(counter: Counter) -> None:
    """Table of operations by image size, tokens, chunks and batch."""
    base = {"size": (800, 1216), "tokens": 128}
    rows = []
    varied = {"size": SIZES, "tokens": TOKENS, "chunks": CHUNKS, "batch": BATCHES}
    for name, values in varied.items():
        for value in values:
            total = counter.operations(**{**base, name: value}) / 1e9
            shown = " x ".join(map(str, value)) if isinstance(value, tuple) else str(value)
            rows.append((name, shown, f"{total:.0f}"))
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
    counter = Counter(model)
    if args.only != "growth":
        torch.set_num_threads(1)
        measure_parts(model, counter, tuple(args.size))
    if args.only != "parts":
        count_growth(counter)
    return 0


if __name__ == "__main__":
    sys.exit(main())
