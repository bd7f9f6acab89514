"""Tiny detection data and a tiny model for tests of fine-tuning: coloured rectangles on grey."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml
from PIL import Image, ImageDraw

from maskrcnn_benchmark.config import CfgNode, default_config
from tools import finetune

REPOSITORY = Path(__file__).resolve().parents[2]
CONFIG_FILE = str(REPOSITORY / "configs/raccoon/small.yaml")
CLASSES = {1: "red", 2: "green", 4: "blue"}
SIDE = 64

# A model of seconds: two tower blocks less, small pictures, no loader processes.
SMALL = [
    *("MODEL.LANGUAGE_BACKBONE.MODEL_TYPE", str(REPOSITORY / "configs/raccoon/bert_small")),
    *("MODEL.LANGUAGE_BACKBONE.TOKENIZER_TYPE", str(REPOSITORY / "configs/raccoon/bert_small")),
    *("MODEL.DYHEAD.NUM_CONVS", "1"),
    *("MODEL.SWINT.DEPTHS", "(1, 1, 1, 1)"),
    *("INPUT.MIN_SIZE_TRAIN", str(SIDE)),
    *("INPUT.MAX_SIZE_TRAIN", str(SIDE)),
    *("INPUT.MIN_SIZE_TEST", str(SIDE)),
    *("INPUT.MAX_SIZE_TEST", str(SIDE)),
    *("AUGMENT.MULT_MIN_SIZE_TRAIN", "()"),
    *("DATALOADER.NUM_WORKERS", "0"),
    *("DATALOADER.ASPECT_RATIO_GROUPING", "False"),
    *("SOLVER.IMS_PER_BATCH", "2"),
    *("TEST.IMS_PER_BATCH", "2"),
    *("MODEL.ATSS.PRE_NMS_TOP_N", "20"),
]


def write_set(
    folder: Path,
    number: int = 4,
    *,
    file_name: str = "annotations_without_background.json",
    images: str = "",
    classes: Mapping[int, str] = CLASSES,
    first_id: int = 1,
) -> dict:
    """Pictures with one box each, classes in turn, and their COCO-format file; returns its content.

    Args:
        images: folder of the pictures relative to ``folder``; they are named relative to it.
    """
    (folder / images).mkdir(parents=True, exist_ok=True)
    content = {
        "images": [],
        "annotations": [],
        "categories": [{"id": i, "name": name} for i, name in classes.items()],
    }
    ids = list(classes)
    for n in range(number):
        category = ids[n % len(ids)]
        x, y, size = 8 + 4 * (n % 5), 12 + 3 * (n % 4), 24
        picture = Image.new("RGB", (SIDE, SIDE), "grey")
        colour = CLASSES.get(category, "yellow")
        ImageDraw.Draw(picture).rectangle([x, y, x + size, y + size], fill=colour)
        name = f"{folder.name}_{n}.png"
        picture.save(folder / images / name)
        content["images"].append(
            {"id": first_id + n, "file_name": name, "width": SIDE, "height": SIDE}
        )
        content["annotations"].append(
            {
                "id": n + 1,
                "image_id": first_id + n,
                "category_id": category,
                "bbox": [x, y, size, size],
                "area": size * size,
                "iscrowd": 0,
            }
        )
    target = folder / file_name
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(content))
    return content


def rewrite(path: Path, **changes) -> None:
    """Change entries of a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def write_task(folder: Path, name: str = "colours", number: int = 4, **datasets) -> Path:
    """Data with train, val and test, and the task file for it.

    Args:
        number: training images; half as many, but at least 3, for the others.
        datasets: further settings of DATASETS.
    """
    register = {}
    for split, count in (("train", number), ("val", 3), ("test", 3)):
        write_set(folder / name / split, count)
        register[split] = {
            "ann_file": str(folder / name / split / "annotations_without_background.json"),
            "img_dir": str(folder / name / split),
        }
    content = {
        "DATASETS": {
            "TRAIN": ["train"],
            "TEST": ["val"],
            "DISABLE_SHUFFLE": True,
            "REGISTER": register,
            **datasets,
        },
        "SOLVER": {"WARMUP_ITERS": 0, "MAX_EPOCH": 1, "CHECKPOINT_PERIOD": 100},
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def small_config(*opts: str) -> CfgNode:
    """The small model for the tiny data."""
    config = default_config()
    config.merge_from_file(CONFIG_FILE)
    config.merge_from_list([*SMALL, *opts])
    return config


def run_finetune(output: Path, *flags: str, opts: Sequence[str] = ()) -> int:
    """Exit status of tools/finetune.py on the small model."""
    arguments = ["--config-file", CONFIG_FILE, *flags, *SMALL, *opts, "OUTPUT_DIR", str(output)]
    return finetune.main(arguments)


def count_classes_from_zero(content: dict) -> None:
    """Give the first class of a COCO-format file the id 0."""
    content["categories"][0]["id"] = 0
    for box in content["annotations"]:
        box["category_id"] *= box["category_id"] != 1


def list_a_picture_twice(content: dict) -> None:
    """Let the second image of a COCO-format file name the picture of the first."""
    content["images"][1]["file_name"] = content["images"][0]["file_name"]
