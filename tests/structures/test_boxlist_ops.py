"""Functions on boxes."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from maskrcnn_benchmark.structures import BoxList, boxlist_iou, cat_boxlist, remove_small_boxes
from maskrcnn_benchmark.structures.boxlist_ops import box_iou


@pytest.fixture(scope="module")
def recorded(golden_dir):
    with np.load(golden_dir / "glip/units/box_ops.npz") as file:
        return {name: torch.from_numpy(file[name]) for name in file}


def boxes_strategy(max_boxes=4):
    corner = st.integers(0, 30)
    row = st.tuples(corner, corner, corner, corner).map(
        lambda r: [min(r[0], r[2]), min(r[1], r[3]), max(r[0], r[2]), max(r[1], r[3])]
    )
    return st.lists(row, max_size=max_boxes).map(
        lambda rows: torch.tensor(rows, dtype=torch.float32).reshape(-1, 4)
    )


def test_overlaps_and_small_boxes_equal_the_recorded_ones(recorded):
    boxes = BoxList(recorded["boxes"], (320, 240))
    other = BoxList(recorded["other"], (320, 240))
    torch.testing.assert_close(boxlist_iou(boxes, other), recorded["iou"])
    assert torch.equal(remove_small_boxes(boxes, 60).bbox, recorded["small"])


@given(boxes_strategy(), boxes_strategy())
@settings(max_examples=50, deadline=None)
def test_overlap_equals_counting_pixels(boxes1, boxes2):
    def pixels(box):
        x1, y1, x2, y2 = map(int, box)
        return {(x, y) for x in range(x1, x2 + 1) for y in range(y1, y2 + 1)}

    iou = box_iou(boxes1, boxes2)
    assert iou.shape == (len(boxes1), len(boxes2))
    for i, first in enumerate(boxes1):
        for j, second in enumerate(boxes2):
            a, b = pixels(first), pixels(second)
            assert iou[i, j].item() == pytest.approx(len(a & b) / len(a | b), abs=1e-6)


def test_overlap_of_different_images_is_refused():
    with pytest.raises(ValueError, match="different size"):
        boxlist_iou(BoxList([], (10, 10)), BoxList([], (10, 11)))


def test_small_means_pixels_with_both_ends():
    boxes = BoxList([[0, 0, 8, 9], [0, 0, 9, 9]], (20, 20))
    assert remove_small_boxes(boxes, 10).bbox.tolist() == [[0, 0, 9, 9]]


def test_concatenation_joins_boxes_tensors_and_lists():
    lists = []
    for count in (1, 0, 2):
        boxes = BoxList(torch.zeros(count, 4), (10, 10))
        boxes.add_field("scores", torch.full((count,), float(count)))
        boxes.add_field("phrases", ["cat"] * count)
        lists.append(boxes)
    joined = cat_boxlist(lists)
    assert joined.get_field("scores").tolist() == [1, 2, 2]
    assert joined.get_field("phrases") == ["cat"] * 3


def test_one_list_is_not_copied():
    boxes = BoxList(torch.zeros(2, 4), (10, 10))
    assert cat_boxlist([boxes]).bbox is boxes.bbox


@pytest.mark.parametrize(
    ("other", "what"),
    [
        (BoxList([], (10, 11)), "size"),
        (BoxList([], (10, 10), "xywh"), "mode"),
    ],
)
def test_lists_that_do_not_belong_together_are_refused(other, what):
    with pytest.raises(ValueError, match=what):
        cat_boxlist([BoxList([], (10, 10)), other])


def test_lists_with_other_fields_and_no_lists_are_refused():
    other = BoxList([], (10, 10))
    other.add_field("scores", torch.zeros(0))
    with pytest.raises(ValueError, match="scores"):
        cat_boxlist([BoxList([], (10, 10)), other])
    with pytest.raises(ValueError, match="at least one"):
        cat_boxlist([])
