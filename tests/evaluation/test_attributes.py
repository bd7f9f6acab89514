"""Accuracy per attribute: what the best detection on each annotated box gets right."""

import numpy as np
import pytest

from maskrcnn_benchmark.evaluation.attributes import attribute_accuracies
from maskrcnn_benchmark.evaluation.coco import CocoEvaluator
from maskrcnn_benchmark.evaluation.detections import Detections
from maskrcnn_benchmark.evaluation.ground_truth import read_ground_truth
from tests.evaluation.box_sets import annotations

KINDS = {3: ("star", "red"), 7: ("star", "blue"), 9: ("ring", "red")}
BOXES = {5: [(3, [0.0, 0.0, 40.0, 40.0]), (9, [100.0, 40.0, 20.0, 20.0])]}


def world(boxes=BOXES):
    data = annotations(boxes)
    for category in data["categories"]:
        shape, colour = KINDS[category["id"]]
        category["attributes"] = {"shape": shape, "colour": colour}
    return read_ground_truth(data, "gt.json")


def found(*rows):
    """Detections as (image id, category, score, box)."""
    return Detections.from_rows(
        np.array([row[0] for row in rows], np.int64),
        np.array([row[3] for row in rows], float),
        np.array([row[2] for row in rows]),
        np.array([row[1] for row in rows]),
    )


def test_each_attribute_is_counted_on_its_own():
    accuracies = attribute_accuracies(
        world(), found((5, 7, 0.9, [1, 1, 40, 40]), (5, 9, 0.8, [100, 40, 20, 20]))
    )

    assert accuracies == {
        "acc_shape": 1.0,
        "acc_colour": 0.5,
        "acc_all": 0.5,
        "acc_found": 1.0,
    }


def test_the_highest_score_on_a_box_decides():
    accuracies = attribute_accuracies(
        world(), found((5, 3, 0.4, [0, 0, 40, 40]), (5, 9, 0.5, [0, 0, 38, 40]))
    )

    assert accuracies["acc_shape"] == 0.0
    assert accuracies["acc_colour"] == 0.5


def test_a_box_that_nothing_overlaps_is_wrong_in_everything():
    accuracies = attribute_accuracies(world(), found((5, 3, 0.9, [0, 0, 40, 40])))

    assert accuracies["acc_found"] == accuracies["acc_shape"] == accuracies["acc_all"] == 0.5


def test_detections_of_other_images_do_not_count():
    data = world({**BOXES, 8: [(3, [0.0, 0.0, 10.0, 10.0])]})

    accuracies = attribute_accuracies(data, found((8, 3, 0.9, [0, 0, 40, 40])))

    assert accuracies["acc_found"] == 0.0


def test_categories_without_attributes_have_no_such_numbers():
    ground_truth = read_ground_truth(annotations(BOXES), "gt.json")

    assert attribute_accuracies(ground_truth, Detections.empty()) == {}


def test_detections_of_unknown_classes_do_not_count():
    accuracies = attribute_accuracies(
        world(), found((5, 3, 0.5, [0, 0, 40, 40]), (5, 1, 0.9, [0, 0, 40, 40]))
    )

    assert accuracies["acc_all"] == 0.5


def test_the_coco_evaluator_reports_them_beside_ap():
    evaluator = CocoEvaluator(world())
    evaluator.update_from_rows(found((5, 7, 0.9, [0, 0, 40, 40])))

    result = evaluator.summarize()

    assert result["metrics"]["acc_shape"] == pytest.approx(0.5)
    assert result["metrics"]["acc_colour"] == 0.0
    assert "acc_shape" in result["table"]
