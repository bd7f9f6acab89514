"""Batches of images of different size."""

import pytest
import torch

from maskrcnn_benchmark.structures import ImageList, to_image_list


def test_images_are_padded_at_the_right_and_the_bottom_to_the_multiple():
    images = to_image_list([torch.ones(3, 20, 40), torch.ones(3, 33, 10)], size_divisible=32)
    assert images.tensors.shape == (2, 3, 64, 64)
    assert images.image_sizes == [(20, 40), (33, 10)]
    assert images.tensors[0, :, :20, :40].eq(1).all()
    assert images.tensors[0].sum() == 3 * 20 * 40
    assert len(images) == 2


def test_without_a_multiple_the_largest_image_decides():
    images = to_image_list([torch.ones(3, 20, 41), torch.ones(3, 33, 10)])
    assert images.tensors.shape == (2, 3, 33, 41)


def test_a_batch_is_taken_as_it_is():
    batch = torch.ones(2, 3, 5, 6)
    images = to_image_list(batch)
    assert images.tensors is batch and images.image_sizes == [(5, 6), (5, 6)]
    assert to_image_list(images) is images


def test_images_that_were_not_read_are_not_given_out():
    images = ImageList(torch.zeros(2, 3, 5, 6), [(5, 6), (4, 6)], ids=[8, 3], unread=[1])
    moved = images.to(torch.float64)

    assert (moved.ids, moved.unread) == ((8, 3), {1})
    with pytest.raises(ValueError, match=r"\[1\]"):
        moved.pixels()
    assert ImageList(images.tensors, images.image_sizes).pixels() is images.tensors


@pytest.mark.parametrize("shape", [(3, 5, 6), (1, 3, 5, 6)])
def test_one_image_or_a_batch_is_padded_when_a_multiple_is_asked_for(shape):
    images = to_image_list(torch.ones(shape), size_divisible=4)
    assert images.tensors.shape == (1, 3, 8, 8) and images.image_sizes == [(5, 6)]


def test_moving_keeps_the_sizes():
    images = to_image_list(torch.ones(1, 3, 5, 6)).to(torch.float64)
    assert images.tensors.dtype == torch.float64 and images.image_sizes == [(5, 6)]


def test_what_is_no_image_is_refused():
    with pytest.raises(TypeError, match="ImageList"):
        to_image_list("image.png")
    with pytest.raises(ValueError, match="shape"):
        to_image_list(torch.ones(5, 6))
    with pytest.raises(ValueError, match="at least one"):
        to_image_list([])
    with pytest.raises(ValueError, match="channels"):
        to_image_list([torch.ones(3, 4, 4), torch.ones(1, 4, 4)])


def test_sizes_are_height_then_width_of_plain_integers():
    images = ImageList(torch.ones(1, 3, 5, 6), torch.tensor([[5, 6]]))
    assert images.image_sizes == [(5, 6)]
