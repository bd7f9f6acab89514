"""Anchor boxes on a feature pyramid."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from maskrcnn_benchmark.modeling.rpn.anchor_generator import (
    CACHED_GRIDS,
    AnchorGenerator,
    inside_image,
    make_anchor_generator,
    make_cell_anchors,
    make_grid_anchors,
)
from tests.golden_tools import load_case, load_units

STRIDES = (8, 16, 32, 64, 128)


def published():
    return AnchorGenerator([[8 * stride] for stride in STRIDES], [1.0], STRIDES)


def maps(height, width):
    return [torch.empty(1, 1, -(-height // s), -(-width // s)) for s in STRIDES]


class Config(dict):
    __getattr__ = dict.__getitem__


def rpn_config(**changes):
    keys = {
        "ANCHOR_SIZES": (64, 128),
        "ANCHOR_STRIDE": (8, 16),
        "ASPECT_RATIOS": (1.0,),
        "SCALES_PER_OCTAVE": 1,
        "OCTAVE": 2.0,
    }
    return Config(MODEL=Config(RPN=Config({**keys, **changes})))


def test_cell_anchors_of_the_finest_and_the_coarsest_level():
    generator = published()

    assert generator.cell_anchors.state_dict()["0"].tolist() == [[-28, -28, 35, 35]]
    assert generator.cell_anchors.state_dict()["4"].tolist() == [[-448, -448, 575, 575]]


def test_recorded_anchors_are_reproduced():
    units = load_units("anchors")
    height, width = units["padded_hw"].tolist()
    image_height, image_width = units["image_size_hw"].tolist()

    levels = published()(maps(height, width))

    for name, anchors in zip(("p3", "p4", "p5", "p6", "p7"), levels):
        assert len(anchors) == units[f"count.{name}"]
        inside = inside_image(anchors, (image_width, image_height), margin=0)
        assert inside.sum() == units[f"visible.{name}"]
        if name in units:
            assert anchors.numpy().tolist() == units[name].tolist()
        else:
            sample = anchors.reshape(-1)[:: int(units[f"{name}.step"])]
            assert sample.tolist() == units[f"{name}.sample"].tolist()


def test_recorded_anchors_of_a_whole_model_are_reproduced():
    case = load_case("forward", "A_duo")
    batch, sizes = case.images()

    levels = published()(maps(*batch.shape[-2:]))

    for name, anchors in zip(("p3", "p4", "p5", "p6", "p7"), levels):
        case.assert_close(f"anchors.{name}", anchors, atol=0)
    assert sizes


def test_order_is_rows_then_columns_then_anchors_of_a_cell():
    generator = AnchorGenerator([[16, 32]], [1.0], [8])

    (anchors,) = generator([torch.empty(1, 1, 2, 3)])

    centres = ((anchors[:, :2] + anchors[:, 2:]) / 2).tolist()
    assert centres == [[x + 3.5, y + 3.5] for y in (0, 8) for x in (0, 8, 16) for _ in range(2)]
    widths = (anchors[:, 2] - anchors[:, 0] + 1).tolist()
    assert widths == [16, 32] * 6


def test_ratios_come_before_sizes_and_sides_are_rounded_at_cell_size():
    anchors = make_cell_anchors(16, [32, 64], [0.5, 2.0])

    sides = (anchors[:, 2:] - anchors[:, :2] + 1).tolist()
    # sqrt(256 / 0.5) = 22.6 -> 23, 23 * 0.5 = 11.5 -> 12 (half to even); sqrt(128) = 11.3 -> 11.
    assert sides == [[46, 24], [92, 48], [22, 44], [44, 88]]


@given(st.integers(1, 6), st.integers(1, 6), st.sampled_from(STRIDES))
def test_every_anchor_is_the_first_moved_by_whole_strides(height, width, stride):
    cell = make_cell_anchors(stride, [8 * stride], [1.0])

    anchors = make_grid_anchors(cell, stride, (height, width)).view(height, width, 4)

    for row in range(height):
        for column in range(width):
            shift = torch.tensor([column, row, column, row]) * stride
            assert torch.equal(anchors[row, column], cell[0] + shift)


def test_buffers_are_named_as_in_published_checkpoints():
    assert list(published().state_dict()) == [f"cell_anchors.{level}" for level in range(5)]


def test_the_same_sizes_give_the_cached_grid():
    generator = published()

    first = generator(maps(256, 320))
    again = generator(maps(256, 320))

    assert all(a is b for a, b in zip(first, again))


def test_the_cache_forgets_the_size_used_longest_ago():
    generator = AnchorGenerator([[8]], [1.0], [8])
    first = generator([torch.empty(1, 1, 1, 1)])[0]
    for width in range(2, CACHED_GRIDS + 2):
        generator([torch.empty(1, 1, 1, width)])

    assert len(generator._grids) == CACHED_GRIDS
    assert generator([torch.empty(1, 1, 1, 1)])[0] is not first


def test_loading_other_cell_anchors_changes_the_grid():
    generator = AnchorGenerator([[8]], [1.0], [8])
    generator([torch.empty(1, 1, 1, 1)])

    generator.load_state_dict({"cell_anchors.0": torch.tensor([[1.0, 2.0, 3.0, 4.0]])})

    assert generator([torch.empty(1, 1, 1, 1)])[0].tolist() == [[1, 2, 3, 4]]


def test_a_half_precision_model_keeps_exact_anchors():
    generator = published().to(torch.bfloat16)

    assert generator.cell_anchors.state_dict()["4"].tolist() == [[-448, -448, 575, 575]]
    assert generator(maps(64, 64))[0].dtype == torch.float32


def test_a_negative_margin_makes_every_anchor_count_as_inside():
    anchors = torch.tensor([[-50.0, -50.0, 500.0, 500.0], [0.0, 0.0, 9.0, 9.0]])

    assert inside_image(anchors, (10, 10), margin=-1).all()
    assert inside_image(anchors, (10, 10)).tolist() == [False, True]


def test_a_missing_level_is_refused():
    with pytest.raises(ValueError, match="4 feature maps for anchors on 5 levels"):
        published()(maps(64, 64)[:4])


def test_sizes_and_strides_of_different_length_are_refused():
    with pytest.raises(ValueError, match="sizes and strides"):
        AnchorGenerator([[8]], [1.0], [8, 16])


def test_the_builder_spreads_sizes_over_an_octave():
    generator = make_anchor_generator(rpn_config(SCALES_PER_OCTAVE=2, OCTAVE=4.0))

    assert generator.anchors_per_location == [2, 2]
    sides = [(cell[:, 2] - cell[:, 0] + 1).tolist() for cell in generator.cell_anchors]
    assert sides == [[64, 128], [128, 256]]


def test_the_builder_names_keys_that_do_not_fit():
    with pytest.raises(ValueError, match=r"MODEL\.RPN\.ANCHOR_STRIDE"):
        make_anchor_generator(rpn_config(ANCHOR_STRIDE=(16,)))
