"""Turn a set of pictures into another container, check it, or index it.

A set is named by a file: COCO or MDETR-style JSON (.json), TSV (.yaml), JSON lines (.jsonl),
WebDataset shards ("web/{00000..00331}.tar", "web/*.tar"), or a folder of pictures.

Examples:
    python tools/convert_dataset.py convert coco/annotations/instances_val2017.json \\
        --images coco/val2017 --to tsv --output DATASET/coco_tsv --name val
    python tools/convert_dataset.py convert "web/{000..009}.tar" --to coco --output DATASET/web
    python tools/convert_dataset.py check DATASET/coco_tsv/val.yaml --decode
    python tools/convert_dataset.py index "web/*.tar"
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from pathlib import Path

from maskrcnn_benchmark.config.file_search import find_files
from maskrcnn_benchmark.data.conversion import build_indices, check_set, convert_set, open_set
from maskrcnn_benchmark.data.conversion.convert import TARGETS
from maskrcnn_benchmark.data.writers.output_file import write_json
from maskrcnn_benchmark.engine.command_line import explain_errors
from maskrcnn_benchmark.utils.progress import ProgressLine


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    source = argparse.ArgumentParser(add_help=False)
    source.add_argument("set", help="the set, see above")
    source.add_argument(
        "--images",
        action="append",
        default=[],
        type=Path,
        help="folder of the pictures, for .json and .jsonl; may be given more than once",
    )
    source.add_argument(
        "--label-map", type=Path, help="numbers of the classes, for shards and JSON lines"
    )

    convert = commands.add_parser("convert", parents=[source], help="write it in another container")
    convert.add_argument("--to", required=True, choices=TARGETS)
    convert.add_argument("--output", required=True, type=Path, help="folder")
    convert.add_argument("--name", help="name of the new files; that of the set when absent")
    convert.add_argument("--shard-samples", type=int, default=10_000, help="samples of one shard")
    convert.add_argument(
        "--link-pictures",
        action="store_true",
        help="coco and json-lines: name the pictures where they are instead of copying them",
    )
    convert.add_argument("--strict", action="store_true", help="stop at the first broken sample")

    check = commands.add_parser("check", parents=[source], help="say what is wrong, and statistics")
    check.add_argument("--decode", action="store_true", help="decode every picture")
    check.add_argument(
        "--caption-format", default="v1", choices=("v1", "v2"), help="of records without 'version'"
    )
    check.add_argument("--report", type=Path, help="write the findings to this JSON file")

    index = commands.add_parser("index", help="build the indices of .tar, .tsv and .jsonl files")
    index.add_argument("files", help="a file, or files by braces or a glob")
    index.add_argument("--workers", type=int, default=4, help="processes")
    return parser.parse_args(arguments)


@explain_errors
def main(arguments: list[str] | None = None) -> int:
    args = parse_arguments(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    return {"convert": convert, "check": check, "index": index}[args.command](args)


def convert(args: argparse.Namespace) -> int:
    opened = open_set(args.set, args.images, args.label_map)
    name = args.name or Path(args.set).stem.split("{")[0].rstrip("-_*") or "data"
    total = len(opened.source)
    print(f"{args.set} ({opened.kind}, {total} samples) -> {args.to} in {args.output}")
    progress = ProgressLine("converting", total)
    result = convert_set(
        opened,
        args.to,
        args.output,
        name,
        shard_samples=args.shard_samples,
        copy_pictures=not args.link_pictures,
        strict=args.strict,
        on_sample=progress.update,
    )
    progress.close()
    print(f"{result.samples} samples written, {len(result.left_out)} left out")
    for path in result.written[:20]:
        print(f"  {path}")
    if len(result.written) > 20:
        print(f"  and {len(result.written) - 20} more")
    if not result.samples:
        print("error: not one sample could be used", file=sys.stderr)
        return 1
    return 0


def check(args: argparse.Namespace) -> int:
    opened = open_set(args.set, args.images, args.label_map)
    print(f"checking {args.set} ({opened.kind}, {len(opened.source)} samples)")
    progress = ProgressLine("checking", len(opened.source))
    report = check_set(
        opened, version=args.caption_format, decode=args.decode, on_sample=progress.update
    )
    progress.close()
    print("\n".join(report.lines()))
    if args.report:
        content = {
            "set": args.set,
            "samples": report.samples,
            "statistics": report.statistics,
            "problems": dict(report.problems),
            "examples": dict(report.examples),
        }
        print(f"written: {write_json(args.report, content, indent=1)}")
    return 1 if report.problems else 0


def index(args: argparse.Namespace) -> int:
    files = find_files(args.files)
    print(f"indexing {len(files)} file(s) with {args.workers} process(es)")
    start = time.perf_counter()
    progress = ProgressLine("indexing", len(files), "files")
    samples = 0
    for done, count in enumerate(build_indices(files, args.workers), start=1):
        samples += count
        progress.update(done)
    progress.close()
    print(f"{samples} samples in {time.perf_counter() - start:.0f} s; indices lie beside the files")
    return 0


if __name__ == "__main__":
    sys.exit(main())
