"""Recall of class-free proposals."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from maskrcnn_benchmark.evaluation.ground_truth import read_ground_truth
from maskrcnn_benchmark.evaluation.proposals import ProposalEvaluator, greedy_overlaps
from maskrcnn_benchmark.structures.bounding_box import BoxList
from tests.evaluation.box_sets import annotations, prediction

SMALL, LARGE = [10.0, 10.0, 20.0, 20.0], [40.0, 20.0, 100.0, 100.0]
SMALL_CORNERS, LARGE_CORNERS = [10.0, 10.0, 29.0, 29.0], [40.0, 20.0, 139.0, 119.0]


def summarize(data, predictions, **options):
    evaluator = ProposalEvaluator(read_ground_truth(data), **options)
    evaluator.update(predictions)
    return evaluator.summarize()


def test_perfect_proposals_reach_every_box_and_areas_are_told_apart(tmp_path):
    data = annotations({1: [(3, SMALL), (7, LARGE)]})

    result = summarize(
        data,
        {1: prediction((1, 0.9, SMALL_CORNERS), (1, 0.8, LARGE_CORNERS))},
        output_folder=tmp_path,
    )

    metrics = result["metrics"]
    assert [metrics[f"AR{area}@100"] for area in ("", "s", "l")] == [1.0, 1.0, 1.0]
    assert np.isnan(metrics["ARm@100"]), "there is no box of medium area"
    stored = torch.load(tmp_path / "box_proposals.pth", weights_only=True)
    assert stored["box_proposal"]["AR@1000"] == 1.0
    written = json.loads((tmp_path / "box_proposals.json").read_text())
    assert written["box_proposal"]["ARm@100"] is None


def test_one_proposal_reaches_one_box_only():
    data = annotations({1: [(3, SMALL), (7, SMALL)]})

    assert summarize(data, {1: prediction((1, 0.9, SMALL_CORNERS))})["value"] == 0.5


def test_recall_falls_with_the_overlap_that_is_asked_for():
    # 20 of 25 columns: IoU 0.8 is asked for by the thresholds 0.50 to 0.80, 7 of 10.
    wide = prediction((1, 0.9, [10.0, 10.0, 34.0, 29.0]))

    assert summarize(annotations({1: [(3, SMALL)]}), {1: wide})["value"] == pytest.approx(0.7)


def test_crowd_regions_are_not_asked_for():
    data = annotations({1: [(3, SMALL), (7, LARGE)]})
    data["annotations"][1]["iscrowd"] = 1

    assert summarize(data, {1: prediction((1, 0.9, SMALL_CORNERS))})["value"] == 1.0


def test_the_best_hundred_by_objectness_count():
    boxes = BoxList(torch.tensor([SMALL_CORNERS, *[LARGE_CORNERS] * 100]), (200, 160))
    boxes.add_field("objectness", torch.tensor([0.1] + [0.9] * 100))
    boxes.add_field("scores", torch.tensor([0.9] + [0.1] * 100))

    metrics = summarize(annotations({1: [(3, SMALL)]}), {1: boxes})["metrics"]

    assert metrics["AR@100"] == 0.0
    assert metrics["AR@1000"] == 1.0


def test_a_missing_image_counts_with_its_boxes():
    data = annotations({1: [(3, SMALL)], 2: [(3, SMALL)]})

    assert summarize(data, {1: prediction((1, 0.9, SMALL_CORNERS))})["value"] == 0.5


boxes_strategy = st.lists(
    st.tuples(*[st.integers(0, 12)] * 2, *[st.integers(1, 8)] * 2), min_size=1, max_size=6
).map(lambda rows: np.array([[x, y, x + w, y + h] for x, y, w, h in rows], np.float64))


@given(boxes_strategy, boxes_strategy)
def test_greedy_pairing_uses_each_side_once_and_starts_with_the_best(proposals, boxes):
    overlaps = greedy_overlaps(proposals, boxes)

    assert len(overlaps) == min(len(proposals), len(boxes))
    assert (np.diff(overlaps) <= 0).all()
    assert (overlaps >= 0).all()
    assert (overlaps <= 1).all()
