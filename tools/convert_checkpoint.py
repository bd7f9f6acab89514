#!/usr/bin/env python
"""Strip a checkpoint to its weights: one safetensors file, without optimizer, safe to pass on.

Reads everything that training and evaluation read: checkpoints of this project and of the original
programs (also with averaged weights), ImageNet backbones, mmdetection's layout, Caffe2 pickles.

Example:
    python tools/convert_checkpoint.py OUTPUT/raccoon/model_final.pth MODEL/raccoon.safetensors --half
"""

import argparse
import sys
from pathlib import Path

import torch

from maskrcnn_benchmark.errors import DataError, UserError
from maskrcnn_benchmark.utils.checkpoint_files import read_checkpoint, write_safetensors
from maskrcnn_benchmark.utils.model_serialization import RECOMPUTED, find_weights


def main(arguments: list[str] | None = None) -> int:
    """Parse, convert, say what was written; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path, help="checkpoint to read")
    parser.add_argument("target", type=Path, help="file to write, ending in .safetensors")
    parser.add_argument("--use_ema", action="store_true", help="take the averaged weights")
    parser.add_argument("--half", action="store_true", help="store weights in 16 bits")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")
    parser.add_argument(
        "--trust-checkpoint",
        action="store_true",
        help="read a checkpoint that carries Python code (only from sources you know)",
    )
    args = parser.parse_args(arguments)
    if args.target.suffix != ".safetensors":
        parser.error(f"the file to write must end in .safetensors, not {args.target.name!r}")
    if args.target.exists() and not args.overwrite:
        parser.error(f"{args.target} exists; --overwrite replaces it")

    try:
        contents = read_checkpoint(args.source, trust=args.trust_checkpoint)
        weights = find_weights(contents, "model_ema" if args.use_ema else "model")
        kept = {name: value for name, value in weights.items() if not RECOMPUTED.search(name)}
        if args.half:
            kept = {name: _halved(value) for name, value in kept.items()}
        args.target.parent.mkdir(parents=True, exist_ok=True)
        write_safetensors(args.target, kept, _facts(contents))
    except (UserError, FileNotFoundError) as error:
        print(f"error: {args.source}: {error}", file=sys.stderr)
        return 1
    numbers = sum(value.numel() for value in kept.values())
    before, after = (path.stat().st_size / 2**20 for path in (args.source, args.target))
    print(f"{args.source} ({before:.1f} MiB): {len(kept)} weights, {numbers} numbers")
    print(f"wrote {args.target} ({after:.1f} MiB)")
    return 0


def _halved(value: torch.Tensor) -> torch.Tensor:
    if not value.is_floating_point():
        return value
    half = value.half()
    if not half.isfinite().all() and value.isfinite().all():
        raise DataError(f"a weight of size {value.abs().max():.3g} does not fit into 16 bits")
    return half


def _facts(contents: dict) -> dict[str, str]:
    """What is worth knowing about the weights, as safetensors keeps it: strings."""
    return {key: str(contents[key]) for key in ("iteration", "eval_result") if key in contents}


if __name__ == "__main__":
    sys.exit(main())
