"""What counts as a box of an annotation file."""

import pytest

from maskrcnn_benchmark.utils.box_values import is_box


@pytest.mark.parametrize("box", [[0, 0, 1, 1], [0.5, -3, 1e30, 2], (0, 0, 1, 1)])
def test_four_finite_numbers_are_a_box(box):
    assert is_box(box)


@pytest.mark.parametrize(
    "value",
    [
        None,
        5,
        "1234",
        {"x": 1},
        [0, 0, 1],
        ["a", 1, 2, 3],
        [0, 0, 1, None],
        [0, 0, 1, float("nan")],
        [0, 0, 1, float("inf")],
        [0, 0, 1, 1e300],
        [0, 0, 1, [1]],
    ],
)
def test_anything_else_is_none(value):
    assert not is_box(value)
