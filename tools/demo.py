"""Find in pictures what a sentence names: annotated pictures and a JSON of boxes.

Examples:
    python tools/demo.py picture.jpg --text "a red star left of a blue ring"
    python tools/demo.py folder --texts "bench. car. traffic light"
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from maskrcnn_benchmark.config import cfg
from maskrcnn_benchmark.engine.command_line import explain_errors
from maskrcnn_benchmark.engine.picture_demo import (
    annotate_pictures,
    list_pictures,
    report_unreadable,
)
from maskrcnn_benchmark.engine.predictor_glip import GLIPDemo
from maskrcnn_benchmark.errors import ConfigError
from maskrcnn_benchmark.grounding import split_names

REPOSITORY = Path(__file__).resolve().parent.parent
BUNDLED_CONFIG = REPOSITORY / "configs/shapes/glip_C.yaml"
BUNDLED_WEIGHT = REPOSITORY / "MODEL/shapes/glip_shapes_C.safetensors"


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("input", type=Path, help="a picture, or a folder of pictures")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--text", help="a sentence; its noun phrases are looked for")
    what.add_argument("--texts", help="names separated by '. ', as in 'bench. car'")
    parser.add_argument("--config-file", type=Path, default=BUNDLED_CONFIG)
    parser.add_argument(
        "--weight", help="checkpoint; the bundled one belongs to the bundled config file"
    )
    parser.add_argument(
        "--threshold", type=float, default=0.5, help="show boxes with a higher score"
    )
    parser.add_argument("--output", type=Path, default=Path("OUTPUT/demo"))
    parser.add_argument("--device", help="cpu or cuda; the config's, or cpu without a GPU")
    parser.add_argument("--min-image-size", type=int, help="shorter side in pixels")
    parser.usage = parser.format_usage().removeprefix("usage: ").rstrip() + " [KEY value ...]"
    args, opts = _split_overrides(parser, arguments)
    args.opts = opts
    return args


def _split_overrides(
    parser: argparse.ArgumentParser, arguments: list[str] | None
) -> tuple[argparse.Namespace, list[str]]:
    """Options, and the KEY value pairs over the config file that stand among or behind them."""
    args, opts = parser.parse_known_args(arguments)
    if len(opts) % 2 or any(key.startswith("-") for key in opts[::2]):
        parser.error(f"neither options nor KEY value pairs: {' '.join(opts)}")
    return args, opts


@explain_errors
def main(arguments: list[str] | None = None) -> int:
    args = parse_arguments(arguments)
    pictures = list_pictures(args.input)
    caption = args.text if args.text is not None else split_names(args.texts)
    predictor = GLIPDemo(build_config(args), min_image_size=args.min_image_size)
    print(f"looking for {caption!r} in {len(pictures)} picture(s)")
    unreadable: list[Path] = []
    found = annotate_pictures(
        predictor,
        pictures,
        caption,
        args.threshold,
        picture_folder=args.output,
        record_folder=args.output,
        unreadable=unreadable if args.input.is_dir() else None,
    )
    for number, item in enumerate(found, start=1):
        print(
            f"[{number}/{len(pictures)}] {item.source}: {item.num_shown} boxes above "
            f"{args.threshold:g}, picture {item.picture}, boxes {item.record}"
        )
    return report_unreadable(unreadable)


def build_config(args: argparse.Namespace):
    """Defaults, config file, command line."""
    config = cfg.clone()
    config.merge_from_file(args.config_file)
    config.merge_from_list(args.opts)
    if args.weight:
        config.MODEL.WEIGHT = args.weight
    elif "MODEL.WEIGHT" not in args.opts[::2] and args.config_file.resolve() == BUNDLED_CONFIG:
        config.MODEL.WEIGHT = str(BUNDLED_WEIGHT)
    if args.device:
        config.MODEL.DEVICE = args.device
    if not config.MODEL.WEIGHT:
        raise ConfigError("no weights: name a checkpoint with --weight")
    return config


if __name__ == "__main__":
    sys.exit(main())
