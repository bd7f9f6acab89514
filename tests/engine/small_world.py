"""A detection set of coloured squares on disk, and a real but small model to learn it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from maskrcnn_benchmark.config import CfgNode, cfg

REPOSITORY = Path(__file__).resolve().parent.parent.parent
COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (40, 60, 220)}
# Of mixed shape, so that a batch pads some images.
SIZES = [(96, 64), (64, 96), (64, 64), (80, 48), (96, 64)]


def write_images(folder: Path, count: int) -> list[dict[str, Any]]:
    """Pictures with one square each; returns their COCO image entries with the square."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    entries = []
    for number in range(count):
        width, height = SIZES[number % len(SIZES)]
        pixels = generator.integers(90, 140, (height, width, 3), dtype=np.uint8)
        side = int(generator.integers(20, 36))
        x, y = int(generator.integers(0, width - side)), int(generator.integers(0, height - side))
        colour = number % len(COLOURS)
        pixels[y : y + side, x : x + side] = list(COLOURS.values())[colour]
        name = f"{number:03d}.png"
        Image.fromarray(pixels).save(folder / name)
        entries.append(
            {
                "id": 100 + number,
                "file_name": name,
                "width": width,
                "height": height,
                "square": [x, y, side, side],
                "colour": colour,
            }
        )
    return entries


def write_detection_set(folder: Path, count: int) -> Path:
    """A COCO-style set whose classes are "red square", "green square", "blue square"."""
    entries = write_images(folder / "images", count)
    annotations = [
        {
            "id": number + 1,
            "image_id": entry["id"],
            "category_id": entry["colour"] + 1,
            "bbox": entry["square"],
            "area": entry["square"][2] ** 2,
            "iscrowd": 0,
        }
        for number, entry in enumerate(entries)
    ]
    categories = [{"id": i + 1, "name": f"{name} square"} for i, name in enumerate(COLOURS)]
    path = folder / "annotations.json"
    path.write_text(
        json.dumps({"images": entries, "annotations": annotations, "categories": categories})
    )
    return path


def write_expression_set(folder: Path, count: int) -> Path:
    """A referring-expression set in MDETR's form: one sentence and one box per image."""
    entries = write_images(folder / "images", count)
    images, annotations = [], []
    for number, entry in enumerate(entries):
        name = f"the {list(COLOURS)[entry['colour']]} square"
        images.append(
            {**entry, "caption": name, "original_id": entry["id"], "dataset_name": "refcoco"}
        )
        annotations.append(
            {
                "id": number + 1,
                "image_id": entry["id"],
                "category_id": 1,
                "bbox": entry["square"],
                "area": entry["square"][2] ** 2,
                "iscrowd": 0,
                "tokens_positive": [[0, len(name)]],
            }
        )
    path = folder / "expressions.json"
    categories = [{"id": 1, "name": "object"}]
    path.write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": categories})
    )
    return path


def write_config(folder: Path, **settings: Any) -> Path:
    """Configuration of a tiny model on the sets of ``folder``; ``SECTION__KEY=value`` overrides."""
    tree = yaml.safe_load((REPOSITORY / "configs/raccoon/small.yaml").read_text())
    bert = str(REPOSITORY / "configs/raccoon/bert_small")
    tree["MODEL"]["LANGUAGE_BACKBONE"].update(MODEL_TYPE=bert, TOKENIZER_TYPE=bert)
    tree["MODEL"]["SWINT"].update(
        EMBED_DIM=8,
        DEPTHS="(1, 1, 1, 1)",
        NUM_HEADS="(1, 1, 2, 2)",
        OUT_CHANNELS="(8, 16, 32, 64)",
        DROP_PATH_RATE=0.2,
    )
    tree["MODEL"]["BACKBONE"]["OUT_CHANNELS"] = 32
    tree["MODEL"]["DYHEAD"].update(CHANNELS=32, NUM_CONVS=1, NUM_CLASSES=4)
    tree["MODEL"]["DYHEAD"]["FUSE_CONFIG"]["JOINT_EMB_SIZE"] = 32
    tree["MODEL"]["RPN"]["ANCHOR_SIZES"] = "(24, 48, 96, 192, 384)"
    entry = {"img_dir": str(folder / "images"), "ann_file": str(folder / "annotations.json")}
    tree["DATASETS"]["REGISTER"] = {"train": entry, "val": dict(entry), "test": dict(entry)}
    tree["INPUT"].update(MIN_SIZE_TRAIN=64, MAX_SIZE_TRAIN=96, MIN_SIZE_TEST=64, MAX_SIZE_TEST=96)
    tree["AUGMENT"]["MULT_MIN_SIZE_TRAIN"] = "(48, 64)"
    tree["DATALOADER"]["NUM_WORKERS"] = 0
    tree["SOLVER"].update(
        IMS_PER_BATCH=2, MAX_EPOCH=0, MAX_ITER=6, CHECKPOINT_PERIOD=3, STEPS="(4,)"
    )
    tree["TEST"]["IMS_PER_BATCH"] = 1
    tree["OUTPUT_DIR"] = str(folder / "output")
    for key, value in settings.items():
        *parents, leaf = key.split("__")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = value
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def read_config(path: Path, *opts: Any) -> CfgNode:
    """The configuration as the tools read it."""
    config = cfg.clone()
    config.merge_from_file(path)
    config.merge_from_list(list(opts))
    config.freeze()
    return config
