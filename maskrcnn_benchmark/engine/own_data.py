"""From a folder that a labelling tool exported to a task that can be trained on."""

import json
import logging
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from maskrcnn_benchmark.config import CfgNode
from maskrcnn_benchmark.data.datasets.coco_content import checked_content
from maskrcnn_benchmark.evaluation import AnnotationError
from maskrcnn_benchmark.utils.box_values import is_box

from .finetuning_start import write_json
from .main_process import on_main_process

logger = logging.getLogger(__name__)

VALIDATION_SHARE = 0.2
IMAGES_PER_EPOCH = 40  # at least; copies make up for what is missing
_SPLIT_WORDS = {
    "train": ("train", "training"),
    "val": ("valid", "val", "validation", "minival", "mini_val"),
    "test": ("test", "testing"),
}
# In order of preference where a folder holds several of them.
_PREFERRED = ("annotations_without_background.json", "_annotations.coco.json")
_IGNORED = re.compile(r"(fewshot_|_expected\.|detections|results|captions_|person_keypoints_)")

# Recipe by tuning mode: learning rate and weight decay, those of GLIP's own fine-tuning.
_RECIPES = {
    "full": (1e-4, 0.05),
    "linear_prob": (1e-3, 0.05),
    "language_prompt_v1": (1e-4, 0.05),
    "language_prompt_v2": (0.05, 0.25),
    "language_prompt_v3": (1e-4, 0.05),
    "language_prompt_v4": (1e-3, 0.25),
}


@dataclass(frozen=True)
class Split:
    """A part of the data.

    Attributes:
        name: train, val or test; "" where nothing tells.
        path: annotation file.
        images: folder that its file names are relative to.
        content: the file, file names as they are found on disk.
    """

    name: str
    path: Path
    images: Path
    content: dict[str, Any]


def make_own_task(folder: str | Path, config: CfgNode) -> Path:
    """Write a task file for a folder of COCO-format data, and say what was derived.

    Known layouts: ``<split>/_annotations.coco.json`` beside the pictures (Roboflow),
    ``annotations/instances_<split>.json`` with pictures in ``images/`` or ``<split>/`` (COCO, CVAT),
    ``result.json`` with ``images/`` (Label Studio), or any single COCO-format file. A folder without
    validation data gets every fifth training picture with a box for it. The folder itself is left
    alone.

    Args:
        config: merged main configuration; files go to ``<OUTPUT_DIR>/data``.
    Returns:
        the task file, usable in ``--ft-tasks`` and ``--task_config`` too.
    Raises:
        DataError, FileNotFoundError: no annotations, malformed ones, or pictures that cannot be
            found.
    """
    return on_main_process(lambda: _make(Path(folder), config))


def _make(folder: Path, config: CfgNode) -> Path:
    if not folder.is_dir():
        raise FileNotFoundError(f"--data {folder} is not a folder")
    found = find_splits(folder)
    splits = _with_validation(found, config.SOLVER.SEED)
    target = Path(config.OUTPUT_DIR).resolve() / "data"
    target.mkdir(parents=True, exist_ok=True)
    register = {}
    classes = _classes_of_all(splits)
    for split in splits:
        path = target / f"{split.name}.json"
        content = {**split.content, "annotations": _numbered(split)}
        write_json(path, _without_background({**content, "categories": classes}))
        register[split.name] = {"ann_file": str(path), "img_dir": str(split.images.resolve())}
        logger.info(
            "%s: %d images from %s (pictures in %s)",
            split.name,
            len(split.content["images"]),
            split.path,
            split.images,
        )
    task = target / f"{re.sub(r'[^A-Za-z0-9_.-]+', '_', folder.resolve().name) or 'own'}.yaml"
    images = len(splits[0].content["images"])
    text = yaml.safe_dump(_task(register, images, config), sort_keys=False)
    task.write_text(f"# Derived from {folder.resolve()}; settings of your own go below.\n{text}")
    logger.info("wrote %s", task)
    return task


def find_splits(folder: Path) -> list[Split]:
    """The annotation files of a folder, one per split.

    Raises:
        AnnotationError: there is none, or several that nothing tells apart.
    """
    chosen: dict[str, Split] = {}
    for path, content in _annotation_files(folder):
        name = _split_of(path, folder)
        if name in chosen:
            earlier = chosen[name].path
            if _rank(earlier) != _rank(path):
                logger.info("%s is used for %r, %s is not", earlier, name or "all", path)
                continue
            raise AnnotationError(
                f"{earlier} and {path} both look like annotations of the split "
                f"{name or '(all data)'!r}: leave one in the folder, or name the splits"
            )
        chosen[name] = _located(name, path, content, folder)
    if not chosen:
        raise AnnotationError(
            f"{folder} holds no COCO-format annotations. Expected train/_annotations.coco.json, "
            "annotations/instances_train.json or a single JSON file with 'images' and "
            "'annotations'; export your data as COCO."
        )
    if "" in chosen and len(chosen) > 1 and "train" not in chosen:
        chosen["train"] = _renamed(chosen.pop(""), "train")
    if "" in chosen and len(chosen) == 1:
        chosen["train"] = _renamed(chosen.pop(""), "train")
    chosen.pop("", None)
    if "train" not in chosen:
        raise AnnotationError(
            f"{folder} has {', '.join(sorted(chosen))} but no training data: name a folder or file "
            "'train'"
        )
    return [chosen[name] for name in _SPLIT_WORDS if name in chosen]


def _annotation_files(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    paths = [p for p in folder.rglob("*.json") if not _IGNORED.search(p.name)]
    for path in sorted(paths, key=lambda p: (_rank(p), len(p.parts), str(p))):
        try:
            content = json.loads(path.read_bytes())
        except ValueError as error:
            logger.warning("%s is not valid JSON and left out: %s", path, error)
            continue
        if isinstance(content, dict) and {"images", "annotations"} <= content.keys():
            yield path, content


def _rank(path: Path) -> tuple[bool, int]:
    """Order of preference; a small validation set comes after the whole one."""
    mini = any("mini" in part.lower() for part in path.parts[-2:])
    place = _PREFERRED.index(path.name) if path.name in _PREFERRED else len(_PREFERRED)
    return mini, place


def _split_of(path: Path, folder: Path) -> str:
    """Split that the file name, or else the nearest folder name, tells."""
    parts = [path.stem, *reversed(path.relative_to(folder).parts[:-1])]
    for part in parts:
        words = set(re.split(r"[^a-z]+", part.lower()))
        for name, spellings in _SPLIT_WORDS.items():
            if words & set(spellings) or part.lower() in spellings:
                return name
    return ""


def _renamed(split: Split, name: str) -> Split:
    return Split(name, split.path, split.images, split.content)


def _located(name: str, path: Path, content: dict[str, Any], folder: Path) -> Split:
    """Find the pictures; exports name them in many ways."""
    content = checked_content(content, str(path), ("file_name",))
    images = content["images"]
    if not images:
        raise AnnotationError(f"{path} lists no image")
    split_folders = [sub for word in _SPLIT_WORDS.get(name, ()) for sub in _like(folder, word)]
    candidates = [
        path.parent,
        path.parent / "images",
        *split_folders,
        *(sub / "images" for sub in split_folders),
        *_subfolders(folder / "images"),
        folder / "images",
        folder,
        *_subfolders(folder),
    ]
    names = [image["file_name"].replace("\\", "/") for image in images]
    for spell in (str, _bare_name):
        for candidate in candidates:
            if (candidate / spell(names[0])).is_file():
                found = [{**image, "file_name": spell(file)} for image, file in zip(images, names)]
                return Split(name, path, candidate, {**content, "images": found})
    searched = ", ".join(str(c) for c in dict.fromkeys(candidates) if c.is_dir())
    raise FileNotFoundError(f"{path} names {names[0]}, which is in none of {searched}")


def _bare_name(file_name: str) -> str:
    """Last part of a path; exports of servers carry folders that exist only there."""
    return file_name.rpartition("/")[2]


def _like(folder: Path, word: str) -> list[Path]:
    pattern = re.compile(rf"{word}(\d{{4}})?", re.IGNORECASE)
    return [
        sub
        for parent in (folder, folder / "images")
        for sub in _subfolders(parent)
        if pattern.fullmatch(sub.name)
    ]


def _subfolders(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []


def _classes_of_all(splits: Sequence[Split]) -> list[dict[str, Any]]:
    """The classes of all splits; files of one export sometimes list only those they use.

    Raises:
        AnnotationError: an id means different things in two files.
    """
    classes: dict[Any, dict[str, Any]] = {}
    origin: dict[Any, Path] = {}
    for split in splits:
        for category in split.content.get("categories", []):
            key = category["id"]
            known = classes.setdefault(key, dict(category))
            if known["name"] != category["name"]:
                raise AnnotationError(
                    f"category {key} is {known['name']!r} in {origin[key]} but "
                    f"{category['name']!r} in {split.path}"
                )
            origin.setdefault(key, split.path)
    if not classes:
        raise AnnotationError(f"{splits[0].path} has no category: list its classes")
    return list(classes.values())


def _numbered(split: Split) -> list[dict[str, Any]]:
    """Annotations with ids of their own, which evaluation needs; the file's where it has them."""
    boxes = split.content["annotations"]
    ids = [box.get("id") for box in boxes]
    if all(type(i) is int for i in ids) and len(set(ids)) == len(ids):
        return boxes
    logger.info("%s: annotations lack ids of their own and are numbered from 1", split.path)
    return [{**box, "id": number} for number, box in enumerate(boxes, start=1)]


def _without_background(content: dict[str, Any]) -> dict[str, Any]:
    """Leave out classes that stand for nothing: Roboflow's group entry, background by name."""
    used = {box.get("category_id") for box in content["annotations"]}
    kept = []
    for category in content["categories"]:
        name = category["name"]
        group = category.get("supercategory") == "none" and any(
            other.get("supercategory") == name for other in content["categories"]
        )
        background = name.lower() in ("background", "__background__", "_background_")
        if category["id"] not in used and (group or background):
            logger.warning(
                "category %s (%r) is no class: %s",
                category["id"],
                name,
                "it names the group of the others" if group else "it is the background",
            )
            continue
        kept.append(category)
    return {**content, "categories": kept}


def _with_validation(splits: list[Split], seed: int) -> list[Split]:
    """Take validation data out of the training data where there are none."""
    by_name = {split.name: split for split in splits}
    if "val" in by_name:
        _warn_about_shared_pictures(splits)
        return splits
    train = by_name.pop("train")
    # Whole pictures are drawn: one that is listed twice must not be learnt from and tested on.
    names = _pictures_with_a_box(train)
    if len(names) < 2:
        raise AnnotationError(
            f"{train.path} has {len(names)} picture(s) with a box: no validation data can be taken out"
        )
    random.Random(seed).shuffle(names)
    drawn = set(names[: max(1, round(VALIDATION_SHARE * len(names)))])
    logger.warning(
        "there is no validation split: %d of %d training pictures with a box are set aside for it "
        "(drawn with SOLVER.SEED %d)",
        len(drawn),
        len(names),
        seed,
    )
    images = train.content["images"]
    result = [
        _part(train, "train", [image for image in images if image["file_name"] not in drawn]),
        _part(train, "val", [image for image in images if image["file_name"] in drawn]),
        *by_name.values(),
    ]
    _warn_about_shared_pictures(result)
    return result


def _pictures_with_a_box(split: Split) -> list[str]:
    """Sorted file names of what can be validated on: with a box that is no crowd region and wider
    and higher than a pixel.
    """
    with_box = {
        box.get("image_id")
        for box in split.content["annotations"]
        if box.get("iscrowd", 0) != 1 and is_box(box.get("bbox")) and min(box["bbox"][2:]) > 1
    }
    return sorted(
        {image["file_name"] for image in split.content["images"] if image["id"] in with_box}
    )


def _part(split: Split, name: str, images: Sequence[Mapping[str, Any]]) -> Split:
    ids = {image["id"] for image in images}
    boxes = [box for box in split.content["annotations"] if box.get("image_id") in ids]
    content = {**split.content, "images": list(images), "annotations": boxes}
    return Split(name, split.path, split.images, content)


def _warn_about_shared_pictures(splits: Sequence[Split]) -> None:
    """Say when a picture is both learnt from and tested on."""
    train = {
        i["file_name"]: s.images for s in splits if s.name == "train" for i in s.content["images"]
    }
    for split in splits:
        if split.name == "train":
            continue
        shared = [
            name
            for name in (image["file_name"] for image in split.content["images"])
            if name in train and _same_file(train[name] / name, split.images / name)
        ]
        if shared:
            logger.warning(
                "%d picture(s) of %s are training pictures too (%s): its AP will flatter",
                len(shared),
                split.name,
                shared[0],
            )


def _same_file(first: Path, second: Path) -> bool:
    if not (first.is_file() and second.is_file()):
        return False
    return (
        first.stat().st_size == second.stat().st_size and first.read_bytes() == second.read_bytes()
    )


def _task(register: dict[str, Any], images: int, config: CfgNode) -> dict[str, Any]:
    rate, decay = _RECIPES.get(config.SOLVER.TUNING_HIGHLEVEL_OVERRIDE or "full", _RECIPES["full"])
    return {
        "DATASETS": {
            "TRAIN": ["train"],
            "TEST": ["val"],
            "TRAIN_DATASETNAME_SUFFIX": "_grounding",
            "DISABLE_SHUFFLE": True,
            "USE_OVERRIDE_CATEGORY": False,
            # Small sets are repeated, so that an epoch is worth a validation.
            "GENERAL_COPY": max(1, -(-IMAGES_PER_EPOCH // images)),
            "REGISTER": register,
        },
        "DATALOADER": {"ASPECT_RATIO_GROUPING": False, "SIZE_DIVISIBILITY": 32},
        "SOLVER": {
            "BASE_LR": rate,
            "LANG_LR": min(rate, 1e-5),
            "WEIGHT_DECAY": decay,
            "WARMUP_ITERS": 0,
            "MAX_EPOCH": 50,
            "IMS_PER_BATCH": 4,
            "CHECKPOINT_PER_EPOCH": 1.0,
            "KEEP_LAST_CHECKPOINTS": 2,
            "USE_AUTOSTEP": True,
            "STEP_PATIENCE": 3,
            "AUTO_TERMINATE_PATIENCE": 8,
        },
        "TEST": {"DURING_TRAINING": True, "EVAL_TASK": "detection", "IMS_PER_BATCH": 4},
    }
