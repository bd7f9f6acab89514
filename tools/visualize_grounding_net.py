#!/usr/bin/env python
"""Draw what a model finds in the pictures of a test set.

Example:
    python tools/visualize_grounding_net.py --config-file configs/raccoon/small.yaml \
        --weight OUTPUT/raccoon/model_final.pth --image_index -1 --threshold 0.4
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from PIL import Image

from maskrcnn_benchmark.config import CfgNode
from maskrcnn_benchmark.data import make_data_loader
from maskrcnn_benchmark.data.collate import Batch, BatchCollator
from maskrcnn_benchmark.data.transforms.build import build_normalize
from maskrcnn_benchmark.engine.command_line import make_parser, prepare_output, run_tool
from maskrcnn_benchmark.engine.evaluate_tasks import Task, choose_weights, list_tasks, load_model
from maskrcnn_benchmark.engine.finetuning_check import pixels_to_picture
from maskrcnn_benchmark.engine.inference import build_detector
from maskrcnn_benchmark.errors import ConfigError
from maskrcnn_benchmark.grounding import label_to_tokens_from_positive_map
from maskrcnn_benchmark.modeling.detector import GeneralizedVLRCNN
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.utils import comm
from maskrcnn_benchmark.utils.visualisation import draw_detections, enlarge_small, label_colour


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = make_parser(__doc__.splitlines()[0])
    parser.add_argument("--weight", metavar="FILE", help="checkpoint to look at")
    parser.add_argument(
        "--task_config", metavar="FILES", help="comma-separated YAML files of test sets"
    )
    parser.add_argument("--output", default="./visualize", metavar="FOLDER")
    parser.add_argument(
        "--image_index", type=int, default=0, help="which picture of the set; -1: all"
    )
    parser.add_argument("--threshold", type=float, default=0.6, help="draw boxes that score more")
    parser.add_argument("--alpha", type=float, default=0.5, help="1 draws opaque, 0 nothing")
    parser.add_argument("--box_pixel", type=int, default=3, help="width of the lines")
    parser.add_argument("--text_size", type=float, default=1.0, help="factor on the letters")
    for flag, default in (
        ("--text_pixel", 1),
        ("--text_offset", 10),
        ("--text_offset_original", 4),
        ("--color", 255),
        ("--world-size", 1),
    ):
        parser.add_argument(flag, type=int, default=default, help="accepted for old commands")
    parser.add_argument("--dist-url", default="env://", help="accepted for old commands")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Parse, detect, draw, name the files; returns the exit status."""
    args = parse(arguments)

    def work(config: CfgNode) -> int:
        if comm.is_distributed():
            raise ConfigError("pictures are drawn by one process: start it without a launcher")
        prepare_output(config, args.output, args)
        tasks = list_tasks(config, [p for p in (args.task_config or "").split(",") if p], args.opts)
        weights = choose_weights(config, args.weight, args.opts)
        model = load_model(
            config, weights, use_ema=False, partial=False, trust=args.trust_checkpoint
        )
        for task in tasks:
            folder = Path(args.output)
            if len(tasks) > 1:
                folder = folder.joinpath(*task.folder.parts[1:])
            for path, count in draw_task(model, task, folder, args):
                print(f"{path}: {count} box(es) above {args.threshold:g}")
        return 0

    return run_tool(args, work)


@torch.no_grad()
def draw_task(
    model: GeneralizedVLRCNN, task: Task, folder: Path, args: argparse.Namespace
) -> Iterator[tuple[Path, int]]:
    """Draw the pictures of one set; yields each file and how many boxes it shows."""
    loader = make_data_loader(task.config, is_train=False, tokenizer=model.tokenizer)[0]
    dataset = loader.dataset
    if args.image_index >= len(dataset):
        raise ConfigError(
            f"--image_index is {args.image_index}, but {task.name} has {len(dataset)} pictures"
        )
    chosen = range(len(dataset)) if args.image_index < 0 else [args.image_index]
    detector = build_detector(task.config, model, dataset)
    collate = BatchCollator(task.config.DATALOADER.SIZE_DIVISIBILITY)
    normalize = build_normalize(task.config)
    folder.mkdir(parents=True, exist_ok=True)
    for index in chosen:
        sample = dataset[index]
        batch = collate([sample])
        (found,) = detector(batch)
        shown = found[found.get_field("scores") > args.threshold]
        names = names_of_labels(task.config, model, dataset, batch)
        picture = draw(pixels_to_picture(sample[0], normalize), shown, names, args)
        path = folder / f"img_{index}.jpg"
        picture.save(path, quality=92)
        yield path, len(shown)


def names_of_labels(
    config: CfgNode, model: GeneralizedVLRCNN, dataset, batch: Batch
) -> dict[int, str]:
    """What each label stands for: a class of the set, or a phrase of this picture's caption."""
    if config.TEST.EVAL_TASK != "grounding":
        return dataset.categories()
    (target,) = batch.targets
    field = "positive_map_eval" if target.has_field("positive_map_eval") else "positive_map"
    ids = model.tokenizer(target.get_field("caption"))["input_ids"]
    tokens = label_to_tokens_from_positive_map(target.get_field(field))
    return {
        label: model.tokenizer.decode([ids[position] for position in positions])
        for label, positions in tokens.items()
    }


def draw(
    picture: Image.Image, shown: BoxList, names: dict[int, str], args: argparse.Namespace
) -> Image.Image:
    """The picture with boxes, names and scores."""
    labels = shown.get_field("labels").tolist()
    scores = shown.get_field("scores").tolist()
    picture, boxes = enlarge_small(picture, shown.convert("xyxy").bbox.tolist())
    return draw_detections(
        picture,
        boxes,
        [f"{names.get(label, label)} {score:.2f}" for label, score in zip(labels, scores)],
        [label_colour(label) for label in labels],
        line_width=args.box_pixel,
        text_scale=args.text_size,
        alpha=args.alpha,
    )


if __name__ == "__main__":
    sys.exit(main())
