"""Splits on disk: pictures, COCO detection JSON and MDETR-style grounding JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np

from .attributes import SIZES, ObjectKind, all_kinds
from .captions import Caption, caption_of_scene, relational_scene
from .render import draw_scene
from .scene import IMAGE_SIZE, PlacedObject, random_scene
from .wording import Wording

FORMATS = ("detection", "sized", "grounding", "expression")
DETECTION_FORMATS = ("detection", "sized")


@dataclass(frozen=True)
class SplitPlan:
    """What a split holds.

    Attributes:
        name: folder of the pictures and stem of the annotation file.
        num_images: number of pictures.
        held_out: True for combinations that are never trained on, False for all the others.
        format: ``detection`` (COCO JSON), ``sized`` (the same with classes such as "small red star",
            whatever the texture), ``grounding`` (sentences with phrases, MDETR style) or
            ``expression`` (one sentence and one target, MDETR's referring-expression style).
        relational: share of grounding sentences that only their relation decides.
        seed: with ``name`` it decides every picture.
        say: other words for some of the world's, as `Wording` has them; pictures are the same.
        only_said: annotate and ask for what has a word of ``say`` in its name, phrase or expression,
            and leave out sentences without one; pictures of classes are all kept.

    Raises:
        ValueError: an unknown format, no picture, ``only_said`` without ``say``, or words that
            `Wording` refuses.
    """

    name: str
    num_images: int
    held_out: bool
    format: str
    relational: float = 0.5
    seed: int = 0
    say: dict[str, str] = field(default_factory=dict)
    only_said: bool = False

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise ValueError(f"format {self.format!r} of split {self.name!r}: use one of {FORMATS}")
        if self.num_images < 1:
            raise ValueError(f"split {self.name!r} needs at least one image, not {self.num_images}")
        if self.only_said and not self.say:
            raise ValueError(f"split {self.name!r} is to have new words only, but none are given")
        Wording(self.say)

    @property
    def wording(self) -> Wording:
        """The words that are said."""
        return Wording(self.say)

    def facts(self) -> dict[str, Any]:
        """The plan as the annotation file holds it: of words only where they are not the world's."""
        facts = asdict(self)
        if not self.say:
            del facts["say"], facts["only_said"]
        return facts


def write_split(plan: SplitPlan, folder: Path, num_workers: int | None = None) -> Path:
    """Write the pictures and the annotation file of a split; returns the annotation file.

    The same plan gives the same pictures and annotations whatever the number of workers: every picture has
    its own random stream. The annotation file is written last and renamed into place, so a split
    that has one is complete.
    """
    images = folder / plan.name
    images.mkdir(parents=True, exist_ok=True)
    workers = num_workers or os.cpu_count() or 1
    jobs = [(plan, index, images) for index in range(plan.num_images)]
    if workers == 1:
        records = [_write_image(job) for job in jobs]
    else:
        with ProcessPoolExecutor(workers) as pool:
            records = list(pool.map(_write_image, jobs, chunksize=64))
    content = _collect(plan, records)
    path = folder / f"{plan.name}.json"
    partial = path.with_suffix(".json.part")
    partial.write_text(json.dumps(content))
    partial.replace(path)
    return path


def _stream(plan: SplitPlan, index: int) -> np.random.Generator:
    return np.random.default_rng([plan.seed, crc32(plan.name.encode()), index])


def _write_image(job: tuple[SplitPlan, int, Path]) -> dict[str, Any]:
    plan, index, folder = job
    rng = _stream(plan, index)
    kinds = all_kinds(held_out=plan.held_out)
    scene, caption, target, expression = _compose(rng, plan, kinds)
    picture, boxes = draw_scene(rng, scene)
    name = f"{index:06d}.jpg"
    picture.save(folder / name, quality=94)
    return {
        "file_name": name,
        "scene": scene,
        "boxes": boxes,
        "caption": caption,
        "target": target,
        "expression": expression,
    }


def _compose(
    rng: np.random.Generator, plan: SplitPlan, kinds: Sequence[ObjectKind]
) -> tuple[list[PlacedObject], Caption | None, int | None, str | None]:
    if plan.format in DETECTION_FORMATS:
        return random_scene(rng, kinds, int(rng.integers(2, 8))), None, None, None
    if plan.format == "expression" or rng.random() < plan.relational:
        while True:
            found = relational_scene(rng, kinds, int(rng.integers(0, 4)), plan.wording)
            if found is not None:
                return found.scene, found.caption, found.target, found.expression
    scene = random_scene(rng, kinds, int(rng.integers(2, 8)))
    return scene, caption_of_scene(rng, scene, plan.wording), None, None


def _collect(plan: SplitPlan, records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    if plan.format in DETECTION_FORMATS:
        return _detection_json(plan, records)
    return _grounding_json(plan, records)


def _info(plan: SplitPlan) -> dict[str, Any]:
    return {"description": "shapes world", "plan": plan.facts()}


def _detection_json(plan: SplitPlan, records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    sized, wording = plan.format == "sized", plan.wording
    kinds = [wording.kind(kind) for kind in all_kinds(held_out=plan.held_out)]
    categories = _sized_classes(kinds, wording) if sized else _classes(kinds)
    if plan.only_said:
        categories = [entry for entry in categories if wording.says_new(entry["name"])]
    number_of = {entry["name"]: number for number, entry in enumerate(categories, start=1)}
    images, annotations = [], []
    for image_id, record in enumerate(records, start=1):
        images.append(_image_entry(image_id, record))
        for item, box in zip(record["scene"], record["boxes"], strict=True):
            kind, size = wording.kind(item.kind), wording.word(item.size)
            name = _sized_name(kind, size) if sized else kind.name
            if name in number_of:
                annotations.append(
                    _annotation(len(annotations) + 1, image_id, box, number_of[name])
                    | {"size": size}
                )
    return {
        "info": _info(plan),
        "images": images,
        "annotations": annotations,
        "categories": [{"id": number_of[entry["name"]]} | entry for entry in categories],
    }


def _classes(kinds: Sequence[ObjectKind]) -> list[dict[str, Any]]:
    return [
        {
            "name": kind.name,
            "supercategory": kind.shape,
            "attributes": {"shape": kind.shape, "colour": kind.colour, "texture": kind.texture},
        }
        for kind in kinds
    ]


def _sized_name(kind: ObjectKind, size: str) -> str:
    return f"{size} {kind.colour} {kind.shape}"


def _sized_classes(kinds: Sequence[ObjectKind], wording: Wording) -> list[dict[str, Any]]:
    return [
        {
            "name": _sized_name(kind, size),
            "supercategory": kind.shape,
            "attributes": {"shape": kind.shape, "colour": kind.colour, "size": size},
        }
        for kind in kinds
        if kind.texture == wording.word("plain")
        for size in map(wording.word, SIZES)
    ]


def _sentence(
    plan: SplitPlan, record: dict[str, Any]
) -> tuple[str, list[tuple[tuple[int, int], list[int]]]]:
    """Text of a picture and the phrases that are asked for, as `Caption` has them."""
    if plan.format == "expression":
        # The whole expression means one object; the anchor is context, not an answer.
        text = record["expression"]
        phrases = [((0, len(text)), [record["target"]])]
    else:
        text, phrases = record["caption"].text, record["caption"].phrases
    if plan.only_said:
        phrases = [one for one in phrases if plan.wording.says_new(text[slice(*one[0])])]
    return text, phrases


def _grounding_json(plan: SplitPlan, records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    images, annotations = [], []
    wording = plan.wording
    for image_id, record in enumerate(records, start=1):
        text, phrases = _sentence(plan, record)
        if not phrases:
            continue
        entry = _image_entry(image_id, record)
        if plan.format == "expression":
            entry["dataset_name"] = "refcoco"
        else:
            entry["tokens_positive_eval"] = [[list(span)] for span, _ in phrases]
            entry["relational"] = record["target"] is not None
        images.append(entry | {"caption": text, "original_img_id": image_id, "sentence_id": 0})
        for phrase, (span, members) in enumerate(phrases):
            for member in members:
                annotation = _annotation(
                    len(annotations) + 1, image_id, record["boxes"][member], category_id=1
                )
                name = wording.kind(record["scene"][member].kind).name
                annotations.append(
                    annotation | {"tokens_positive": [list(span)], "phrase": phrase, "kind": name}
                )
    categories = [{"id": 1, "name": "object", "supercategory": "object"}]
    return {
        "info": _info(plan),
        "images": images,
        "annotations": annotations,
        "categories": categories,
    }


def _image_entry(image_id: int, record: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": image_id,
        "file_name": record["file_name"],
        "width": IMAGE_SIZE,
        "height": IMAGE_SIZE,
    }


def _annotation(
    number: int, image_id: int, box: tuple[int, int, int, int], category_id: int
) -> dict[str, Any]:
    return {
        "id": number,
        "image_id": image_id,
        "bbox": list(box),
        "area": box[2] * box[3],
        "category_id": category_id,
        "iscrowd": 0,
    }
