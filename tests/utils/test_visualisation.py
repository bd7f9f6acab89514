import numpy as np
import pytest
from PIL import Image

from maskrcnn_benchmark.utils.visualisation import draw_detections, enlarge_small, label_colour


def test_colours_follow_the_published_formula():
    assert label_colour(1) == (1, 127, 31)
    assert label_colour(2) == (31, 112, 196)


def test_the_box_is_drawn_in_its_colour_and_the_picture_is_not_changed():
    image = Image.new("RGB", (700, 500), (128, 128, 128))
    drawn = draw_detections(image, [(100, 100, 300, 200)], [""], [(255, 0, 0)])
    assert drawn.getpixel((200, 100)) == (255, 0, 0)
    assert np.asarray(image).std() == 0


def test_alpha_zero_shows_the_picture_only():
    image = Image.new("RGB", (700, 500), (128, 128, 128))
    drawn = draw_detections(image, [(100, 100, 300, 200)], ["cat"], [(255, 0, 0)], alpha=0.0)
    assert np.asarray(drawn).std() == 0


def test_labels_of_boxes_at_one_place_do_not_hide_each_other():
    image = Image.new("RGB", (700, 500), (128, 128, 128))
    colours = [label_colour(n + 1) for n in range(4)]
    drawn = draw_detections(image, [(100, 100, 300, 200)] * 4, ["a rabbit"] * 4, colours)
    found = {c for _, c in drawn.getcolors(maxcolors=1 << 20) if c in set(colours)}
    assert found == set(colours)


@pytest.mark.parametrize(
    "box", [(-50, -50, 9000, 9000), (10, 10, 10, 10), (30, 30, 5, 5), (698, 498, 699, 499)]
)
def test_odd_boxes_are_drawn_inside_the_picture(box):
    image = Image.new("RGB", (700, 500))
    assert draw_detections(image, [box], ["thing"], [(0, 255, 0)]).size == (700, 500)


def test_small_pictures_are_enlarged_by_a_whole_factor_with_their_boxes():
    image, boxes = enlarge_small(Image.new("RGB", (200, 100)), [(1, 2, 3, 4)])
    assert image.size == (800, 400)
    assert boxes == [[4, 8, 12, 16]]


def test_lengths_that_disagree_are_refused():
    with pytest.raises(ValueError, match="1 boxes, 0 captions"):
        draw_detections(Image.new("RGB", (10, 10)), [(0, 0, 1, 1)], [], [(0, 0, 0)])
