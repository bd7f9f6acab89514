"""Cost per image of evaluation with many classes: ours against one whole forward per chunk.

    python -m benchmarks.evaluation                       # GLIP-T, 800 x 1216: many minutes
    python -m benchmarks.evaluation --size 320 480 --chunks 1 4 --rounds 1

Ours: captions are encoded once per run, an image once, and chunks of classes meet it in the head,
several at a time and without padding. The plain way runs the whole model for every chunk, on 256
token slots, in the original order of operations (``benchmarks/detector.py``). It does the same work
for every chunk: so many as ``--plain-chunks`` are run, and their median is multiplied. On these
chunks the detections of both are compared.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.detector import (
    CONFIG,
    build_glip,
    difference,
    make_selective,
    plain_way,
    random_image,
)
from benchmarks.measuring import (
    Comparison,
    Cost,
    machine,
    measure_in_turn,
    print_table,
    write_comparisons,
)
from benchmarks.stages import measured_stages
from maskrcnn_benchmark.engine.detectors import ClassDetector
from maskrcnn_benchmark.grounding import Query, build_queries
from maskrcnn_benchmark.modeling.detector import GeneralizedVLRCNN
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.image_list import ImageList

CLASSES_PER_CHUNK = 40
_KINDS = (
    "red green blue white black yellow wooden metal plastic glass small large old new round square "
    "flat tall short striped dotted open closed wet dry hot cold toy garden kitchen office"
)
_THINGS = (
    "chair table lamp cup plate bottle box bag hat shoe coat dog cat bird horse cow boat car bus "
    "truck train plane bike clock book pen phone screen door window bed sofa spoon fork knife bowl "
    "ball bat tree flower"
)


def queries_of(model: GeneralizedVLRCNN, chunks: int) -> list[Query]:
    """Captions of 40 classes each, some 120 tokens long, like those of LVIS."""
    names = [f"{kind} {thing}" for kind in _KINDS.split() for thing in _THINGS.split()]
    categories = dict(enumerate(names[: chunks * CLASSES_PER_CHUNK], start=1))
    return build_queries(
        categories, model.tokenizer, separation_tokens=". ", chunk_size=CLASSES_PER_CHUNK
    )


def run_plainly(model: GeneralizedVLRCNN, images: ImageList, query: Query) -> list[BoxList]:
    """One chunk as the original runs it: the whole model, all token slots."""
    with plain_way(model):
        return model(images, captions=[query.caption], positive_map=query.label_to_tokens)


@torch.no_grad()
def compare(
    model: GeneralizedVLRCNN,
    images: ImageList,
    chunks: list[int],
    rounds: int,
    plain_chunks: int,
    pairs_at_once: list[int],
) -> dict[str, Any]:
    """Cost by number of chunks, the stages of ours, differences of the detections."""
    queries = queries_of(model, max(chunks))
    make_selective(model, queries[0].caption)
    start = time.process_time()
    encoded = ClassDetector(model, queries, 0)
    text_seconds = (time.process_time() - start) / len(queries)
    slots = [query.text.masks.shape[1] for query in encoded.queries]

    plain_found: list[list[BoxList]] = []
    tried = queries[:plain_chunks]
    remaining = iter(tried)
    plain = measure_in_turn(
        {
            "plain, one chunk": lambda: plain_found.append(
                run_plainly(model, images, next(remaining))
            )
        },
        rounds=len(tried),
        warm_up=0,
    )

    cases = [(number, pairs_at_once[0]) for number in chunks]
    cases += [(max(chunks), pairs) for pairs in pairs_at_once[1:]]
    detectors = {case: ClassDetector(model, queries[: case[0]], 0, case[1]) for case in cases}
    found: dict[tuple[int, int], list[BoxList]] = {}
    stages: dict[str, dict[str, float]] = {}

    def detect(case: tuple[int, int]) -> None:
        with measured_stages(model) as sums:
            found[case] = detectors[case].detect(images, [])
        if case == cases[len(chunks) - 1]:
            stages.update(sums)

    ours = measure_in_turn(
        {f"{c[0]} chunks, {c[1]} at a time": lambda c=c: detect(c) for c in cases},
        rounds,
        warm_up=0,
    )
    differences = []
    for expected, query in zip(plain_found, tried):
        labels = torch.tensor(list(query.label_to_tokens))
        whole = found[cases[len(chunks) - 1]]
        mine = [boxes[torch.isin(boxes.get_field("labels"), labels)] for boxes in whole]
        differences.append(difference(mine, expected))
    return {
        "plain": plain["plain, one chunk"],
        "ours": dict(zip(cases, ours.values())),
        "text": text_seconds,
        "slots": slots,
        "stages": stages,
        "boxes": sum(map(len, found[cases[len(chunks) - 1]])),
        "unmatched": sum(difference.unmatched for difference in differences),
        "scores": max(difference.scores for difference in differences),
        "pixels": max(difference.pixels for difference in differences),
    }


def report(result: dict[str, Any], chunks: list[int]) -> None:
    """The tables."""
    plain: Cost = result["plain"]
    rows = []
    for (number, pairs), ours in result["ours"].items():
        rows.append(
            (
                f"{number}",
                f"{pairs}",
                f"{number * plain.cpu:.1f}",
                f"{ours.cpu:.1f}",
                f"{number * plain.cpu / ours.cpu:.1f}x",
                f"{number * plain.wall / ours.wall:.1f}x",
                f"{plain.megabytes:.0f}",
                f"{ours.megabytes:.0f}",
            )
        )
    print_table(
        (
            "chunks",
            "at a time",
            "plain, CPU s",
            "ours, CPU s",
            "ratio",
            "wall ratio",
            "plain, MB",
            "ours, MB",
        ),
        rows,
    )
    sums = result["stages"]
    total = sum(stage["cpu"] for stage in sums.values())
    print(f"Where the time of {max(chunks)} chunks goes:\n")
    print_table(
        ("stage", "CPU s", "share"),
        [
            (name, f"{stage['cpu']:.2f}", f"{stage['cpu'] / total:.0%}")
            for name, stage in sums.items()
        ],
    )
    print(
        f"Captions: {min(result['slots'])} to {max(result['slots'])} token slots, encoded once per "
        f"run in {result['text']:.2f} s CPU each, which the table of chunks leaves out."
    )
    if len(chunks) > 1:
        first, last = (
            result["ours"][number, next(iter(result["ours"]))[1]]
            for number in chunks[:: len(chunks) - 1]
        )
        growth = (last.cpu - first.cpu) / (chunks[-1] - chunks[0])
        in_head = sum(
            sums[name]["cpu"] for name in sums if name not in ("visual body", "pyramid")
        ) / max(chunks)
        print(
            f"One more chunk costs {growth:.2f} s; fusion and head take {in_head:.2f} s per chunk."
        )
    print(
        f"{result['boxes']} boxes; of those that the plain way finds {result['unmatched']} are not "
        f"found, scores differ by at most {result['scores']:.1e}, boxes by "
        f"{result['pixels']:.1e} pixels.\n"
    )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", default=CONFIG)
    parser.add_argument("--size", type=int, nargs=2, default=(800, 1216), metavar=("H", "W"))
    parser.add_argument("--chunks", type=int, nargs="+", default=[1, 8, 31])
    parser.add_argument("--at-once", type=int, nargs="+", default=[1, 4], help="chunks per forward")
    parser.add_argument("--plain-chunks", type=int, default=3, help="chunks run the plain way")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--json", type=Path, help="also write the comparisons to this file")
    args = parser.parse_args(arguments)
    print(f"{machine(args.device)}; image {args.size[0]} x {args.size[1]}, {args.config_file}\n")
    model = build_glip(args.config_file, args.device)
    images = random_image(*args.size, device=args.device)
    chunks = sorted(args.chunks)
    plain_chunks = min(args.plain_chunks, chunks[-1])
    result = compare(model, images, chunks, args.rounds, plain_chunks, args.at_once)
    report(result, chunks)
    plain = result["plain"]
    comparisons = [
        Comparison(
            f"evaluation, {number} chunks, {pairs} at a time, {args.size[0]} x {args.size[1]}",
            "one whole forward per chunk",
            number * plain.cpu,
            ours.cpu,
            "s",
        )
        for (number, pairs), ours in result["ours"].items()
    ]
    write_comparisons(args.json, comparisons)
    return 0


if __name__ == "__main__":
    sys.exit(main())
