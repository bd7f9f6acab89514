"""Time of scoring a result set: ours against pycocotools (COCO) and lvis (LVIS).

    python benchmarks/scoring.py                      # 5,000 COCO images, 1,000 LVIS images
    python benchmarks/scoring.py --lvis-images 5000   # lvis alone then takes minutes a round
    python benchmarks/scoring.py --small              # seconds, for a quick look

Sets are generated from a seed. Both sides start from the same annotation dictionary and the same
list of result dictionaries in memory and end with the metrics; rounds alternate between them, the
figure is the median of the rounds, the ratio is taken of the medians. CPU seconds of one process.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import json
import logging
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from maskrcnn_benchmark.evaluation.average_precision import available_library, precision_recall
from maskrcnn_benchmark.evaluation.detections import Detections
from maskrcnn_benchmark.evaluation.ground_truth import read_ground_truth

SIDE = 640
LVIS_LIMIT = 300


def generate_set(
    images: int,
    categories: int,
    boxes_per_image: int,
    detections_per_image: int,
    seed: int,
    federated: bool = False,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """An annotation dictionary and results for it.

    A share of the detections are shaken copies of boxes, the rest are anywhere. Categories are
    drawn by a long-tailed law. Scores have three decimals, so many are equal.

    Args:
        federated: add the lists and marks of LVIS instead of crowd marks.
    """
    random = np.random.default_rng(seed)
    weights = 1.0 / np.arange(1, categories + 1)
    weights /= weights.sum()
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    entries: list[dict[str, Any]] = []
    for image_id in range(1, images + 1):
        boxes = _random_boxes(random, boxes_per_image)
        labels = random.choice(categories, boxes_per_image, p=weights) + 1
        crowd = np.zeros(boxes_per_image, int) if federated else random.random(len(boxes)) < 0.01
        annotations += [
            {
                "id": len(annotations) + number,
                "image_id": image_id,
                "category_id": int(label),
                "bbox": box,
                "area": box[2] * box[3],
                "iscrowd": int(is_crowd),
            }
            for number, (box, label, is_crowd) in enumerate(
                zip(boxes.round(2).tolist(), labels, crowd), start=1
            )
        ]
        hits = random.integers(0, boxes_per_image, detections_per_image // 3)
        shaken = boxes[hits] * random.uniform(0.85, 1.15, (len(hits), 4))
        found = np.concatenate([shaken, _random_boxes(random, detections_per_image - len(hits))])
        anywhere = random.choice(categories, len(found) - len(hits), p=weights) + 1
        found_labels = np.concatenate([labels[hits], anywhere])
        scores = np.concatenate(
            [random.beta(4, 2, len(hits)), random.beta(1, 4, len(found) - len(hits))]
        )
        results += [
            {"image_id": image_id, "category_id": label, "bbox": box, "score": score}
            for label, box, score in zip(
                found_labels.tolist(), found.round(2).tolist(), scores.round(3).tolist()
            )
        ]
        entry: dict[str, Any] = {"id": image_id, "width": SIDE, "height": SIDE}
        if federated:
            absent = np.setdiff1d(random.integers(1, categories + 1, 40), labels)
            entry["neg_category_ids"] = absent.tolist()
            entry["not_exhaustive_category_ids"] = np.unique(labels[:1]).tolist()
        entries.append(entry)
    names = [
        {"id": number, "name": f"class {number}", "frequency": "rcf"[number % 3]}
        for number in range(1, categories + 1)
    ]
    return {"info": {}, "images": entries, "annotations": annotations, "categories": names}, results


def _random_boxes(random: np.random.Generator, number: int) -> np.ndarray:
    sizes = np.exp(random.uniform(np.log(8), np.log(300), (number, 2)))
    return np.concatenate([random.uniform(0, SIDE - sizes), sizes], axis=1)


def score_ours(
    data: dict[str, Any], results: list[dict[str, Any]], federated: bool
) -> dict[str, float]:
    """AP, AP50, AP75 by this project."""
    detections = Detections.from_rows(
        np.array([row["image_id"] for row in results]),
        np.array([row["bbox"] for row in results]),
        np.array([row["score"] for row in results]),
        np.array([row["category_id"] for row in results]),
    )
    if federated:
        detections = detections.best_per_image(LVIS_LIMIT)
    curves = precision_recall(
        read_ground_truth(data),
        detections,
        max_detections=(LVIS_LIMIT,) if federated else (1, 10, 100),
        federated=federated,
    )
    return {
        name: curves.average_precision(iou)
        for name, iou in (("AP", None), ("AP50", 0.5), ("AP75", 0.75))
    }


def score_pycocotools(data: dict[str, Any], results: list[dict[str, Any]]) -> dict[str, float]:
    """AP, AP50, AP75 by pycocotools."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        index = COCO()
        index.dataset = data
        index.createIndex()
        evaluation = COCOeval(index, index.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return dict(zip(("AP", "AP50", "AP75"), evaluation.stats[:3].tolist()))


def score_lvis(data: dict[str, Any], results: list[dict[str, Any]]) -> dict[str, float]:
    """AP, AP50, AP75 by the lvis package."""
    # lvis 0.5.3 still uses a name that NumPy dropped.
    vars(np).setdefault("float", float)
    from lvis import LVIS, LVISEval, LVISResults

    logging.getLogger("lvis").setLevel(logging.ERROR)
    index = LVIS.__new__(LVIS)
    index.logger = logging.getLogger("lvis")
    index.dataset = data
    index._create_index()
    evaluation = LVISEval(index, LVISResults(index, results, max_dets=LVIS_LIMIT), "bbox")
    evaluation.run()
    return {name: float(evaluation.results[name]) for name in ("AP", "AP50", "AP75")}


def cpu_seconds(function: Callable[[], Mapping[str, float]]) -> tuple[float, Mapping[str, float]]:
    """CPU time of one call and what it returned."""
    start = time.process_time()
    metrics = function()
    return time.process_time() - start, metrics


def measure(
    kind: str, data: dict[str, Any], results: list[dict[str, Any]], rounds: int
) -> dict[str, Any]:
    """Alternate between ours and the reference; medians, ratio and the largest difference."""
    federated = kind == "lvis"
    reference = score_lvis if federated else score_pycocotools
    ours_seconds, reference_seconds, difference = [], [], 0.0
    for number in range(rounds):
        # The references write into what they are given, so every call gets a copy of its own.
        mine = copy.deepcopy(data), copy.deepcopy(results)
        seconds, ours_metrics = cpu_seconds(lambda given=mine: score_ours(*given, federated))
        ours_seconds.append(seconds)
        theirs = copy.deepcopy(data), copy.deepcopy(results)
        seconds, metrics = cpu_seconds(lambda given=theirs: reference(*given))
        reference_seconds.append(seconds)
        difference = max(difference, *(abs(ours_metrics[k] - metrics[k]) for k in metrics))
        print(
            f"  {kind} round {number + 1}/{rounds}: ours {ours_seconds[-1]:.1f} s, "
            f"{'lvis' if federated else 'pycocotools'} {reference_seconds[-1]:.1f} s",
            file=sys.stderr,
        )
    ours, theirs = statistics.median(ours_seconds), statistics.median(reference_seconds)
    return {
        "set": kind,
        "images": len(data["images"]),
        "categories": len(data["categories"]),
        "boxes": len(data["annotations"]),
        "detections": len(results),
        "reference": "lvis" if federated else "pycocotools",
        "reference_s": round(theirs, 2),
        "ours_s": round(ours, 2),
        "ratio": round(theirs / ours, 2),
        "largest_difference": difference,
        "AP": ours_metrics["AP"],
    }


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=5000, help="images of the COCO set")
    parser.add_argument("--lvis-images", type=int, default=1000, help="images of the LVIS set")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--small", action="store_true", help="300 and 100 images, one round")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args(arguments)
    if options.small:
        options.images, options.lvis_images, options.rounds = 300, 100, 1
    print(f"matching with {available_library()}; {options.rounds} rounds", file=sys.stderr)
    rows = []
    if options.images:
        generated = generate_set(options.images, 80, 7, 100, options.seed)
        rows.append(measure("coco", *generated, options.rounds))
    if options.lvis_images:
        generated = generate_set(options.lvis_images, 1203, 12, 300, options.seed, federated=True)
        rows.append(measure("lvis", *generated, options.rounds))
    print(
        "| set | images | boxes | detections | reference | CPU s | ours, CPU s | ratio | max diff |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row['set']} | {row['images']} | {row['boxes']} | {row['detections']} "
            f"| {row['reference']} | {row['reference_s']} | {row['ours_s']} "
            f"| {row['ratio']:.1f}x | {row['largest_difference']:.1e} |"
        )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")
        print(f"wrote {options.json}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
