"""The image demo under the command line of mmdetection, on the models of this project.

    python demo/image_demo.py picture.jpg configs/glip/glip_atss_swin-t_a_fpn_dyhead_pretrain_obj365.py \
        --weights glip_tiny_a_mmdet-b3654169.pth --texts 'bench. car'

Configuration names of mmdetection stand for ours (nothing of theirs is executed); their weights are
converted on loading. tools/demo.py is the shorter command.
"""

from __future__ import annotations

import argparse
import ast
import sys
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from maskrcnn_benchmark.config import cfg
from maskrcnn_benchmark.engine.picture_demo import annotate_pictures, list_pictures
from maskrcnn_benchmark.engine.predictor_glip import Caption, GLIPDemo
from maskrcnn_benchmark.grounding import split_names
from maskrcnn_benchmark.utils.checkpoint_files import CheckpointError

REPOSITORY = Path(__file__).resolve().parent.parent
_PRETRAIN = REPOSITORY / "configs/pretrain"
_VARIANTS = {
    "t_a": "glip_A_Swin_T_O365.yaml",
    "t_b": "glip_Swin_T_O365.yaml",
    "t_c": "glip_Swin_T_O365_GoldG.yaml",
    "t": "glip_Swin_T_O365_GoldG.yaml",
    "l": "glip_Swin_L.yaml",
}


def find_config(name: str) -> Path:
    """Our configuration for a YAML file of ours or the name of one of mmdetection's GLIP files.

    Raises:
        ValueError: neither.
    """
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        return path
    head, separator, rest = path.stem.partition("glip_atss_swin-")
    variant, has_body, _ = rest.partition("_fpn_dyhead_")
    if head or not separator or not has_body or variant not in _VARIANTS:
        raise ValueError(
            f"model {name!r} is neither a YAML file nor glip_atss_swin-{{{','.join(_VARIANTS)}}}_fpn_dyhead_*"
        )
    return _PRETRAIN / _VARIANTS[variant]


def read_texts(args: argparse.Namespace) -> tuple[Caption, list[dict[str, Any]] | None]:
    """What to look for, and the parts of a sentence that are meant if that was said."""
    text = args.texts.strip()
    if text.startswith("$:"):
        return names_of_dataset(text[2:].strip()), None
    if args.tokens_positive is not None:
        spans = ast.literal_eval(args.tokens_positive)
        return text, [{"char_bounds": span[0]} for span in spans]
    if args.custom_entities:
        return split_names(text), None
    return text.removesuffix(".").rstrip(), None


def names_of_dataset(name: str) -> list[str]:
    """Class names of a well-known dataset.

    Raises:
        ValueError: of one that is not known here.
    """
    if name != "coco":
        raise ValueError(f"--texts '$: {name}': only the class names of coco are known")
    from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

    names = FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
    return [n for n in names if n not in ("__background__", "N/A")]


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("inputs", type=Path, help="a picture or a folder")
    parser.add_argument("model", help="configuration")
    parser.add_argument("--weights", required=True, help="checkpoint")
    parser.add_argument("--out-dir", type=Path, default=Path("outputs"))
    parser.add_argument("--texts", required=True, help="'bench. car', a sentence, or '$: coco'")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--pred-score-thr", type=float, default=0.3, help="draw higher scores only")
    parser.add_argument("--no-save-vis", action="store_true", help="write no pictures")
    parser.add_argument("--no-save-pred", action="store_true", help="write no JSON")
    parser.add_argument("--print-result", action="store_true")
    parser.add_argument("--show", action="store_true", help="open every drawn picture in a window")
    parser.add_argument(
        "--batch-size", type=int, default=1, help="accepted: pictures go one by one"
    )
    parser.add_argument(
        "-s",
        "--chunked-size",
        type=int,
        default=-1,
        help="accepted: long lists are split as needed",
    )
    parser.add_argument(
        "--palette", default="none", help="accepted: every label has its own colour"
    )
    parser.add_argument(
        "-c", "--custom-entities", action="store_true", help="the text is a list of names"
    )
    parser.add_argument(
        "-p", "--tokens-positive", help="spans of a sentence: '[[[0, 5]], [[8, 11]]]'"
    )
    return parser.parse_args(arguments)


def run(args: argparse.Namespace) -> int:
    pictures = list_pictures(args.inputs)
    caption, entities = read_texts(args)
    if args.show and args.no_save_vis:
        raise ValueError("--show needs the pictures that --no-save-vis leaves out")
    config = cfg.clone()
    config.merge_from_file(find_config(args.model))
    config.MODEL.WEIGHT = args.weights
    config.MODEL.DEVICE = args.device
    if args.device.startswith("cuda") and not torch.cuda.is_available():
        print("no GPU is available: running on the CPU")
        config.MODEL.DEVICE = "cpu"
    predictor = GLIPDemo(config)
    found = annotate_pictures(
        predictor,
        pictures,
        caption,
        args.pred_score_thr,
        picture_folder=None if args.no_save_vis else args.out_dir / "vis",
        record_folder=None if args.no_save_pred else args.out_dir / "preds",
        custom_entity=entities,
    )
    for number, item in enumerate(found, start=1):
        print(f"[{number}/{len(pictures)}] {item.source}: {item.num_shown} boxes")
        if args.print_result:
            print(item.content)
        if args.show and item.picture is not None:
            Image.open(item.picture).show(title=str(item.source))
    if not (args.no_save_vis and args.no_save_pred):
        print(f"results have been saved in {args.out_dir}")
    return 0


def main(arguments: list[str] | None = None) -> int:
    args = parse_arguments(arguments)
    try:
        return run(args)
    except (OSError, ValueError, CheckpointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
