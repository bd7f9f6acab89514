"""BoxList: geometry against recorded numbers, and the laws that it keeps."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from maskrcnn_benchmark.structures.bounding_box import FLIP_LEFT_RIGHT, FLIP_TOP_BOTTOM, BoxList

WIDTH, HEIGHT = 320, 240


@pytest.fixture(scope="module")
def recorded(golden_dir):
    with np.load(golden_dir / "glip/units/box_ops.npz") as file:
        return {name: torch.from_numpy(file[name]) for name in file}


@pytest.fixture
def boxes(recorded):
    return BoxList(recorded["boxes"].clone(), (WIDTH, HEIGHT))


@st.composite
def box_lists(draw):
    """Integer boxes inside an image, so that geometry is exact in float32."""
    width, height = draw(st.integers(2, 500)), draw(st.integers(2, 500))
    rows = []
    for _ in range(draw(st.integers(0, 5))):
        x = sorted(draw(st.tuples(st.integers(0, width - 1), st.integers(0, width - 1))))
        y = sorted(draw(st.tuples(st.integers(0, height - 1), st.integers(0, height - 1))))
        rows.append([x[0], y[0], x[1], y[1]])
    return BoxList(torch.tensor(rows, dtype=torch.float32).reshape(-1, 4), (width, height))


def test_area_and_conversion_equal_the_recorded_ones(boxes, recorded):
    torch.testing.assert_close(boxes.area(), recorded["area"])
    xywh = boxes.convert("xywh")
    torch.testing.assert_close(xywh.bbox, recorded["xywh"])
    torch.testing.assert_close(xywh.convert("xyxy").bbox, recorded["back"])
    torch.testing.assert_close(xywh.area(), recorded["area"])


def test_resize_equals_the_recorded_one_with_different_and_with_equal_ratios(boxes, recorded):
    torch.testing.assert_close(boxes.resize((640, 300)).bbox, recorded["resize"])
    torch.testing.assert_close(boxes.resize((640, 480)).bbox, recorded["resize_iso"])
    assert boxes.resize((640, 300)).size == (640, 300)


def test_flips_equal_the_recorded_ones(boxes, recorded):
    torch.testing.assert_close(boxes.transpose(FLIP_LEFT_RIGHT).bbox, recorded["flip_lr"])
    torch.testing.assert_close(boxes.transpose(FLIP_TOP_BOTTOM).bbox, recorded["flip_tb"])


def test_clipping_equals_the_recorded_one(recorded):
    kept = BoxList(recorded["raw"].clone(), (WIDTH, HEIGHT)).clip_to_image(remove_empty=False)
    torch.testing.assert_close(kept.bbox, recorded["clip_keep"])
    removed = BoxList(recorded["raw"].clone(), (WIDTH, HEIGHT)).clip_to_image()
    torch.testing.assert_close(removed.bbox, recorded["clip"])


def test_clipping_changes_the_list_but_not_the_tensor_that_it_was_made_of():
    tensor = torch.tensor([[-5.0, 0.0, 400.0, 10.0]])
    boxes = BoxList(tensor, (WIDTH, HEIGHT))
    boxes.clip_to_image()
    assert boxes.bbox.tolist() == [[0, 0, 319, 10]]
    assert tensor.tolist() == [[-5, 0, 400, 10]]


def test_resizing_xywh_boxes_by_one_ratio_multiplies_width_and_height():
    boxes = BoxList([[10, 20, 30, 40]], (100, 100), "xywh").resize((200, 200))
    assert boxes.bbox.tolist() == [[20, 40, 60, 80]] and boxes.mode == "xywh"


def test_a_width_of_zero_covers_one_pixel():
    assert BoxList([[4, 5, 0, 0]], (10, 10), "xywh").convert("xyxy").bbox.tolist() == [[4, 5, 4, 5]]


def test_crop_shifts_clamps_and_keeps_boxes_that_became_empty():
    boxes = BoxList([[10, 10, 50, 60], [0, 0, 5, 5]], (100, 100))
    cropped = boxes.crop((20, 30, 40, 80))
    assert cropped.bbox.tolist() == [[0, 0, 20, 30], [0, 0, 0, 0]]
    assert cropped.size == (20, 50)


@given(box_lists())
@settings(max_examples=50, deadline=None)
def test_mirroring_twice_gives_the_boxes_back_and_keeps_areas(boxes):
    mirrored = boxes.transpose(FLIP_LEFT_RIGHT)
    assert torch.equal(mirrored.area(), boxes.area())
    assert torch.equal(mirrored.transpose(FLIP_LEFT_RIGHT).bbox, boxes.bbox)


@given(box_lists())
@settings(max_examples=50, deadline=None)
def test_converting_there_and_back_changes_nothing(boxes):
    assert torch.equal(boxes.convert("xywh").convert("xyxy").bbox, boxes.bbox)


@given(box_lists())
@settings(max_examples=50, deadline=None)
def test_boxes_inside_the_image_survive_clipping_unless_a_side_is_zero(boxes):
    extent = boxes.bbox[:, 2:] - boxes.bbox[:, :2]
    expected = boxes.bbox[(extent > 0).all(dim=1)]
    assert torch.equal(boxes.clip_to_image().bbox, expected)


def test_indexing_selects_rows_of_tensors_and_lists_alike():
    boxes = BoxList(torch.arange(12.0).reshape(3, 4), (50, 50))
    boxes.add_field("labels", torch.tensor([1, 2, 3]))
    boxes.add_field("phrases", ["cat", "dog", "bird"])

    by_mask = boxes[torch.tensor([True, False, True])]
    assert by_mask.get_field("labels").tolist() == [1, 3]
    assert by_mask.get_field("phrases") == ["cat", "bird"]
    assert boxes[torch.tensor([2, 0])].get_field("phrases") == ["bird", "cat"]
    assert boxes[1:].get_field("phrases") == ["dog", "bird"]
    assert boxes[-1].bbox.tolist() == [[8, 9, 10, 11]]


def test_indexing_names_the_field_that_has_no_rows():
    boxes = BoxList([[0, 0, 1, 1]], (5, 5))
    boxes.add_field("image_id", 17)
    with pytest.raises(TypeError, match="image_id"):
        boxes[torch.tensor([0])]


def test_geometry_names_the_field_that_cannot_follow():
    boxes = BoxList([[0, 0, 1, 1]], (5, 5))
    boxes.add_field("caption", "a cat")
    with pytest.raises(TypeError, match="caption"):
        boxes.resize((10, 10))


def test_fields_follow_geometry_and_missing_ones_are_named():
    boxes = BoxList([[0, 0, 1, 1]], (5, 5))
    boxes.add_field("scores", torch.tensor([0.5]))
    assert boxes.resize((10, 10)).get_field("scores").tolist() == [0.5]
    copy = boxes.copy_with_fields(["scores", "labels"], skip_missing=True)
    assert copy.fields() == ["scores"] and copy.bbox is boxes.bbox
    with pytest.raises(KeyError, match="scores"):
        boxes.get_field("labels")
    with pytest.raises(KeyError, match="labels"):
        boxes.copy_with_fields("labels")


def test_an_empty_list_goes_through_everything():
    boxes = BoxList([], (10, 20))
    for result in (
        boxes.convert("xywh"),
        boxes.resize((7, 9)),
        boxes.transpose(FLIP_LEFT_RIGHT),
        boxes.crop((1, 1, 5, 5)),
        boxes.clip_to_image(),
        boxes.to("cpu"),
    ):
        assert len(result) == 0 and result.bbox.shape == (0, 4)
    assert boxes.area().shape == (0,)


@pytest.mark.parametrize("bbox", [[1, 2, 3, 4], [[1, 2, 3]], torch.zeros(2, 2, 4)])
def test_a_wrong_shape_is_refused(bbox):
    with pytest.raises(ValueError, match="num_boxes, 4"):
        BoxList(bbox, (10, 10))


def test_an_unknown_mode_is_refused():
    with pytest.raises(ValueError, match="cxcywh"):
        BoxList([], (10, 10), "cxcywh")
    with pytest.raises(ValueError, match="cxcywh"):
        BoxList([], (10, 10)).convert("cxcywh")


def test_integers_and_doubles_become_float32():
    assert BoxList(np.ones((2, 4)), (10, 10)).bbox.dtype == torch.float32
    assert BoxList(torch.ones(2, 4, dtype=torch.int64), (10, 10)).bbox.dtype == torch.float32


def test_a_type_reaches_the_fields_and_no_box():
    boxes = BoxList([[0, 0, 1023.7, 2047.9]], (4000, 4000))
    boxes.add_field("scores", torch.tensor([0.3]))

    half = boxes.to(torch.float16)

    assert torch.equal(half.bbox, boxes.bbox)
    assert half.get_field("scores").dtype == torch.float16


def test_concate_box_list_joins_boxes_and_fields():
    first, second = (BoxList(torch.full((n, 4), float(n)), (9, 9)) for n in (1, 2))
    for boxes in (first, second):
        boxes.add_field("labels", torch.full((len(boxes),), len(boxes)))
    joined = BoxList.concate_box_list([first, second])
    assert joined.get_field("labels").tolist() == [1, 2, 2] and len(joined) == 3
