"""The image demo under the command line of mmdetection, on the models of this project.

    python demo/image_demo.py picture.jpg configs/glip/glip_atss_swin-t_a_fpn_dyhead_pretrain_obj365.py \
        --weights glip_tiny_a_mmdet-b3654169.pth --texts 'bench. car'

Configuration names of mmdetection stand for ours (nothing of theirs is executed); their weights are
converted on loading. A checkpoint in the place of the configuration is enough, if it has a name
under which it was published or lies beside the config.yml of its training. tools/demo.py is the
shorter command.
"""

from __future__ import annotations

import argparse
import ast
import sys
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from maskrcnn_benchmark.config import CfgNode, cfg
from maskrcnn_benchmark.engine.command_line import explain_errors
from maskrcnn_benchmark.engine.picture_demo import (
    annotate_pictures,
    list_pictures,
    report_unreadable,
)
from maskrcnn_benchmark.engine.predictor_glip import Caption, GLIPDemo
from maskrcnn_benchmark.errors import ConfigError
from maskrcnn_benchmark.grounding import split_names, token_count
from maskrcnn_benchmark.grounding.caption_forms import NAME_SEPARATOR

REPOSITORY = Path(__file__).resolve().parent.parent
_PRETRAIN = REPOSITORY / "configs/pretrain"
_VARIANTS = {
    "t_a": "glip_A_Swin_T_O365.yaml",
    "t_b": "glip_Swin_T_O365.yaml",
    "t_c": "glip_Swin_T_O365_GoldG.yaml",
    "t": "glip_Swin_T_O365_GoldG.yaml",
    "l": "glip_Swin_L.yaml",
}


# Beginnings of the names under which weights are published; the longer ones first.
_PUBLISHED = {
    "glip_tiny_a_mmdet": "glip_A_Swin_T_O365.yaml",
    "glip_tiny_b_mmdet": "glip_Swin_T_O365.yaml",
    "glip_tiny_model_o365_goldg": "glip_Swin_T_O365_GoldG.yaml",
    "glip_tiny_model_o365": "glip_Swin_T_O365.yaml",
    "glip_tiny_": "glip_Swin_T_O365_GoldG.yaml",
    "glip_a_tiny_o365": "glip_A_Swin_T_O365.yaml",
    "glip_large_model": "glip_Swin_L.yaml",
    "glip_l_mmdet": "glip_Swin_L.yaml",
    "glip_shapes_C": "../shapes/glip_C.yaml",
}
_WEIGHT_SUFFIXES = (".pth", ".safetensors")
_PALETTES = ("coco", "voc", "citys", "random", "none")

Entities = list[dict[str, Any]]


def find_config(name: str) -> Path:
    """Our configuration for a YAML file of ours or the name of one of mmdetection's GLIP files.

    Raises:
        ConfigError: neither.
    """
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        return path
    head, separator, rest = path.stem.partition("glip_atss_swin-")
    variant, has_body, _ = rest.partition("_fpn_dyhead_")
    if head or not separator or not has_body or variant not in _VARIANTS:
        raise ConfigError(
            f"model {name!r} is neither a YAML file nor glip_atss_swin-{{{','.join(_VARIANTS)}}}_fpn_dyhead_*"
        )
    return _PRETRAIN / _VARIANTS[variant]


def config_of_weights(weights: str) -> Path:
    """The configuration of a checkpoint that was given alone.

    Raises:
        ConfigError: nothing tells which model it belongs to.
    """
    path = Path(weights)
    saved = path.with_name("config.yml")
    if saved.is_file():
        return saved
    for beginning, file in _PUBLISHED.items():
        if path.name.startswith(beginning):
            return (_PRETRAIN / file).resolve()
    try:
        return find_config(path.stem)
    except ConfigError:
        raise ConfigError(
            f"which model {weights} belongs to is not known: give its configuration as model and "
            "the checkpoint with --weights"
        ) from None


def read_config(args: argparse.Namespace) -> CfgNode:
    """Configuration with the weights, of which one may be said by the other.

    Raises:
        ConfigError: there are no weights, or what they belong to is not known.
    """
    config = cfg.clone()
    if args.model.endswith(_WEIGHT_SUFFIXES):
        config.merge_from_file(config_of_weights(args.model))
        config.MODEL.WEIGHT = args.weights or args.model
    else:
        config.merge_from_file(find_config(args.model))
        if not args.weights:
            raise ConfigError("no weights: name a checkpoint with --weights")
        config.MODEL.WEIGHT = args.weights
    config.MODEL.DEVICE = args.device
    if args.device.startswith("cuda") and not torch.cuda.is_available():
        print("no GPU is available: running on the CPU")
        config.MODEL.DEVICE = "cpu"
    return config


def read_texts(args: argparse.Namespace) -> tuple[Caption, Entities | None]:
    """What to look for, and the parts of a sentence that are meant if that was said.

    Raises:
        ConfigError: --tokens-positive is no list of spans for each entity.
    """
    text = args.texts.strip()
    if text.startswith("$:"):
        return names_of_dataset(text[2:].strip()), None
    if args.tokens_positive is not None:
        # The text as it was given: spans count its characters.
        return args.texts, [{"char_bounds": spans} for spans in read_spans(args.tokens_positive)]
    if args.custom_entities:
        return split_names(text), None
    return text.removesuffix(".").rstrip(), None


def read_spans(text: str) -> list[list[list[int]]]:
    """Spans (begin, end) of each entity, as --tokens-positive has them.

    Raises:
        ConfigError: the text has another form.
    """
    try:
        entities = ast.literal_eval(text)
        pairs = [pair for spans in entities for pair in spans]
        well_formed = all(spans for spans in entities) and all(
            len(pair) == 2 and all(type(place) is int for place in pair) for pair in pairs
        )
    except (SyntaxError, TypeError, ValueError):
        well_formed = False
    if not well_formed:
        raise ConfigError(
            f"--tokens-positive {text!r}: give a list of spans for each entity, as in "
            "'[[[0, 5]], [[8, 11], [14, 17]]]'"
        )
    return entities


def write_names(names: list[str]) -> tuple[str, Entities]:
    """The caption of a list of names, and where each of them stands in it."""
    entities, begin = [], 0
    for name in names:
        entities.append({"char_bounds": [begin, begin + len(name)]})
        begin += len(name) + len(NAME_SEPARATOR)
    return NAME_SEPARATOR.join(names), entities


def names_of_dataset(name: str) -> list[str]:
    """Class names of a well-known dataset.

    Raises:
        ConfigError: of one that is not known here.
    """
    if name != "coco":
        raise ConfigError(f"--texts '$: {name}': only the class names of coco are known")
    from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

    names = FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
    return [n for n in names if n not in ("__background__", "N/A")]


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("inputs", type=Path, help="a picture or a folder")
    parser.add_argument("model", help="configuration, or a checkpoint")
    parser.add_argument("--weights", help="checkpoint")
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
        "--palette",
        choices=_PALETTES,
        default="none",
        help="accepted: every label has its own colour",
    )
    parser.add_argument(
        "-c", "--custom-entities", action="store_true", help="the text is a list of names"
    )
    parser.add_argument(
        "-p",
        "--tokens-positive",
        help="spans of a sentence by entity: '[[[0, 5]], [[8, 11], [14, 17]]]'",
    )
    return parser.parse_args(arguments)


@explain_errors
def main(arguments: list[str] | None = None) -> int:
    args = parse_arguments(arguments)
    pictures = list_pictures(args.inputs)
    caption, entities = read_texts(args)
    if args.show and args.no_save_vis:
        raise ConfigError("--show needs the pictures that --no-save-vis leaves out")
    predictor = GLIPDemo(read_config(args))
    if not isinstance(caption, str):
        joined, spans = write_names(caption)
        limit = predictor.cfg.MODEL.LANGUAGE_BACKBONE.MAX_QUERY_LEN
        # A longer list stays a list, which the predictor splits.
        if token_count(joined, predictor.tokenizer) <= limit:
            caption, entities = joined, spans
    unreadable: list[Path] = []
    found = annotate_pictures(
        predictor,
        pictures,
        caption,
        args.pred_score_thr,
        picture_folder=None if args.no_save_vis else args.out_dir / "vis",
        record_folder=None if args.no_save_pred else args.out_dir / "preds",
        custom_entity=entities,
        unreadable=unreadable if args.inputs.is_dir() else None,
        keep_names=True,
    )
    for number, item in enumerate(found, start=1):
        print(f"[{number}/{len(pictures)}] {item.source}: {item.num_shown} boxes")
        if args.print_result:
            print(item.content)
        if args.show and item.picture is not None:
            Image.open(item.picture).show(title=str(item.source))
    if not (args.no_save_vis and args.no_save_pred):
        print(f"results have been saved in {args.out_dir}")
    return report_unreadable(unreadable)


if __name__ == "__main__":
    sys.exit(main())
