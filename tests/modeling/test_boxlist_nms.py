"""Suppression and merging of overlapping boxes in a BoxList."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from maskrcnn_benchmark.modeling.boxlist_nms import (
    boxlist_ml_nms,
    boxlist_nms,
    boxlist_soft_nms,
    boxlist_soft_voting,
    boxlist_voting,
)
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.boxlist_ops import boxlist_iou
from tests.golden_tools import load_units


def box_list(boxes, scores, labels=None, mode="xyxy"):
    result = BoxList(torch.as_tensor(boxes, dtype=torch.float32).reshape(-1, 4), (1000, 1000), mode)
    result.add_field("scores", torch.as_tensor(scores, dtype=torch.float32))
    labels = torch.ones(len(result), dtype=torch.int64) if labels is None else labels
    result.add_field("labels", torch.as_tensor(labels))
    return result


def recorded():
    units = load_units("nms")
    return units, box_list(units["boxes"], units["scores"], units["labels"])


def assert_rows(found, boxes, scores):
    """Same boxes and scores, whatever the order among equals."""
    expected = torch.cat((torch.from_numpy(boxes), torch.from_numpy(scores)[:, None]), 1)
    actual = torch.cat((found.bbox, found.get_field("scores")[:, None]), 1)
    assert actual.shape == expected.shape

    def order(rows):
        return sorted(rows.tolist(), key=lambda row: (-round(row[4], 5), *row))

    torch.testing.assert_close(
        torch.tensor(order(actual)), torch.tensor(order(expected)), atol=1e-4, rtol=1e-5
    )


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.6])
def test_recorded_survivors_per_label_are_reproduced(threshold):
    units, boxes = recorded()
    boxes.add_field("row", torch.arange(len(boxes)))

    kept = boxlist_ml_nms(boxes, threshold)

    assert sorted(kept.get_field("row").tolist()) == units[f"ml_nms.{threshold}"].tolist()
    assert kept.get_field("scores").diff().max() <= 0


def test_recorded_plain_survivors_are_reproduced():
    units, boxes = recorded()
    boxes.add_field("row", torch.arange(len(boxes)))

    kept = boxlist_nms(boxes, 0.5).get_field("row")

    assert sorted(kept.tolist()) == sorted(units["plain_nms.0.5"].tolist())


@pytest.mark.parametrize("threshold", [0.05, 0.3, 0.6])
def test_recorded_soft_suppression_is_reproduced(threshold):
    units, boxes = recorded()
    boxes.add_field("row", torch.arange(len(boxes)))

    kept = boxlist_soft_nms(boxes, threshold)

    assert kept.get_field("row").tolist() == units[f"soft_nms.{threshold}.keep"].tolist()
    expected = torch.from_numpy(units[f"soft_nms.{threshold}.scores"])
    torch.testing.assert_close(kept.get_field("scores"), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("threshold", [0.5, 0.65])
def test_recorded_voting_is_reproduced(threshold):
    units, boxes = recorded()

    voted = boxlist_voting(boxes, threshold)
    soft = boxlist_soft_voting(boxes, threshold, score_floor=float(units["soft_vote_floor"]))

    assert_rows(voted, units[f"vote.{threshold}.boxes"], units[f"vote.{threshold}.scores"])
    assert_rows(soft, units[f"soft_vote.{threshold}.boxes"], units[f"soft_vote.{threshold}.scores"])


def test_voting_moves_a_cluster_to_its_weighted_mean():
    boxes = box_list([[0, 0, 9, 9], [2, 0, 11, 9], [50, 50, 59, 59]], [0.6, 0.3, 0.5])

    voted = boxlist_voting(boxes, 0.5)

    expected = torch.tensor([[2 / 3, 0, 9 + 2 / 3, 9], [50.0, 50, 59, 59]])
    torch.testing.assert_close(voted.bbox, expected)
    torch.testing.assert_close(voted.get_field("scores"), torch.tensor([0.6, 0.5]))


def test_soft_voting_lets_outvoted_boxes_stay_with_less():
    boxes = box_list([[0, 0, 9, 9], [2, 0, 11, 9]], [0.6, 0.3])

    soft = boxlist_soft_voting(boxes, 0.5, score_floor=0.05)

    # Overlap 80 / 120.
    torch.testing.assert_close(soft.get_field("scores"), torch.tensor([0.6, 0.1]))
    assert soft.bbox[1].tolist() == [2, 0, 11, 9]
    assert len(boxlist_soft_voting(boxes, 0.5, score_floor=0.2)) == 1


def test_a_score_below_the_threshold_makes_no_detection_of_the_soft_kind_but_the_best_stays():
    boxes = box_list([[0, 0, 9, 9], [2, 0, 11, 9]], [0.5, 0.4])

    assert len(boxlist_soft_nms(boxes, score_threshold=0.6)) == 1


@st.composite
def random_boxes(draw):
    count = draw(st.integers(0, 25))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    corner = torch.rand(count, 2, generator=generator) * 60
    side = 5 + torch.rand(count, 2, generator=generator) * 40
    labels = torch.randint(1, 4, (count,), generator=generator)
    scores = torch.rand(count, generator=generator)
    return box_list(torch.cat((corner, corner + side), 1), scores, labels)


@given(random_boxes(), st.sampled_from([0.3, 0.5, 0.7]))
def test_suppressing_twice_changes_nothing(boxes, threshold):
    for suppress in (boxlist_nms, boxlist_ml_nms):
        once = suppress(boxes, threshold)
        twice = suppress(once, threshold)
        assert torch.equal(once.bbox, twice.bbox)


@given(random_boxes(), st.sampled_from([0.3, 0.5, 0.7]))
def test_survivors_of_a_label_do_not_overlap_and_the_rest_overlaps_a_better_one(boxes, threshold):
    kept = boxlist_ml_nms(boxes, threshold)

    same_label = kept.get_field("labels")[:, None] == kept.get_field("labels")
    overlap = boxlist_iou(kept, kept)
    others = ~torch.eye(len(kept), dtype=torch.bool)
    assert (overlap[same_label & others] <= threshold + 1e-6).all()
    to_kept = boxlist_iou(boxes, kept)
    covers = (
        (boxes.get_field("labels")[:, None] == kept.get_field("labels"))
        & (boxes.get_field("scores")[:, None] <= kept.get_field("scores"))
        & ((to_kept > threshold - 1e-6) | (to_kept > 1 - 1e-6))
    )
    assert covers.any(dim=1).all()


@given(random_boxes(), st.sampled_from([0.3, 0.5, 0.7]))
def test_voting_gives_one_box_per_cluster_inside_the_hull(boxes, threshold):
    voted = boxlist_voting(boxes, threshold)

    assert len(voted) <= len(boxes)
    if len(boxes):
        assert voted.get_field("scores")[0] == boxes.get_field("scores").max()
        assert (voted.bbox >= boxes.bbox.amin(dim=0) - 1e-3).all()
        assert (voted.bbox <= boxes.bbox.amax(dim=0) + 1e-3).all()


def test_no_boxes_stay_no_boxes():
    empty = box_list([], [])

    for merged in (
        boxlist_nms(empty, 0.5),
        boxlist_ml_nms(empty, 0.5),
        boxlist_soft_nms(empty, 0.5),
        boxlist_voting(empty, 0.5),
        boxlist_soft_voting(empty, 0.5),
    ):
        assert len(merged) == 0
        assert merged.fields() == ["scores", "labels"]


def test_a_threshold_of_zero_keeps_everything():
    boxes = box_list([[0, 0, 9, 9], [0, 0, 9, 9]], [0.5, 0.4])

    assert boxlist_nms(boxes, 0) is boxes
    assert boxlist_ml_nms(boxes, -1) is boxes


def test_a_limit_keeps_the_best():
    boxes = box_list([[0, 0, 9, 9], [20, 0, 29, 9], [40, 0, 49, 9]], [0.2, 0.9, 0.5])

    assert boxlist_nms(boxes, 0.5, max_proposals=2).bbox[:, 0].tolist() == [20, 40]
    assert boxlist_ml_nms(boxes, 0.5, max_proposals=2).bbox[:, 0].tolist() == [20, 40]


def test_boxes_come_back_in_the_mode_they_came_in():
    boxes = box_list([[0, 0, 10, 10], [2, 0, 10, 10]], [0.6, 0.3], mode="xywh")

    for merged in (
        boxlist_nms(boxes, 0.5),
        boxlist_ml_nms(boxes, 0.5),
        boxlist_soft_nms(boxes, 0.1),
        boxlist_voting(boxes, 0.5),
        boxlist_soft_voting(boxes, 0.5),
    ):
        assert merged.mode == "xywh"
    torch.testing.assert_close(boxlist_voting(boxes, 0.5).bbox, torch.tensor([[2 / 3, 0, 10, 10]]))


def test_overlap_equal_to_the_threshold_is_kept_with_inclusive_pixels():
    boxes = box_list([[0, 0, 9, 9], [0, 0, 9, 4]], [0.6, 0.3])

    assert len(boxlist_ml_nms(boxes, 0.5)) == 2
    assert len(boxlist_ml_nms(boxes, 0.49)) == 1
