"""What the benchmarks share: interleaved timing, peak memory, tables."""

from __future__ import annotations

import ctypes
import gc
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import transformers

_CLEAR_REFERENCES = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")


@dataclass(frozen=True)
class Cost:
    """What one thing costs, medians of several rounds.

    Attributes:
        cpu: seconds of processor time, over all threads.
        wall: seconds by the clock.
        megabytes: memory needed at most beyond what there was before; NaN where that is unknown.
    """

    cpu: float
    wall: float
    megabytes: float


def measure_in_turn(
    functions: Mapping[str, Callable[[], object]],
    rounds: int,
    warm_up: int = 1,
    watch_memory: bool = True,
) -> dict[str, Cost]:
    """Run all functions in turn, ``rounds`` times after ``warm_up`` times; cost by name.

    Processor time counts where others share the machine; the clock tells what threads gain.

    Args:
        watch_memory: give memory back before each call, to see what it takes. Taking it again
            costs time, which counts where calls are short.
    """
    records: dict[str, list[tuple[float, float, float]]] = {name: [] for name in functions}
    for index in range(warm_up + rounds):
        for name, function in functions.items():
            before = _reset_peak() if watch_memory else float("nan")
            cpu, wall = time.process_time(), time.perf_counter()
            function()
            _wait_for_device()
            elapsed = time.process_time() - cpu, time.perf_counter() - wall
            peak = _peak() - before if watch_memory else float("nan")
            print(f"  {name}: {elapsed[0]:.2f} s CPU", file=sys.stderr, flush=True)
            if index >= warm_up:
                records[name].append((*elapsed, peak))
    return {
        name: Cost(*(statistics.median(column) for column in zip(*record)))
        for name, record in records.items()
    }


def _wait_for_device() -> None:
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def _reset_peak() -> float:
    """Megabytes in use; from here on the peak is watched.

    On a GPU what the allocator handed out, on the CPU the resident set of the process, whose
    high-water mark Linux lets a process reset.
    """
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated() / 2**20
    if not _CLEAR_REFERENCES.exists():
        return float("nan")
    # Freed memory that the C library keeps would hide what the call takes.
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    _CLEAR_REFERENCES.write_text("5")
    return _resident("VmRSS")


def _peak() -> float:
    if torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated() / 2**20
    return _resident("VmHWM") if _CLEAR_REFERENCES.exists() else float("nan")


def _resident(key: str) -> float:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"{_STATUS} has no line {key}")


def machine(device: str = "cpu") -> str:
    """What figures were measured on, in one line."""
    return (
        f"{_processor(device)}, {os.cpu_count()} cores, {torch.get_num_threads()} thread(s) used; "
        f"Python {platform.python_version()}, PyTorch {torch.__version__}, transformers "
        f"{transformers.__version__}"
    )


def _processor(device: str) -> str:
    if device == "cuda":
        return torch.cuda.get_device_name()
    information = Path("/proc/cpuinfo")
    if not information.exists():
        return platform.machine()
    text = information.read_text()
    names = [line.split(":", 1)[1].strip() for line in text.splitlines() if "model name" in line]
    sets = [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if name in text]
    return f"{names[0] if names else platform.machine()} ({', '.join(sets)})"


@dataclass(frozen=True)
class Comparison:
    """One line of the table over all benchmarks.

    Attributes:
        part: what is measured.
        against: what it is compared with.
        baseline, ours: what both cost, in ``unit``.
        unit: of both, e.g. "ms".
    """

    part: str
    against: str
    baseline: float
    ours: float
    unit: str


def write_comparisons(path: Path | None, comparisons: Sequence[Comparison]) -> None:
    """Write lines for the table as JSON, if a file is named."""
    if path is not None:
        path.write_text(json.dumps([asdict(one) for one in comparisons], indent=1) + "\n")


def print_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table in Markdown."""
    print("| " + " | ".join(heads) + " |")
    print("|" + "---|" * len(heads))
    for row in rows:
        print("| " + " | ".join(row) + " |")
    print(flush=True)
