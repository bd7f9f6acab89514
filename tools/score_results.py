#!/usr/bin/env python
"""Score a saved result file without a model.

    python tools/score_results.py --task coco --gt instances_val2017.json --results bbox.json
    python tools/score_results.py --task lvis-fixed --gt lvis_v1_minival.json --results bbox.json
    python tools/score_results.py --task flickr --gt DATASET/flickr30k/flickr30k --results r.json
    python tools/score_results.py --task refexp --gt finetune_refcoco_val.json --results r.json

What the files hold is described in docs/evaluation.md.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from pathlib import Path
from typing import Any

# Tools run from a checkout as well as with the package installed.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from maskrcnn_benchmark.engine.command_line import explain_errors
from maskrcnn_benchmark.evaluation.base import DatasetEvaluator
from maskrcnn_benchmark.evaluation.coco import CocoEvaluator
from maskrcnn_benchmark.evaluation.flickr import phrase_recall, read_predictions
from maskrcnn_benchmark.evaluation.flickr_entities import load_entities, split_of
from maskrcnn_benchmark.evaluation.lvis import PER_CATEGORY, LvisEvaluator
from maskrcnn_benchmark.evaluation.refexp import RefExpEvaluator, load_expressions
from maskrcnn_benchmark.evaluation.result_files import (
    read_boxes,
    read_expression_boxes,
    read_results,
)
from maskrcnn_benchmark.evaluation.voc import VocEvaluator

TASKS = ("coco", "lvis", "lvis-fixed", "flickr", "refexp", "voc")


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--task", required=True, choices=TASKS)
    parser.add_argument(
        "--gt", required=True, type=Path, help="annotation file; for flickr the entities' folder"
    )
    parser.add_argument("--results", required=True, type=Path, help="JSON file of predictions")
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    parser.add_argument(
        "--output-folder", type=Path, help="also write the evaluation's files (bbox.csv, ...) here"
    )
    parser.add_argument(
        "--per-category",
        type=int,
        default=PER_CATEGORY,
        help="lvis-fixed: detections per category that count (default %(default)s)",
    )
    parser.add_argument(
        "--split",
        choices=("train", "val", "test"),
        help="flickr: default is the split that has the predicted images",
    )
    parser.add_argument(
        "--gt-type",
        choices=("separate", "merged", "both"),
        default="both",
        help="flickr: any box of a phrase counts, the box around them all, or a table for each",
    )
    parser.add_argument(
        "--renumber-annotations",
        action="store_true",
        help="coco: let an annotation with id 0 be found, which pycocotools never does",
    )
    return parser


def score_boxes(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Results of the tasks whose predictions are boxes of images."""
    shared = {"output_folder": options.output_folder}
    evaluator: DatasetEvaluator
    if options.task == "refexp":
        evaluator = RefExpEvaluator(load_expressions(options.gt), **shared)
        predictions = read_expression_boxes(options.results)
    else:
        if options.task == "coco":
            renumber = options.renumber_annotations
            evaluator = CocoEvaluator(options.gt, renumber_annotations=renumber, **shared)
        elif options.task == "voc":
            evaluator = VocEvaluator(options.gt, **shared)
        else:
            evaluator = LvisEvaluator(
                options.gt,
                fixed=options.task == "lvis-fixed",
                per_category=options.per_category,
                **shared,
            )
        predictions = read_boxes(options.results)
    evaluator.update_from_rows(predictions)
    return {options.task: evaluator.summarize()}


def score_flickr(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Results of Flickr30k Entities, one for each way of treating several boxes of a phrase."""
    predictions = read_predictions(read_results(options.results))
    split = options.split or split_of(options.gt, {image_id for image_id, _ in predictions})
    print(f"split {split}: {len(predictions)} predicted sentences")
    kinds = ("separate", "merged") if options.gt_type == "both" else (options.gt_type,)
    results = {}
    for kind in kinds:
        sentences = load_entities(options.gt, split, merge_boxes=kind == "merged")
        scores = phrase_recall(sentences, predictions)
        results[f"flickr {kind}"] = {
            "kind": "flickr",
            "primary": "Recall@1_all",
            "value": scores.metrics["Recall@1_all"],
            "metrics": scores.metrics,
            "table": scores.table,
        }
    return results


@explain_errors
def main(arguments: list[str] | None = None) -> int:
    options = make_parser().parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    print(f"scoring {options.results} against {options.gt} ({options.task})")
    results = (score_flickr if options.task == "flickr" else score_boxes)(options)
    for name, result in results.items():
        print(f"\n{name}\n{result['table']}")
    if options.json:
        plain = {
            name: {key: value for key, value in result.items() if key != "table"}
            for name, result in results.items()
        }
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(plain, indent=1) + "\n")
        print(f"\nwrote {options.json}")
    if options.output_folder and options.task != "flickr":
        files = ", ".join(sorted(path.name for path in options.output_folder.iterdir()))
        print(f"\nin {options.output_folder}: {files}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
