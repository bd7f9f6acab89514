"""Write the shapes world to disk: training and test splits in COCO and MDETR formats."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np

from maskrcnn_benchmark.data.shapes import (
    SplitPlan,
    Wording,
    all_kinds,
    read_with_one_attribute,
    write_split,
)
from maskrcnn_benchmark.data.shapes.captions import relational_scene
from maskrcnn_benchmark.data.shapes.render import draw_scene


def plans(
    scale: float, seed: int, say: dict[str, str] | None = None, only_said: bool = False
) -> list[SplitPlan]:
    """All splits; ``scale`` multiplies the number of pictures (at least eight each)."""
    words = {"say": say or {}, "only_said": only_said}

    def images(number: int) -> int:
        return max(8, round(number * scale))

    def split(
        name: str, number: int, kind: str, held_out: bool = False, **more: float
    ) -> SplitPlan:
        return SplitPlan(name, images(number), held_out, kind, seed=seed, **words, **more)

    return [
        split("detection_train", 24000, "detection"),
        split("detection_seen", 500, "detection"),
        split("detection_unseen", 500, "detection", held_out=True),
        split("sizes_seen", 200, "sized"),
        split("sizes_unseen", 200, "sized", held_out=True),
        split("grounding_train", 24000, "grounding"),
        split("grounding_seen", 500, "grounding", relational=0.0),
        split("grounding_unseen", 500, "grounding", held_out=True, relational=0.0),
        split("relations_seen", 500, "grounding", relational=1.0),
        split("relations_unseen", 500, "grounding", held_out=True, relational=1.0),
        split("expressions_train", 12000, "expression"),
        split("expressions_seen", 500, "expression"),
        split("expressions_unseen", 500, "expression", held_out=True),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("DATASET/shapes"))
    parser.add_argument("--scale", type=float, default=1.0, help="multiply the number of pictures")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", help="names of splits; all when absent")
    parser.add_argument(
        "--say",
        nargs="+",
        metavar="OLD=NEW",
        default=[],
        help="other words in names, captions and expressions: red=scarlet; pictures stay the same",
    )
    parser.add_argument(
        "--only-said",
        action="store_true",
        help="annotate and ask for what has a word of --say in its name or phrase alone",
    )
    parser.add_argument(
        "--workers", type=int, default=None, help="processes; one per core when absent"
    )
    parser.add_argument("--force", action="store_true", help="write splits again that are complete")
    parser.add_argument(
        "--picture", type=Path, help="draw a single picture, print its sentences and write no split"
    )
    args = parser.parse_args()

    try:
        wording = Wording.parse(args.say)
    except ValueError as error:
        parser.error(f"--say: {error}")
    if args.only_said and not args.say:
        parser.error("--only-said needs the words of --say")
    if args.picture:
        _write_picture(args.picture, args.seed, wording)
        return
    chosen = plans(args.scale, args.seed, dict(wording.said), args.only_said)
    unknown = set(args.only or ()) - {plan.name for plan in chosen}
    if unknown:
        parser.error(f"unknown split {sorted(unknown)}; there are {[p.name for p in chosen]}")
    for plan in chosen:
        if args.only and plan.name not in args.only:
            continue
        if not args.force and _is_complete(plan, args.output / f"{plan.name}.json"):
            print(f"{plan.name}: already there")
            continue
        start = time.perf_counter()
        path = write_split(plan, args.output, args.workers)
        print(
            f"{plan.name}: {plan.num_images} pictures in {time.perf_counter() - start:.0f} s, {path}"
        )
        if plan.format == "detection" and plan.name != "detection_train":
            _write_readers(path)


def _write_picture(path: Path, seed: int, wording: Wording) -> None:
    """A scene of kinds that are never trained on, with a relation that decides."""
    rng = np.random.default_rng(seed)
    found = None
    while found is None:
        found = relational_scene(rng, all_kinds(held_out=True), 3, wording)
    picture, boxes = draw_scene(rng, found.scene)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, quality=94)
    print(f"{path}: {found.caption.text!r} or {found.expression!r}")
    for item, box in zip(found.scene, boxes, strict=True):
        name = f"{wording.word(item.size)} {wording.kind(item.kind).name}"
        print(f"  {name} at x, y, width, height {box}")


def _is_complete(plan: SplitPlan, path: Path) -> bool:
    """A split of the same plan has been written before (its annotation file comes last)."""
    if not path.is_file():
        return False
    written = json.loads(path.read_text())["info"]["plan"]
    return written == plan.facts()


def _write_readers(annotation_file: Path) -> None:
    """Results of readers that know one attribute, to be scored beside a model's."""
    ground_truth = json.loads(annotation_file.read_text())
    for attribute in ("shape", "colour"):
        results = annotation_file.with_name(f"{annotation_file.stem}_{attribute}_reader.json")
        results.write_text(json.dumps(read_with_one_attribute(ground_truth, attribute)))
        print(f"  results of a reader of {attribute} alone: {results}")


if __name__ == "__main__":
    main()
