#!/usr/bin/env python
"""Find boxes for the noun phrases of image-text pairs with a trained model, as data to train on.

The pairs are a set as tools/convert_dataset.py names them: TSV (.yaml), WebDataset shards (.tar),
JSON lines with --images, or a folder of pictures with captions in .txt files. Boxes are kept by
DATASETS.CAPTION_CONF, CAPTION_NMS and CAPTION_MIN_BOX. An interrupted run goes on when given again;
processes started by torchrun, or by hand with --shard K/N, share the work.

Example:
    python tools/make_pseudo_labels.py --config-file configs/shapes/glip_C.yaml \\
        --weight MODEL/shapes/glip_shapes_C.safetensors --pairs "web/{000..009}.tar" \\
        --output OUTPUT/pseudo DATASETS.CAPTION_CONF 0.5 DATASETS.CAPTION_NMS -1.0
"""

import argparse
import hashlib
import sys
import time
from pathlib import Path

from maskrcnn_benchmark.config import CfgNode
from maskrcnn_benchmark.data.conversion import OpenedSet, open_set
from maskrcnn_benchmark.engine.class_sentences import refuse_class_sentences
from maskrcnn_benchmark.engine.command_line import make_parser, run_tool
from maskrcnn_benchmark.engine.evaluate_tasks import WeightChoice, choose_weights, load_model
from maskrcnn_benchmark.engine.pseudo_label_parts import LabelParts, join_parts, label_parts
from maskrcnn_benchmark.engine.pseudo_label_pictures import LabelPictures
from maskrcnn_benchmark.engine.pseudo_labels import Label, LabelRules, PseudoLabeller
from maskrcnn_benchmark.engine.stop_request import StopRequest
from maskrcnn_benchmark.errors import ConfigError, DataError
from maskrcnn_benchmark.evaluation import file_identity
from maskrcnn_benchmark.utils import comm
from maskrcnn_benchmark.utils.logger import setup_logger
from maskrcnn_benchmark.utils.progress import ProgressLine

TARGETS = ("tsv", "shards", "json-lines")
SAME = {"tsv": "tsv", "shards": "shards"}
REASONS_SHOWN = 5


def make_arguments() -> argparse.ArgumentParser:
    parser = make_parser(__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--pairs", required=True, help="the image-text pairs, see above")
    parser.add_argument(
        "--images", type=Path, help="folder of their pictures, for .jsonl and .json"
    )
    parser.add_argument("--output", required=True, type=Path, help="folder of everything written")
    parser.add_argument("--name", default="pseudo", help="name of the files of the set")
    parser.add_argument("--weight", metavar="FILE", help="the teacher's checkpoint")
    parser.add_argument("--use_ema", action="store_true", help="take the averaged weights")
    parser.add_argument(
        "--to",
        choices=TARGETS,
        action="append",
        help="container of the labels, may be given twice; default: that of the pairs",
    )
    parser.add_argument("--batch", type=int, default=4, help="pictures per batch")
    parser.add_argument("--part", type=int, default=500, help="samples kept at a time")
    parser.add_argument("--pictures", type=int, default=8, help="sample pictures to draw")
    parser.add_argument("--limit", type=int, help="label only the first so many pairs")
    parser.add_argument(
        "--shard", default="0/1", metavar="K/N", help="share of this process, without torchrun"
    )
    parser.add_argument(
        "--join", action="store_true", help="only join the parts of --shard runs to a set"
    )
    return parser


def main(arguments: list[str] | None = None) -> int:
    args = make_arguments().parse_args(arguments)

    return run_tool(args, lambda config: label(config, args))


def label(config: CfgNode, args: argparse.Namespace) -> int:
    """Label this process's share; the last step joins the parts."""
    setup_logger(args.output, comm.get_rank())
    refuse_class_sentences(config, "labelling pictures with captions")
    opened = open_set(args.pairs, [args.images] if args.images else [])
    number, shards = read_shard(args.shard)
    rules = LabelRules.from_config(config)
    weights = choose_weights(config, args.weight, args.opts)
    parts = open_parts(config, args, opened, rules, weights)
    shares = shards * comm.get_world_size()
    share = number * comm.get_world_size() + comm.get_rank()
    own = [part for part in parts.missing() if part % shares == share]
    if not args.join:
        if comm.is_main_process():
            print(
                f"{args.pairs} ({opened.kind}): {parts.total} pairs in {len(parts)} parts, "
                f"{len(parts.missing())} to do, by {shares} process(es); {rules}; "
                f"teacher {weights.path or 'as initialised'}"
            )
        if own and not run(config, args, opened, rules, weights, parts, own):
            print("stopped; the same command goes on", file=sys.stderr)
            return 1
        comm.synchronize()
        if shards > 1:
            print(f"share {args.shard} is done; when all are, the same command with --join")
            return 0
    return join(args, opened, parts) if comm.is_main_process() else 0


def open_parts(
    config: CfgNode,
    args: argparse.Namespace,
    opened: OpenedSet,
    rules: LabelRules,
    weights: WeightChoice,
) -> LabelParts:
    """The folder of parts, made by the first process."""
    settings = repr((config.MODEL, config.INPUT, config.TEST.PRECISION)).encode()
    run = {
        "pairs": args.pairs,
        "weights": None if weights.path is None else str(file_identity(weights.path)),
        "settings": hashlib.sha256(settings).hexdigest(),
        **rules.facts(),
    }
    total = len(opened.source) if args.limit is None else min(args.limit, len(opened.source))
    if comm.is_main_process():
        LabelParts(args.output / "parts", total, args.part, run)
    comm.synchronize()
    return LabelParts(args.output / "parts", total, args.part, run)


def run(
    config: CfgNode,
    args: argparse.Namespace,
    opened: OpenedSet,
    rules: LabelRules,
    weights: WeightChoice,
    parts: LabelParts,
    own: list[int],
) -> bool:
    """Label parts; returns whether all are done."""
    model = load_model(
        config, weights, use_ema=args.use_ema, partial=False, trust=args.trust_checkpoint
    )
    labeller = PseudoLabeller(config, model, opened.source, rules, args.batch)
    most = args.pictures if comm.is_main_process() else 0
    pictures = LabelPictures(opened.source, args.output / "pictures", most)
    progress = ProgressLine("labelling", sum(len(parts.indices(part)) for part in own), "pairs")
    reasons: dict[str, int] = {}
    done, start = 0, time.perf_counter()

    def note(label: Label) -> None:
        nonlocal done
        done += 1
        pictures.offer(label)
        if label.message:
            reasons[label.outcome] = reasons.get(label.outcome, 0) + 1
            if reasons[label.outcome] <= REASONS_SHOWN:
                print(f"left out, {label.outcome}: {label.message}", file=sys.stderr)
        if comm.is_main_process():
            progress.update(done)

    with StopRequest() as stop:
        finished = label_parts(labeller, parts, own, on_label=note, should_stop=lambda: bool(stop))
    progress.close()
    print(f"{done} pairs, {done / (time.perf_counter() - start):.2f} per second")
    for path in pictures.written:
        print(f"  {path}")
    return finished


def join(args: argparse.Namespace, opened: OpenedSet, parts: LabelParts) -> int:
    """Write the set and the counts."""
    missing = parts.missing()
    if missing:
        raise DataError(f"{len(missing)} of {len(parts)} parts are missing (first: {missing[0]})")
    counts = parts.counts()
    for what, count in sorted(counts.items()):
        print(f"{what}: {count}")
    if not counts["labelled"]:
        raise DataError("not one pair has enough boxes: lower DATASETS.CAPTION_CONF")
    for target in args.to or [SAME.get(opened.kind, "json-lines")]:
        joined = join_parts(
            opened, parts, target, args.output, args.name, image_folder(args, opened)
        )
        print(f"{target}: {', '.join(map(str, joined.written[:4]))}")
        settings = ", ".join(f"{key}: {value}" for key, value in joined.entry.items())
        print(f"  DATASETS.REGISTER: {args.name}: {{{settings}}}")
    return 0


def image_folder(args: argparse.Namespace, opened: OpenedSet) -> Path:
    """Folder that the names of pictures are relative to."""
    if opened.kind == "folder":
        return Path(args.pairs)
    return args.images or Path(args.pairs).parent


def read_shard(text: str) -> tuple[int, int]:
    """ "K/N" as numbers.

    Raises:
        ConfigError: it is none, or K lies outside 0 to N - 1.
    """
    number, _, shards = text.partition("/")
    if not (number.isdigit() and shards.isdigit() and int(number) < int(shards)):
        raise ConfigError(f"--shard must be K/N with K from 0 to N - 1, not {text!r}")
    return int(number), int(shards)


if __name__ == "__main__":
    sys.exit(main())
