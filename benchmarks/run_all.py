"""Run every benchmark at small size; writes one table over all, and what each of them printed.

python -m benchmarks.run_all --output OUTPUT/benchmarks.md
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torchvision

from benchmarks.measuring import Comparison, machine
from maskrcnn_benchmark.utils.checkpoint_files import write_atomically


def _read_comparisons(figures: Any) -> list[Comparison]:
    return [Comparison(**one) for one in figures]


def _read_scoring(figures: Any) -> list[Comparison]:
    return [
        Comparison(
            f"scoring, {row['set']}, {row['images']} images",
            row["reference"],
            row["reference_s"],
            row["ours_s"],
            "s",
        )
        for row in figures
    ]


def _read_data(figures: Any) -> list[Comparison]:
    return [
        Comparison(
            f"picture {row['size']} to input",
            "PIL",
            1000 / row["pil"],
            1000 / row["torchvision"],
            "ms",
        )
        for row in figures.get("pictures", ())
    ]


def _read_training(figures: Any) -> list[Comparison]:
    if "compare" not in figures:
        return []
    plain, ours = (figures["compare"][way] for way in ("plain", "ours"))
    return [
        Comparison("training step", "plain path", plain["cpu_seconds"], ours["cpu_seconds"], "s"),
        Comparison(
            "training step, memory", "plain path", plain["peak_mib"], ours["peak_mib"], "MB"
        ),
    ]


@dataclass(frozen=True)
class Part:
    """One run of a benchmark.

    Attributes:
        module: its module in this folder.
        options: what makes it small.
        read: makes lines of the table from the JSON that it writes; None: it writes none.
    """

    module: str
    options: tuple[str, ...]
    read: Callable[[Any], list[Comparison]] | None = _read_comparisons


SMALL_IMAGE = ("--size", "256", "384")
PARTS = {
    "ops": Part("ops", ("--quick",)),
    "fusion": Part("model", ("--only", "fusion", "--rounds", "1")),
    "model": Part("model", ("--only", "forward", "--rounds", "1", *SMALL_IMAGE)),
    "evaluation": Part(
        "evaluation", ("--chunks", "1", "6", "--rounds", "1", "--plain-chunks", "2", *SMALL_IMAGE)
    ),
    "training": Part("training", ("--quick", "--only", "compare"), _read_training),
    "finetuning": Part("finetuning", ("--sizes", "224", "--rounds", "1")),
    "data": Part("data", ("--records", "20000", "--rounds", "2"), _read_data),
    "scoring": Part("scoring", ("--small",), _read_scoring),
    "roofline": Part("roofline", SMALL_IMAGE, None),
}


@dataclass(frozen=True)
class Outcome:
    """What a benchmark printed, its exit status, its seconds, and its lines of the table."""

    output: str
    status: int
    seconds: float
    comparisons: list[Comparison]


def run(part: Part) -> Outcome:
    """Run a benchmark in a process of its own."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        figures = Path(folder, "figures.json")
        options = part.options if part.read is None else (*part.options, "--json", str(figures))
        command = [sys.executable, "-m", f"benchmarks.{part.module}", *options]
        done = subprocess.run(command, text=True, capture_output=True)
        comparisons = []
        if figures.exists():
            comparisons = part.read(json.loads(figures.read_text()))
    output = done.stdout if done.returncode == 0 else done.stdout + done.stderr
    seconds = time.perf_counter() - start
    return Outcome(output.strip(), done.returncode, seconds, comparisons)


def table(comparisons: list[Comparison]) -> str:
    """One line per comparison, in Markdown."""
    lines = ["| part | against | theirs | ours | ratio |", "|---|---|---|---|---|"]
    lines += [
        f"| {one.part} | {one.against} | {one.baseline:.2f} {one.unit} | {one.ours:.2f} {one.unit} "
        f"| {one.baseline / one.ours:.1f}x |"
        for one in comparisons
    ]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Run, print and write; returns 1 if a benchmark failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("OUTPUT/benchmarks.md"))
    parser.add_argument("--only", choices=list(PARTS), nargs="*", default=list(PARTS))
    args = parser.parse_args(arguments)
    print(f"running {', '.join(args.only)}; the table goes to {args.output}\n", flush=True)
    outcomes = {}
    for name in args.only:
        outcomes[name] = run(PARTS[name])
        print(f"{outcomes[name].output}\n{name}: {outcomes[name].seconds:.0f} s\n", flush=True)
    comparisons = [one for outcome in outcomes.values() for one in outcome.comparisons]
    parts = [
        f"# Benchmarks at small size\n\n{machine()}, torchvision {torchvision.__version__}\n",
        table(comparisons) + "\n",
    ]
    parts += [f"## {name}\n\n```\n{outcome.output}\n```\n" for name, outcome in outcomes.items()]
    args.output.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(args.output, lambda file: file.write("\n".join(parts).encode()))
    seconds = sum(outcome.seconds for outcome in outcomes.values())
    print(f"{table(comparisons)}\n\n{seconds:.0f} s; written to {args.output}")
    failed = [name for name, outcome in outcomes.items() if outcome.status]
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
