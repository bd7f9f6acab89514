"""Run every benchmark at small size and write their tables into one file.

python -m benchmarks.run_all --output OUTPUT/benchmarks.md
"""

from __future__ import annotations

import argparse
import platform
import subprocess
import sys
import time
from pathlib import Path

import torch
import torchvision

from maskrcnn_benchmark.utils.checkpoint_files import write_atomically

# Module of this folder, and the options that make it small.
SMALL = {
    "ops": ["--quick"],
    "scoring": ["--small"],
    "data": ["--records", "20000", "--rounds", "2"],
}


def run(name: str, options: list[str]) -> tuple[str, int, float]:
    """Output, exit status and seconds of one benchmark in a process of its own."""
    start = time.perf_counter()
    command = [sys.executable, "-m", f"benchmarks.{name}", *options]
    done = subprocess.run(command, text=True, capture_output=True)
    output = done.stdout if done.returncode == 0 else done.stdout + done.stderr
    return output.strip(), done.returncode, time.perf_counter() - start


def machine() -> str:
    """What the figures were measured on."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return (
        f"Python {platform.python_version()}, PyTorch {torch.__version__}, torchvision "
        f"{torchvision.__version__}, {torch.get_num_threads()} threads, {platform.machine()}, {gpu}"
    )


def main(arguments: list[str] | None = None) -> int:
    """Run, print and write; returns 1 if a benchmark failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("OUTPUT/benchmarks.md"))
    parser.add_argument("--only", choices=sorted(SMALL), nargs="*", default=sorted(SMALL))
    args = parser.parse_args(arguments)
    parts, failed = [f"# Benchmarks at small size\n\n{machine()}\n"], []
    for name in args.only:
        output, status, seconds = run(name, SMALL[name])
        print(f"{output}\n{name}: {seconds:.0f} s\n", flush=True)
        parts.append(f"## {name}\n\n```\n{output}\n```\n")
        if status:
            failed.append(name)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(args.output, lambda file: file.write("\n".join(parts).encode()))
    print(f"written to {args.output}")
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
