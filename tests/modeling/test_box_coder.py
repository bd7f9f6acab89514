"""Boxes as deltas against anchors, and back."""

import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from maskrcnn_benchmark.modeling.rpn.box_coder import BoxCoder
from tests.golden_tools import load_units

coordinate = st.floats(-500, 1500, width=32)
side = st.floats(1, 800, width=32)


@st.composite
def boxes(draw):
    x, y, width, height = draw(coordinate), draw(coordinate), draw(side), draw(side)
    return torch.tensor([[x, y, x + width - 1, y + height - 1]], dtype=torch.float64)


def test_recorded_values_are_reproduced():
    units = {name: torch.from_numpy(array) for name, array in load_units("box_coder").items()}
    coder = BoxCoder()

    encoded = coder.encode(units["boxes"], units["anchors"])
    torch.testing.assert_close(encoded, units["encoded"])
    torch.testing.assert_close(coder.decode(units["deltas"], units["anchors"]), units["decoded"])
    torch.testing.assert_close(coder.decode(encoded, units["anchors"]), units["roundtrip"])


@given(boxes(), boxes())
def test_decoding_undoes_encoding(box, anchor):
    coder = BoxCoder(max_log_scale=math.log(1e4))

    decoded = coder.decode(coder.encode(box, anchor), anchor)

    torch.testing.assert_close(decoded, box, atol=1e-6, rtol=1e-9)


@given(boxes())
def test_zero_deltas_give_the_anchor(anchor):
    torch.testing.assert_close(BoxCoder().decode(torch.zeros_like(anchor), anchor), anchor)


def test_hand_computed_deltas():
    anchor = torch.tensor([[0.0, 0.0, 9.0, 19.0]])
    box = torch.tensor([[5.0, 0.0, 24.0, 39.0]])

    encoded = BoxCoder().encode(box, anchor)

    # Centres 4.5, 9.5 -> 14.5, 19.5; sides 10, 20 -> 20, 40.
    expected = torch.tensor([[10.0, 5.0, 5 * math.log(2), 5 * math.log(2)]])
    torch.testing.assert_close(encoded, expected)


def test_growth_is_limited_and_shrinking_is_not():
    anchor = torch.tensor([[0.0, 0.0, 15.0, 15.0]])
    coder = BoxCoder()

    grown = coder.decode(torch.tensor([[0.0, 0.0, 100.0, 100.0]]), anchor)
    shrunk = coder.decode(torch.tensor([[0.0, 0.0, -100.0, -100.0]]), anchor)

    torch.testing.assert_close(grown[:, 2:] - grown[:, :2] + 1, torch.full((1, 2), 1000.0))
    torch.testing.assert_close(
        shrunk[:, 2:] - shrunk[:, :2] + 1, torch.zeros(1, 2), atol=1e-4, rtol=0
    )


def test_half_precision_deltas_are_decoded_in_float32():
    anchor = torch.tensor([[1001.0, 3.0, 1064.0, 66.0]])

    decoded = BoxCoder().decode(torch.zeros(1, 4, dtype=torch.bfloat16), anchor)

    assert decoded.dtype == torch.float32
    assert torch.equal(decoded, anchor)


def test_no_boxes_give_no_boxes():
    empty = torch.empty(0, 4)

    assert BoxCoder().encode(empty, empty).shape == (0, 4)
    assert BoxCoder().decode(empty, empty).shape == (0, 4)
