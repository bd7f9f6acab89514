"""AP against pycocotools, lvis and the recorded numbers of the original evaluators."""

import json

import numpy as np
import pytest

from benchmarks.scoring import LVIS_LIMIT, generate_set, score_lvis, score_pycocotools
from maskrcnn_benchmark.evaluation import average_precision
from maskrcnn_benchmark.evaluation.average_precision import (
    LIBRARIES,
    available_library,
    precision_recall,
    with_renumbered_ids,
)
from maskrcnn_benchmark.evaluation.detections import Detections
from maskrcnn_benchmark.evaluation.ground_truth import load_ground_truth, read_ground_truth
from maskrcnn_benchmark.evaluation.result_files import read_boxes
from tests.evaluation.box_sets import annotations

# The libraries add up the same numbers; the last bit of a mean may differ.
EXACT = {"rel": 0, "abs": 1e-14}


@pytest.fixture(params=LIBRARIES)
def library(request):
    """Each library that can match boxes, where it is installed."""
    return pytest.importorskip(request.param).__name__


def to_detections(results):
    return Detections.from_rows(
        *(np.array([row[key] for row in results]) for key in ("image_id", "bbox", "score")),
        np.array([row["category_id"] for row in results]),
    )


@pytest.mark.parametrize("seed", [0, 1])
def test_coco_agrees_with_pycocotools_on_generated_sets(library, seed):
    data, results = generate_set(25, 80, 7, 120, seed)
    expected = score_pycocotools(data, [dict(row) for row in results])

    curves = precision_recall(read_ground_truth(data), to_detections(results), library=library)

    assert curves.average_precision() == pytest.approx(expected["AP"], **EXACT)
    assert curves.average_precision(0.5) == pytest.approx(expected["AP50"], **EXACT)
    assert curves.average_precision(0.75) == pytest.approx(expected["AP75"], **EXACT)


def test_lvis_agrees_with_the_lvis_package_on_generated_sets(library):
    pytest.importorskip("lvis", exc_type=ImportError)  # its OpenCV may lack system libraries
    data, results = generate_set(15, 60, 12, 400, 3, federated=True)
    expected = score_lvis(data, [dict(row) for row in results])

    curves = precision_recall(
        read_ground_truth(data),
        to_detections(results).best_per_image(LVIS_LIMIT),
        max_detections=(LVIS_LIMIT,),
        federated=True,
        library=library,
    )

    assert curves.average_precision() == pytest.approx(expected["AP"], **EXACT)
    assert curves.average_precision(0.5) == pytest.approx(expected["AP50"], **EXACT)
    assert curves.average_precision(0.75) == pytest.approx(expected["AP75"], **EXACT)


def test_small_blocks_of_categories_change_nothing(monkeypatch):
    data, results = generate_set(10, 30, 7, 60, 5)
    truth, detections = read_ground_truth(data), to_detections(results)
    whole = precision_recall(truth, detections)

    monkeypatch.setattr(average_precision, "PAIRS_PER_BLOCK", 25)
    cut = precision_recall(truth, detections)

    np.testing.assert_array_equal(cut.precision, whole.precision)
    np.testing.assert_array_equal(cut.recall, whole.recall)


@pytest.mark.parametrize(
    ("gt", "results", "expected"),
    [
        (
            "coco/instances_val2014_100.json",
            "coco/instances_val2014_fakebbox100_results.json",
            "coco/expected_fakebbox100.json",
        ),
        (
            "coco/instances_val2014_100.json",
            "coco/results_seed1.json",
            "coco/expected_seed1.json",
        ),
        *(
            (
                f"odinw/{folder}/annotations_without_background.json",
                f"odinw/{folder}/{stem}.json",
                f"odinw/{folder}/{stem}_expected.json",
            )
            for folder, stem in (
                ("PascalVOC/train", "detections"),
                ("PascalVOC/valid", "detections"),
                ("Raccoon/Raccoon.v2-raw.coco/valid", "results_seed1"),
                ("Raccoon/Raccoon.v2-raw.coco/test", "results_seed1"),
                ("BCCD/BCCD.v3-raw.coco/valid", "results_seed1"),
                ("BCCD/BCCD.v3-raw.coco/test", "results_seed1"),
            )
        ),
    ],
)
def test_recorded_numbers_of_pycocotools_are_reproduced(shared_dir, library, gt, results, expected):
    folder = shared_dir / "data"
    numbers = json.loads((folder / expected).read_text())

    curves = precision_recall(
        load_ground_truth(folder / gt), read_boxes(folder / results), library=library
    )

    stats = numbers["stats"]
    assert curves.average_precision() == pytest.approx(stats["AP"], **EXACT)
    assert curves.average_precision(0.5) == pytest.approx(stats["AP50"], **EXACT)
    assert curves.average_precision(0.75) == pytest.approx(stats["AP75"], **EXACT)
    for area in ("small", "medium", "large"):
        assert curves.average_precision(area=area) == pytest.approx(stats[f"AP{area[0]}"], **EXACT)
        assert curves.average_recall(area) == pytest.approx(stats[f"AR{area[0]}"], **EXACT)
    for limit in (1, 10, 100):
        assert curves.average_recall(max_detections=limit) == pytest.approx(
            stats[f"AR@{limit}"], **EXACT
        )


def test_renumbering_finds_the_box_that_pycocotools_cannot_see():
    data = annotations({1: [(3, [10, 10, 20, 30])]})
    data["annotations"][0]["id"] = 0
    truth = read_ground_truth(data)
    found = to_detections(
        [{"image_id": 1, "category_id": 3, "bbox": [10, 10, 20, 30], "score": 0.5}]
    )

    assert precision_recall(truth, found).average_precision() == 0.0
    assert precision_recall(with_renumbered_ids(truth), found).average_precision() == pytest.approx(
        1
    )


@pytest.mark.parametrize("federated", [False, True])
def test_no_detection_at_all_gives_zero_and_no_box_at_all_minus_one(library, federated):
    extra = {"neg_category_ids": [], "not_exhaustive_category_ids": []}
    some = read_ground_truth(annotations({1: [(3, [10, 10, 20, 30])]}, **extra))
    none = read_ground_truth(annotations({1: []}, **extra))
    options = {"federated": federated, "library": library}

    nothing_found = precision_recall(some, Detections.empty(), **options)
    nothing_there = precision_recall(none, Detections.empty(), **options)

    assert nothing_found.average_precision() == 0.0
    assert nothing_found.average_precision(category_ids=[7]) == -1.0
    assert nothing_there.average_precision() == -1.0


def test_a_missing_library_is_named():
    with pytest.raises(ImportError, match="needs no_such_library: pip install faster-coco-eval"):
        available_library("no_such_library")


def test_without_the_fast_library_pycocotools_takes_over(monkeypatch):
    find_spec = average_precision.importlib.util.find_spec
    monkeypatch.setattr(
        average_precision.importlib.util,
        "find_spec",
        lambda name: None if name == "faster_coco_eval" else find_spec(name),
    )
    data, results = generate_set(5, 10, 4, 20, seed=6)

    curves = precision_recall(read_ground_truth(data), to_detections(results))

    assert available_library() == "pycocotools"
    assert curves.average_precision() == score_pycocotools(data, results)["AP"]
