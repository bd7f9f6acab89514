"""Annotation files: what is read, what is refused and how it is named."""

import json

import numpy as np
import pytest

from maskrcnn_benchmark.evaluation.ground_truth import (
    AnnotationError,
    load_ground_truth,
    read_ground_truth,
)
from tests.evaluation.box_sets import annotations

ONE_BOX = {1: [(3, [10, 10, 20, 30])]}


def test_boxes_areas_and_marks_are_read(tmp_path):
    data = annotations({4: [(3, [10, 10, 20, 30])], 2: [(7, [0, 0, 5, 5])]})
    data["annotations"][0] |= {"area": 99.5, "iscrowd": 1}
    del data["annotations"][1]["area"]
    path = tmp_path / "gt.json"
    path.write_text(json.dumps(data))

    truth = load_ground_truth(path)

    assert list(truth.images) == [4, 2]
    assert truth.areas.tolist() == [99.5, 25.0]
    assert truth.crowd.tolist() == [True, False]
    assert truth.image_size(4) == (200, 160)
    assert truth.category_name(7) == "dog"
    assert truth.restricted_to(np.array([2])).ids.tolist() == [2]


def test_a_test_set_without_annotations_is_told_from_one_without_boxes():
    data = annotations({1: []})

    assert read_ground_truth(data).has_annotations
    del data["annotations"]
    assert not read_ground_truth(data).has_annotations


@pytest.mark.parametrize(
    ("key", "extra", "message"),
    [
        ("categories", {"id": 3, "name": "cow"}, "category id 3 occurs 2 times .*cat, cow"),
        ("images", {"id": 1, "file_name": "b.jpg"}, "image id 1 occurs 2 times"),
        (
            "annotations",
            {"id": 1, "image_id": 1, "category_id": 3, "bbox": [0, 0, 1, 1]},
            "annotation id 1 occurs 2 times",
        ),
        (
            "annotations",
            {"id": 5, "image_id": 1, "category_id": 4, "bbox": [0, 0, 1, 1]},
            r"category ids that the file does not list \(first: \[4\]\)",
        ),
        (
            "annotations",
            {"id": 5, "image_id": 1, "category_id": 3, "bbox": [0, 0, 1]},
            "annotation 5 has bbox",
        ),
        (
            "annotations",
            {"id": 5, "image_id": 1, "category_id": 3, "bbox": [0, 0, 1, float("nan")]},
            "annotation 5 has bbox .* four finite numbers",
        ),
        ("images", {"id": "a"}, "image 'a' has id 'a'; a whole number is needed"),
    ],
)
def test_what_clashes_or_is_malformed_is_refused_by_name(key, extra, message):
    data = annotations(ONE_BOX)
    data[key].append(extra)

    with pytest.raises(AnnotationError, match=f"val.json.*{message}"):
        read_ground_truth(data, "val.json")


@pytest.mark.parametrize("bbox", [None, 5, "1234", ["a", 1, 2, 3], [0, 0, 1, None], {"x": 1}])
def test_what_is_no_box_is_refused_with_its_annotation(bbox):
    data = annotations(ONE_BOX)
    data["annotations"].append({"id": 5, "image_id": 1, "category_id": 3, "bbox": bbox})

    with pytest.raises(AnnotationError, match=r"val\.json: annotation 5 has bbox .* four finite"):
        read_ground_truth(data, "val.json")


@pytest.mark.parametrize("area", [None, "12", [1.0]])
def test_an_area_that_is_no_number_is_refused_with_its_annotation(area):
    data = annotations(ONE_BOX)
    data["annotations"][0]["area"] = area

    with pytest.raises(AnnotationError, match=r"val\.json: annotation 1 has area"):
        read_ground_truth(data, "val.json")


@pytest.mark.parametrize("key", ["images", "annotations", "categories"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"1": {"id": 1}}, "has no list {key!r}"),
        (7, "has no list {key!r}"),
        ([5], "entry 0 of {key!r} is 5"),
    ],
)
def test_what_is_no_list_of_entries_is_refused_by_its_name(key, content, message):
    data = annotations(ONE_BOX) | {key: content}

    with pytest.raises(AnnotationError, match=rf"val\.json:? {message.format(key=key)}"):
        read_ground_truth(data, "val.json")


@pytest.mark.parametrize("size", [{}, {"width": None, "height": 3}, {"width": "a", "height": 3}])
def test_an_image_without_size_is_named(size):
    data = annotations(ONE_BOX) | {"images": [{"id": 1, **size}]}

    with pytest.raises(AnnotationError, match="image 1 has no width and height"):
        read_ground_truth(data).image_size(1)


def test_annotations_of_images_that_are_not_listed_are_left_out_with_a_warning(caplog):
    data = annotations(ONE_BOX)
    data["annotations"].append({"id": 9, "image_id": 77, "category_id": 3, "bbox": [0, 0, 1, 1]})

    truth = read_ground_truth(data)

    assert truth.ids.tolist() == [1]
    assert "1 of 2 annotations name an image that the file does not list" in caplog.text


def test_a_missing_file_and_a_file_of_another_kind_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.json does not exist"):
        load_ground_truth(tmp_path / "gone.json")
    (tmp_path / "page.json").write_text("<html>")
    with pytest.raises(AnnotationError, match=r"page\.json is not valid JSON"):
        load_ground_truth(tmp_path / "page.json")
    with pytest.raises(AnnotationError, match="has no list 'images'"):
        read_ground_truth([1, 2])


def test_an_image_that_the_file_lacks_has_no_size():
    truth = read_ground_truth(annotations(ONE_BOX))

    with pytest.raises(AnnotationError, match="has no image 8"):
        truth.image_size(8)
