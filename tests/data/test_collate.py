"""Samples to batches."""

import pytest
import torch

from maskrcnn_benchmark.data.collate import BatchCollator, RawImageCollator
from maskrcnn_benchmark.data.image_files import Outline
from maskrcnn_benchmark.structures.bounding_box import BoxList


def sample(height, width, num_boxes=1, index=0, **fields):
    target = BoxList(torch.zeros(num_boxes, 4), (width, height))
    for name, value in fields.items():
        target.add_field(name, value)
    return torch.ones(3, height, width), target, index


def test_images_are_padded_at_the_right_and_bottom_to_a_common_multiple():
    batch = BatchCollator(32)([sample(800, 1066), sample(750, 1333)])

    assert batch.images.tensors.shape == (2, 3, 800, 1344)
    assert batch.images.image_sizes == [(800, 1066), (750, 1333)]
    assert batch.images.tensors[1, :, 750:].sum() == 0
    assert batch.images.tensors[1].sum() == 3 * 750 * 1333


def test_outlines_leave_their_place_empty_and_are_named():
    samples = [sample(8, 10, index=4), sample(6, 12, index=9)]
    samples[1] = (Outline((12, 6)), *samples[1][1:])

    images = BatchCollator(4, numbered=True)(samples).images

    assert images.tensors.shape == (2, 3, 8, 12)
    assert images.image_sizes == [(8, 10), (6, 12)]
    assert (images.ids, images.unread) == ((4, 9), {1})
    assert images.tensors[1].sum() == 0
    assert BatchCollator(4)(samples[:1]).images.ids is None


def test_positive_maps_are_joined_in_order_as_zeros_and_ones():
    first = torch.tensor([[0.5, 0.5, 0, 0]])
    second = torch.tensor([[0, 0, 0.999, 0], [0.0, 0, 0, 0]])

    batch = BatchCollator()(
        [sample(8, 8, positive_map=first), sample(8, 8, 2, positive_map=second)]
    )

    assert batch.positive_map.tolist() == [[1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]


def test_an_image_without_boxes_adds_no_row():
    batch = BatchCollator()(
        [
            sample(8, 8, 0, positive_map=torch.zeros(0, 4)),
            sample(8, 8, 1, positive_map=torch.ones(1, 4)),
        ]
    )

    assert batch.positive_map.shape == (1, 4)


def test_greenlight_maps_are_stacked():
    batch = BatchCollator()(
        [sample(8, 8, greenlight_map=torch.full((4,), value)) for value in (1.0, -1.0)]
    )

    assert batch.greenlight_map[:, 0].tolist() == [1, -1]


def test_maps_that_no_sample_has_are_none():
    batch = BatchCollator()([sample(8, 8, index=7)])

    assert batch.ids == (7,)
    assert batch.positive_map is batch.positive_map_eval is batch.greenlight_map is None


def test_samples_with_and_without_captions_do_not_mix():
    with pytest.raises(ValueError, match=r"Only 1 of 2 samples .* 'positive_map'"):
        BatchCollator()([sample(8, 8, positive_map=torch.ones(1, 4)), sample(8, 8)])


def test_dictionaries_as_targets_pass_through():
    image, _, _ = sample(8, 8)

    batch = BatchCollator()([(image, {"boxes": torch.zeros(0, 4)}, 3)])

    assert list(batch.targets[0]) == ["boxes"]
    assert batch.positive_map is None


def test_raw_images_are_left_alone():
    picture = object()

    batch = RawImageCollator()([(picture, BoxList([], (8, 8)), 0)])

    assert batch.images == (picture,)
