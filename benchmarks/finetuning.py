"""One epoch of fine-tuning: everything, prompts, prompts and probes on kept features.

    python -m benchmarks.finetuning                           # the small model, minutes
    python -m benchmarks.finetuning --sizes 224 --rounds 1    # seconds
    python -m benchmarks.finetuning --config-file configs/pretrain/glip_Swin_T_O365_GoldG.yaml \
        --bert FOLDER --sizes 448

The model has random weights; pictures are noise, each with the caption and the boxes of one task.
An epoch is one pass over the same pictures in the same batches; decoding and augmentation are not
counted. Ways run in turn, and the first epoch, which fills the memory of kept features, does not
count. With and without kept features the losses must be the same.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from benchmarks.measuring import (
    Comparison,
    machine,
    measure_in_turn,
    print_table,
    write_comparisons,
)
from benchmarks.training import without_randomness
from maskrcnn_benchmark.config import CfgNode
from maskrcnn_benchmark.config import cfg as default_config
from maskrcnn_benchmark.data.collate import Batch
from maskrcnn_benchmark.engine.finetuning import with_tuning_mode
from maskrcnn_benchmark.engine.finetuning_cache import FrozenFeatures
from maskrcnn_benchmark.engine.step import StepOptions, TrainingStep
from maskrcnn_benchmark.modeling.detector import build_detection_model
from maskrcnn_benchmark.solver import build_optimizer
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.image_list import to_image_list
from maskrcnn_benchmark.utils.memory import keep_freed_memory
from maskrcnn_benchmark.utils.random_state import seed_all

REPOSITORY = Path(__file__).resolve().parent.parent
SMALL = REPOSITORY / "configs/raccoon/small.yaml"
CAPTION, SPAN = "raccoon", slice(1, 3)  # the tokens between [CLS] and [SEP], at most
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Way:
    """What trains, and whether features of frozen encoders are kept."""

    name: str
    mode: str
    keeps: bool = False


FULL = Way("full", "full")
WAYS = (
    FULL,
    Way("language_prompt_v2", "language_prompt_v2"),
    Way("language_prompt_v2, features kept", "language_prompt_v2", keeps=True),
    Way("linear_prob", "linear_prob"),
    Way("linear_prob, features kept", "linear_prob", keeps=True),
)


@dataclass
class Losses:
    """Sum of the losses of every step so far."""

    values: list[float] = field(default_factory=list)


def configure(args: argparse.Namespace, mode: str) -> CfgNode:
    """The configuration under a tuning mode, with small steps."""
    config = default_config.clone()
    config.merge_from_file(str(args.config_file))
    bert = str(args.bert)
    keys = ("MODEL_TYPE", "TOKENIZER_TYPE")
    settings = {f"MODEL.LANGUAGE_BACKBONE.{key}": bert for key in keys}
    settings |= {"MODEL.DEVICE": "cpu", "SOLVER.TUNING_HIGHLEVEL_OVERRIDE": mode}
    settings |= {"SOLVER.BASE_LR": 1e-5, "SOLVER.LANG_LR": 1e-5}
    for key, value in settings.items():
        config.merge_from_list([key, value])
    config.merge_from_list(args.opts)
    return with_tuning_mode(config)


def make_batches(images: int, batch: int, size: int) -> list[Batch]:
    """Pictures of 3 by 4, the longer side ``size``, with two boxes each."""
    generator = torch.Generator().manual_seed(0)
    height, width = size * 3 // 4 // 32 * 32, size
    positive_map = torch.zeros(2, 256)
    positive_map[:, SPAN] = 1.0
    batches = []
    for begin in range(0, images, batch):
        ids = tuple(range(begin, min(begin + batch, images)))
        pictures = [torch.randn(3, height, width, generator=generator) for _ in ids]
        targets = []
        for _ in ids:
            corner = torch.rand(2, 2, generator=generator) * torch.tensor([width, height]) / 2
            side = (0.2 + 0.25 * torch.rand(2, 2, generator=generator)) * height
            target = BoxList(torch.cat((corner, corner + side), 1), (width, height), mode="xyxy")
            target.add_field("labels", torch.ones(2, dtype=torch.int64))
            target.add_field("caption", CAPTION)
            targets.append(target)
        maps = positive_map.repeat(len(ids), 1)
        batches.append(Batch(to_image_list(pictures, 32), tuple(targets), ids, maps))
    return batches


def make_epoch(
    args: argparse.Namespace, way: Way, batches: list[Batch], losses: Losses
) -> Callable[[], None]:
    """One epoch of a way, as a function to be called again and again."""
    config = configure(args, way.mode)
    seed_all(0)
    model = without_randomness(build_detection_model(config)).train()
    if way.keeps:
        FrozenFeatures(model, config.SOLVER.FROZEN_CACHE_MIB * 2**20)
    step = TrainingStep(model, build_optimizer(config, model), torch.device("cpu"), StepOptions())

    def epoch() -> None:
        for batch in batches:
            losses.values.append(sum(map(float, step([batch], [1.0]).losses.values())))

    return epoch


def measure(args: argparse.Namespace, size: int) -> tuple[list[Comparison], bool]:
    """Measure and print one size; lines of the common table, and whether losses agree."""
    batches = make_batches(args.images, args.batch, size)
    ways = chosen(args)
    losses = {way.name: Losses() for way in ways}
    epochs = {way.name: make_epoch(args, way, batches, losses[way.name]) for way in ways}
    costs = measure_in_turn(epochs, args.rounds, watch_memory=False)
    full = costs[FULL.name].cpu
    rows, comparisons, same = [], [], True
    for way in ways:
        cpu = costs[way.name].cpu
        difference = ""
        if way.keeps:
            pairs = zip(losses[way.mode].values, losses[way.name].values, strict=True)
            largest = max(abs(a - b) / max(abs(a), 1e-6) for a, b in pairs)
            same &= largest < TOLERANCE
            difference = f"{largest:.0e}"
            comparisons.append(
                Comparison(f"epoch of {way.name}, {size} pixels", "full tuning", full, cpu, "s")
            )
        rows.append([way.name, f"{cpu:.2f}", f"{full / cpu:.1f}x", difference])
    print(f"{args.images} pictures, longer side {size}, batches of {args.batch}\n")
    print_table(("what", "CPU s per epoch", "full is", "losses differ by"), rows)
    return comparisons, same


def chosen(args: argparse.Namespace) -> list[Way]:
    """Full tuning, which the others are compared with, and the modes asked for."""
    return [way for way in WAYS if way == FULL or way.mode in args.modes]


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, write; returns 1 if kept features change losses."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", type=Path, default=SMALL)
    parser.add_argument(
        "--bert", type=Path, default=SMALL.parent / "bert_small", help="encoder and vocabulary"
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[224, 448], help="longer side")
    parser.add_argument(
        "--modes", nargs="+", default=["language_prompt_v2", "linear_prob"], help="beside full"
    )
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3, help="epochs that count, after the first")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE")
    args = parser.parse_args(arguments)
    torch.set_num_threads(args.threads)
    keep_freed_memory()  # as the tools do
    print(f"{machine()}\n")
    measured = [measure(args, size) for size in args.sizes]
    write_comparisons(args.json, [line for comparisons, _ in measured for line in comparisons])
    if not all(same for _, same in measured):
        print("error: kept features change the losses", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
