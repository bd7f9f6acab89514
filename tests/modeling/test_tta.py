"""Detect in several sizes of an image and in its mirror image, and merge what was found."""

import logging

import pytest
import torch

from maskrcnn_benchmark.modeling.test_time_augmentation import (
    DetectionMerger,
    MultiViewDetector,
    View,
    build_multi_view_detector,
    to_original,
)
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.boxlist_ops import cat_boxlist
from tests.golden_tools import load_units


def detections(boxes, scores, labels, size):
    result = BoxList(torch.as_tensor(boxes, dtype=torch.float32).reshape(-1, 4), size)
    result.add_field("scores", torch.as_tensor(scores, dtype=torch.float32))
    result.add_field("labels", torch.as_tensor(labels, dtype=torch.int64))
    return result


@pytest.mark.parametrize("method", ["none", "soft-nms", "vote", "soft-vote"])
def test_recorded_merges_are_reproduced(method):
    units = load_units("nms")
    found = detections(units["boxes"], units["scores"], units["labels"], (1000, 1000))

    merged = DetectionMerger(method, max_detections=40)(found)

    expected = torch.cat(
        [
            torch.from_numpy(units[f"merge.{method}.{part}"]).float().reshape(40, -1)
            for part in ("scores", "labels", "boxes")
        ],
        1,
    )
    actual = torch.cat(
        (merged.get_field("scores")[:, None], merged.get_field("labels")[:, None], merged.bbox), 1
    )

    def key(row):
        return (-round(row[0], 5), *row[1:])

    torch.testing.assert_close(
        torch.tensor(sorted(actual.tolist(), key=key)),
        torch.tensor(sorted(expected.tolist(), key=key)),
        atol=1e-4,
        rtol=1e-5,
    )


def test_merged_detections_come_by_descending_score():
    found = detections(
        [[0, 0, 9, 9], [50, 0, 59, 9], [0, 50, 9, 59]], [0.2, 0.9, 0.5], [1, 3, 2], (99, 99)
    )

    merged = DetectionMerger()(found)

    assert merged.get_field("labels").tolist() == [3, 2, 1]


def test_only_selected_labels_are_merged():
    found = detections([[0, 0, 9, 9], [50, 0, 59, 9]], [0.2, 0.9], [1, 3], (99, 99))

    assert DetectionMerger(labels=(1, 2))(found).get_field("labels").tolist() == [1]
    assert len(DetectionMerger(labels=(7,))(found)) == 0


def test_labels_beyond_the_published_vocabulary_are_merged_too():
    found = detections([[0, 0, 9, 9]], [0.2], [1203], (99, 99))

    assert len(DetectionMerger()(found)) == 1


def test_no_detections_merge_to_none():
    merged = DetectionMerger()(detections([], [], [], (99, 99)))

    assert len(merged) == 0
    assert merged.fields() == ["scores", "labels"]


def test_an_unknown_method_is_refused_by_the_name_of_its_key():
    with pytest.raises(ValueError, match=r"TEST\.SPECIAL_NMS must be one of none.*'hard'"):
        DetectionMerger("hard")


def test_boxes_of_a_mirrored_and_enlarged_view_return_to_their_place():
    view = View(short_side=200, max_size=1000, flip=True)
    in_view = detections([[180, 20, 199, 59]], [0.9], [1], (200, 300))

    original = to_original(in_view, view, (100, 150))

    # Mirrored back to 0..19 of 200 pixels, then halved.
    assert original.bbox.tolist() == [[0, 10, 9.5, 29.5]]
    assert original.size == (100, 150)


def test_boxes_outside_the_size_range_of_a_view_are_dropped():
    view = View(short_side=200, max_size=1000, size_range=(10, 20))
    in_view = detections(
        [[0, 0, 9, 9], [0, 0, 10, 9], [0, 0, 19, 18], [0, 0, 19, 19]],
        [0.9] * 4,
        [1] * 4,
        (200, 300),
    )

    kept = to_original(in_view, view, (200, 300))

    # Areas 100, 110, 380, 400: strictly between 10^2 and 20^2, measured in the view.
    assert kept.bbox[:, 2:].tolist() == [[10, 9], [19, 18]]


def fake_prepare(image, view):
    """An image is its (width, height); the network's input is zeros of the size of the view."""
    ratio = view.short_side / min(image)
    return torch.zeros(3, round(image[1] * ratio), round(image[0] * ratio))


def test_every_view_of_every_image_is_searched_and_merged():
    views = [View(100, 1000), View(200, 1000), View(200, 1000, flip=True)]
    searched = []

    def detect(inputs):
        searched.append([tuple(x.shape[-2:]) for x in inputs])
        # The left half of each input, whatever its size.
        return [
            detections(
                [[0, 0, x.shape[2] / 2 - 1, x.shape[1] - 1]], [0.5], [1], (x.shape[2], x.shape[1])
            )
            for x in inputs
        ]

    images = [(100, 200), (80, 50)]
    found = MultiViewDetector(views)(images, images, fake_prepare, detect)

    assert searched == [
        [(200, 100), (100, 160)],
        [(400, 200), (200, 320)],
        [(400, 200), (200, 320)],
    ]
    assert [boxes.size for boxes in found] == images
    # Seen plainly twice, at nearly the same place; mirrored once, so on the right.
    assert [len(boxes) for boxes in found] == [2, 2]
    assert sorted((found[0].bbox[:, 0] > 40).tolist()) == [False, True]


def test_a_detector_that_asks_in_chunks_loses_none():
    def detect(inputs):
        chunks = [[1], [2, 3]]
        return [
            cat_boxlist(
                [
                    detections(
                        [[0, 0, 49, 49]] * len(labels), [0.5] * len(labels), labels, (100, 100)
                    )
                    for labels in chunks
                ]
            )
            for _ in inputs
        ]

    (found,) = MultiViewDetector([View(100, 1000), View(200, 1000)])(
        [(100, 100)], [(100, 100)], lambda image, view: torch.zeros(3, 100, 100), detect
    )

    assert sorted(found.get_field("labels").tolist()) == [1, 2, 3]


class Config(dict):
    __getattr__ = dict.__getitem__


def tta_config(**changes):
    test = {
        "SCALES": (400, 800),
        "RANGES": ((96, 10000), (0, 256)),
        "MAX_SIZE": 2500,
        "FLIP": True,
        "SPECIAL_NMS": "vote",
        "TH": 0.7,
        "PRE_NMS_TOP_N": 500,
        "SELECT_CLASSES": (),
        **changes,
    }
    return Config(TEST=Config(test), MODEL=Config(RETINANET=Config(INFERENCE_TH=0.05)))


def test_the_builder_pairs_scales_with_ranges_and_mirrors_each():
    detector = build_multi_view_detector(tta_config())

    assert detector.views == (
        View(400, 2500, False, (96, 10000)),
        View(400, 2500, True, (96, 10000)),
        View(800, 2500, False, (0, 256)),
        View(800, 2500, True, (0, 256)),
    )
    assert detector.merger == DetectionMerger("vote", 0.7, 500)


def test_ranges_that_do_not_pair_with_scales_are_not_used_and_that_is_said(caplog):
    with caplog.at_level(logging.WARNING):
        detector = build_multi_view_detector(tta_config(RANGES=((0, 5),), FLIP=False))

    assert [view.size_range for view in detector.views] == [(0, float("inf"))] * 2
    assert "1 entries for 2 TEST.SCALES" in caplog.text


def test_the_builder_takes_selected_classes():
    assert build_multi_view_detector(tta_config(SELECT_CLASSES=(2, 5))).merger.labels == (2, 5)
