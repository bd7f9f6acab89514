"""Losses on the overlap of boxes."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from maskrcnn_benchmark.layers.iou_loss import generalized_iou, giou_loss
from maskrcnn_benchmark.modeling.rpn.box_coder import BoxCoder
from tests.golden_tools import load_units


@st.composite
def boxes(draw):
    coordinates = st.floats(0, 1000, width=32)
    x1, x2 = sorted((draw(coordinates), draw(coordinates)))
    y1, y2 = sorted((draw(coordinates), draw(coordinates)))
    return torch.tensor([x1, y1, x2, y2], dtype=torch.float64)


def test_recorded_loss_and_gradient_are_reproduced():
    units = {name: torch.from_numpy(array) for name, array in load_units("giou_loss").items()}
    coder = BoxCoder()
    targets = coder.decode(units["target_deltas"], units["anchors"])

    for name, weight in (("weighted", units["weight"]), ("plain", 1.0)):
        deltas = units["pred_deltas"].clone().requires_grad_()
        loss = (giou_loss(coder.decode(deltas, units["anchors"]), targets) * weight).sum()
        loss.backward()

        torch.testing.assert_close(loss.detach(), units[f"loss_{name}"], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(deltas.grad, units[f"grad_{name}"], rtol=1e-4, atol=1e-5)


@given(boxes(), boxes())
def test_giou_lies_between_minus_one_and_one_and_is_symmetric(a, b):
    value = generalized_iou(a, b)

    assert -1 <= value <= 1
    torch.testing.assert_close(value, generalized_iou(b, a), atol=1e-9, rtol=1e-9)


def test_equal_boxes_cost_nothing_and_disjoint_boxes_more_than_one():
    box = torch.tensor([10.0, 20.0, 50.0, 60.0])

    assert giou_loss(box, box).abs() < 1e-6
    assert giou_loss(box, box + 100) > 1


def test_hand_computed_value_without_inclusive_corners():
    first, second = torch.tensor([0.0, 0.0, 2.0, 2.0]), torch.tensor([1.0, 1.0, 3.0, 3.0])

    # Intersection 1, union 7, enclosing 9.
    torch.testing.assert_close(generalized_iou(first, second), torch.tensor(1 / 7 - 2 / 9))


def test_a_box_turned_inside_out_has_no_area():
    target = torch.tensor([0.0, 0.0, 10.0, 10.0])

    inverted = generalized_iou(torch.tensor([8.0, 8.0, 2.0, 2.0]), target)

    torch.testing.assert_close(inverted, generalized_iou(torch.tensor([8.0] * 4), target))


def test_two_equal_points_have_a_finite_gradient():
    point = torch.tensor([5.0, 5.0, 5.0, 5.0], requires_grad=True)

    giou_loss(point, point.detach()).backward()

    assert point.grad.isfinite().all()


def test_no_boxes_give_an_empty_loss():
    assert giou_loss(torch.empty(0, 4), torch.empty(0, 4)).shape == (0,)
