"""From PIL image to normalised tensor: recorded sizes, pixel arithmetic, boxes alongside."""

import json
import logging

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from maskrcnn_benchmark.config import cfg as default_config
from maskrcnn_benchmark.data.transforms import (
    Normalize,
    RandomHorizontalFlip,
    Resize,
    ToTensor,
    build_normalize,
    build_transforms,
    resized_size,
)
from maskrcnn_benchmark.grounding import RandomSource
from maskrcnn_benchmark.structures.bounding_box import BoxList


def test_sizes_equal_the_recorded_ones(golden_dir):
    recorded = json.loads((golden_dir / "glip/units/resize_sizes.json").read_text())
    rng = RandomSource(recorded["python_random_seed"])

    for min_sizes, max_size, (width, height), expected in recorded["rows"]:
        size = Resize(min_sizes, max_size).output_size((width, height), rng)
        assert list(size) == expected, (min_sizes, max_size, width, height)


@pytest.mark.parametrize(
    ("width", "height", "min_size", "expected"),
    [
        (640, 480, 800, (800, 1066)),
        (500, 375, 480, (480, 640)),
        (1000, 300, 800, (400, 1333)),
        (1920, 1080, 800, (750, 1333)),
        (375, 500, 480, (640, 480)),
        (1, 100_000, 800, (1333, 1)),
        (100_000, 1, 800, (1, 1333)),
    ],
)
def test_the_shorter_side_is_scaled_and_the_longer_one_capped(width, height, min_size, expected):
    assert resized_size(width, height, min_size, 1333) == expected


@given(width=st.integers(1, 40_000), height=st.integers(1, 40_000))
def test_a_resized_image_has_a_positive_size_near_the_cap(width, height):
    new_height, new_width = resized_size(width, height, 800, 1333)

    ratio = max(width, height) / min(width, height)
    assert min(new_height, new_width) >= 1
    assert max(new_height, new_width) <= min(1333 + ratio + 1, 2 * 1333)


def test_a_fixed_size_ignores_the_aspect_ratio():
    image, _ = Resize(50, 80, fixed=True)(Image.new("RGB", (30, 30)), None, RandomSource(0))

    assert image.size == (80, 50)


def test_boxes_follow_the_true_ratios_of_the_sizes():
    target = BoxList([[10.0, 20, 30, 40]], (100, 75))

    image, target = Resize(50, 1000)(Image.new("RGB", (100, 75)), target, RandomSource(0))

    assert image.size == (66, 50)
    expected = [10 * 66 / 100, 20 * 50 / 75, 30 * 66 / 100, 40 * 50 / 75]
    assert target.bbox[0].tolist() == pytest.approx(expected)


def test_a_flip_mirrors_pixels_and_inclusive_corners():
    pixels = np.arange(300, dtype=np.uint8).reshape(1, 100, 3)
    target = BoxList([[10.0, 20, 39, 59]], (100, 75))

    image, target = RandomHorizontalFlip(1.0)(Image.fromarray(pixels), target, RandomSource(0))

    assert np.array_equal(np.asarray(image), pixels[:, ::-1])
    assert target.bbox[0].tolist() == [60, 20, 89, 59]


def test_a_flip_with_probability_zero_never_happens():
    image = Image.fromarray(np.arange(300, dtype=np.uint8).reshape(1, 100, 3))

    flipped = [RandomHorizontalFlip(0.0)(image, None, RandomSource(s))[0] for s in range(20)]

    assert all(result is image for result in flipped)


def test_pixels_become_blue_green_red_of_range_255_and_are_normalised_in_that_order():
    image = Image.fromarray(np.array([[[200, 100, 50]]], dtype=np.uint8))

    tensor, _ = ToTensor()(image, None, RandomSource(0))
    normalised, _ = Normalize([10, 20, 30], [1, 2, 4], "BGR255")(tensor, None, RandomSource(0))

    assert normalised.flatten().tolist() == pytest.approx([40.0, 40.0, 42.5])


def test_rgb_in_unit_range_stays_as_it_is():
    tensor = torch.rand(3, 4, 5)

    normalised, _ = Normalize([0, 0, 0], [1, 1, 1], "rgb")(tensor, None, RandomSource(0))

    assert torch.equal(normalised, tensor)
    assert normalised.data_ptr() != tensor.data_ptr()


def test_every_random_choice_comes_from_the_source_of_the_sample():
    cfg = default_config.clone()
    cfg.AUGMENT.MULT_MIN_SIZE_TRAIN = (20, 30, 40)
    transforms = build_transforms(cfg, is_train=True)
    image = Image.effect_noise((60, 50), 90).convert("RGB")

    results = [transforms(image, None, RandomSource(seed))[0] for seed in (1, 2, 3, 1, 2, 3)]

    for first, second in zip(results[:3], results[3:]):
        assert torch.equal(first, second)


def test_test_images_are_never_flipped_and_have_one_size():
    cfg = default_config.clone()
    cfg.AUGMENT.MULT_MIN_SIZE_TRAIN = (20, 30, 40)

    steps = build_transforms(cfg, is_train=False).steps

    assert steps[0].min_sizes == (800,)
    assert steps[1].probability == 0


def test_a_pixel_format_is_required():
    cfg = default_config.clone()
    cfg.INPUT.TO_BGR255 = False

    with pytest.raises(ValueError, match=r"INPUT\.FORMAT"):
        build_normalize(cfg)


def test_settings_without_effect_are_reported(caplog):
    cfg = default_config.clone()
    cfg.AUGMENT.BRIGHTNESS = 0.3

    with caplog.at_level(logging.WARNING):
        build_transforms(cfg, is_train=True)

    assert "AUGMENT.BRIGHTNESS is 0.3 but has no effect" in caplog.text
