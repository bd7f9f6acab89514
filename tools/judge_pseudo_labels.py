#!/usr/bin/env python
"""Precision and recall of a teacher's boxes, on captions whose true boxes are known.

Example:
    python tools/judge_pseudo_labels.py --truth DATASET/shapes_web/grounding_seen.json \\
        --labels OUTPUT/shapes_pseudo/pseudo.jsonl --conf 0.3 0.5 --nms -1 0.7 --words scarlet
"""

import argparse
import sys
from pathlib import Path

from maskrcnn_benchmark.data.datasets.caption_record import BoxScreen
from maskrcnn_benchmark.data.datasets.json_lines import JsonLinesSource
from maskrcnn_benchmark.data.shapes.label_quality import label_quality
from maskrcnn_benchmark.engine.command_line import explain_errors
from maskrcnn_benchmark.utils.json_files import read_json


@explain_errors
def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--truth", type=Path, required=True, help="MDETR-style annotations")
    parser.add_argument(
        "--labels", type=Path, required=True, help="the .jsonl of make_pseudo_labels.py"
    )
    parser.add_argument("--conf", type=float, nargs="+", default=[0.5], help="CAPTION_CONF to try")
    parser.add_argument("--nms", type=float, nargs="+", default=[-1.0], help="CAPTION_NMS to try")
    parser.add_argument("--words", nargs="+", help="count phrases with one of these alone as well")
    args = parser.parse_args(arguments)
    wanted = set(args.words or ())
    subjects = {"all phrases": lambda phrase: True}
    if wanted:
        subjects[f"with {', '.join(args.words)}"] = lambda p: not wanted.isdisjoint(p.split())
    rules = [(confidence, overlap) for confidence in args.conf for overlap in args.nms]
    truth = read_json(args.truth)
    labels = JsonLinesSource(args.labels, args.labels.parent)
    screens = [BoxScreen(confidence, overlap) for confidence, overlap in rules]
    judged = label_quality(truth, labels, screens, list(subjects.values()))
    print("| CAPTION_CONF | CAPTION_NMS | phrases | boxes | precision | recall |")
    print("|---|---|---|---|---|---|")
    for (confidence, overlap), row in zip(rules, judged, strict=True):
        for subject, found in zip(subjects, row, strict=True):
            print(
                f"| {confidence:g} | {overlap:g} | {subject} | {found.labels} "
                f"| {100 * found.precision:.1f} | {100 * found.recall:.1f} |"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
