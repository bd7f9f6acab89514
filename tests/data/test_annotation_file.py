"""COCO-style files: what is read, and how malformed ones are refused."""

import json
import logging

import pytest

from maskrcnn_benchmark.data.datasets.annotation_file import AnnotationFile
from maskrcnn_benchmark.data.datasets.serialized_list import SerializedList


def write(path, images=(), annotations=None, categories=()):
    content = {"images": list(images), "categories": list(categories)}
    if annotations is not None:
        content["annotations"] = annotations
    path.write_text(json.dumps(content))
    return path


def annotation(image_id=1, bbox=(1, 2, 3, 4), **fields):
    return {"id": 7, "image_id": image_id, "category_id": 1, "bbox": list(bbox), **fields}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "annotations.json"


def test_images_are_sorted_by_id_and_annotations_keep_file_order(path):
    boxes = [annotation(2, [0, 0, 9, 9]), annotation(1), annotation(2, [1, 1, 5, 5], iscrowd=1)]
    file = AnnotationFile(
        write(path, [{"id": 2, "file_name": "b"}, {"id": 1, "file_name": "a"}], boxes)
    )

    second = file.annotations(1)

    assert file.image_ids.tolist() == [1, 2]
    assert file.entry(0) == {"id": 1, "file_name": "a"}
    assert second.boxes.tolist() == [[0, 0, 9, 9], [1, 1, 5, 5]]
    assert second.iscrowd.tolist() == [False, True]
    assert second.areas.tolist() == [81, 25]
    assert second.spans == [[], []]


def test_sizes_written_as_text_are_numbers(path):
    file = AnnotationFile(write(path, [{"id": 1, "height": "30", "width": "40"}]))

    assert file.sizes.tolist() == [[30, 40]]


def test_spans_follow_their_annotation(path):
    boxes = [
        annotation(2, tokens_positive=[[0, 3]]),
        annotation(1, tokens_positive=[[4, 7], [9, 9]]),
    ]
    file = AnnotationFile(write(path, [{"id": 1}, {"id": 2}], boxes))

    assert file.annotations(0).spans == [[[4, 7], [9, 9]]]
    assert file.annotations(1).spans == [[[0, 3]]]


def test_an_image_is_valid_with_one_box_larger_than_a_pixel_each_way(path):
    images = [{"id": i} for i in range(5)]
    boxes = [
        annotation(0, [0, 0, 1, 50]),
        annotation(1, [0, 0, 1, 50]),
        annotation(1, [0, 0, 2, 2]),
        annotation(3, [0, 0, 8, 8], iscrowd=1),
    ]
    file = AnnotationFile(write(path, images, boxes))

    assert file.valid_rows().tolist() == [1, 3]


def test_a_file_without_annotations_has_images_only(path):
    file = AnnotationFile(write(path, [{"id": 1}]))

    assert len(file) == 1
    assert len(file.annotations(0)) == 0
    assert file.valid_rows().tolist() == []


def test_annotations_of_unknown_images_are_counted_and_ignored(path, caplog):
    with caplog.at_level(logging.WARNING):
        file = AnnotationFile(write(path, [{"id": 1}], [annotation(1), annotation(99)]))

    assert len(file.annotations(0)) == 1
    assert "1 of 2 annotations name an image that the file lacks" in caplog.text


def test_boxes_that_clipping_will_remove_are_counted(path, caplog):
    boxes = [
        annotation(bbox=[0, 0, 10, 10]),
        annotation(bbox=[200, 5, 10, 10]),
        annotation(bbox=[5, 5, 10, 0]),
        annotation(bbox=[5, 5, 1, 1], iscrowd=1),
    ]

    with caplog.at_level(logging.WARNING):
        AnnotationFile(write(path, [{"id": 1, "width": 100, "height": 50}], boxes))

    assert "2 of 4 boxes are at most one pixel wide or high inside their image" in caplog.text
    assert "annotation 7, bbox [200.0, 5.0, 10.0, 10.0]" in caplog.text


@pytest.mark.parametrize(
    ("images", "annotations", "message"),
    [
        ([{"id": 1}, {"id": 1}], [], "image id 1 occurs 2 times"),
        ([{"id": "x"}], [], "'id' must be a whole number, got 'x'"),
        ([{"file_name": "a"}], [], "lacks 'id'"),
        ([{"id": 1}], [{"id": 7, "image_id": 1, "category_id": 1}], "lacks 'bbox'"),
        ([{"id": 1}], [annotation(1, [1, 2, 3])], "annotation 7 must be four finite numbers"),
        ([{"id": 1}], [annotation(1, [1, 2, 3, float("nan")])], "annotation 7 must be four"),
        ([{"id": 1}], [annotation(1, [1, 2, 3, None])], "annotation 7 must be four"),
    ],
)
def test_malformed_entries_are_named(path, images, annotations, message):
    with pytest.raises(ValueError, match=message) as error:
        AnnotationFile(write(path, images, annotations))
    assert str(path) in str(error.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.json"):
        AnnotationFile(tmp_path / "nothing.json")


@pytest.mark.parametrize("text", ["{", "[]", '{"info": 1}'])
def test_other_files_are_refused(path, text):
    path.write_text(text)

    with pytest.raises(ValueError, match=r"annotations\.json"):
        AnnotationFile(path)


def test_a_serialized_list_gives_back_its_items():
    items = [{"a": 1}, None, "é", [[1, 2], []]]

    stored = SerializedList(items)

    assert list(stored) == items
    assert stored[-1] == items[-1]
    with pytest.raises(IndexError):
        stored[4]
