"""One check of the shape of COCO-style files, for datasets and for fine-tuning on one's own data."""

import copy

import pytest

from maskrcnn_benchmark.data.datasets.annotation_file import AnnotationFile
from maskrcnn_benchmark.data.datasets.coco import COCODataset
from maskrcnn_benchmark.data.datasets.coco_content import checked_content
from maskrcnn_benchmark.errors import DataError

MALFORMED = [
    (lambda c: c.update(images=None), "has no list 'images'"),
    (lambda c: c.update(images=["a.png"]), "entry 0 of 'images' is 'a.png'"),
    (
        lambda c: c["images"][0].update(width=None),
        "image .*'width' must be a whole number, got None",
    ),
    (lambda c: c["images"][0].update(width="abc"), "'width' must be a whole number, got 'abc'"),
    (lambda c: c["images"][0].update(height=30.5), "'height' must be a whole number, got 30.5"),
    (lambda c: c["images"][0].pop("id"), "image .* lacks 'id'"),
    (lambda c: c["images"][0].update(id=True), "'id' must be a whole number, got True"),
    (lambda c: c["images"][0].update(id=2**70), "'id' must be a whole number"),
    (lambda c: c["images"][0].update(id=2), "image id 2 occurs 2 times"),
    (lambda c: c["images"][0].pop("file_name"), "image .* lacks 'file_name'"),
    (lambda c: c["images"][0].update(file_name=7), "'file_name' must be a text, got 7"),
    (lambda c: c.update(annotations=None), "has no list 'annotations'"),
    (lambda c: c.update(annotations=[3]), "entry 0 of 'annotations' is 3"),
    (lambda c: c["annotations"][0].update(image_id="1"), "'image_id' must be a whole number"),
    (lambda c: c["annotations"][0].update(category_id="1"), "'category_id' must be a whole number"),
    (lambda c: c["annotations"][0].update(category_id=[1]), "'category_id' must be a whole number"),
    (lambda c: c["annotations"][0].update(area="big"), "'area' must be a number, got 'big'"),
    (lambda c: c.update(categories=None), "has no list 'categories'"),
    (lambda c: c.update(categories=["dog"]), "entry 0 of 'categories' is 'dog'"),
    (lambda c: c["categories"][0].pop("id"), "category .* lacks 'id'"),
    (lambda c: c["categories"][0].update(id="1"), "'id' must be a whole number, got '1'"),
    (lambda c: c["categories"][0].update(id=[1]), r"'id' must be a whole number, got \[1\]"),
    (lambda c: c["categories"][0].update(id=2), "category id 2 occurs 2 times"),
    (lambda c: c["categories"][0].pop("name"), "category .* lacks 'name'"),
    (
        lambda c: c["categories"][0].update(name=None),
        "category 1 needs a text as its name, got None",
    ),
]


@pytest.mark.parametrize(("change", "message"), MALFORMED)
def test_malformed_content_is_refused_by_file_and_entry(coco_folder, change, message):
    content = coco_folder.content
    content["categories"][1]["id"] = 2
    content["images"][1]["id"] = 2
    change(content)
    coco_folder.save()

    with pytest.raises(DataError, match=rf"annotations\.json.*{message}"):
        COCODataset(coco_folder.images, coco_folder.annotations, None, only_valid=False)


def test_whole_numbers_and_names_have_one_spelling():
    content = {
        "images": [{"id": 3.0, "width": "40", "height": 30.0}],
        "annotations": [{"image_id": 3.0, "category_id": 1.0, "bbox": [1, 2, 3, 4]}],
        "categories": [{"id": 1.0, "name": 7}],
    }
    before = copy.deepcopy(content)

    checked = checked_content(content, "file")

    assert checked == {
        "images": [{"id": 3, "width": 40, "height": 30}],
        "annotations": [{"image_id": 3, "category_id": 1, "bbox": [1, 2, 3, 4]}],
        "categories": [{"id": 1, "name": "7"}],
    }
    assert type(checked["annotations"][0]["category_id"]) is int
    assert content == before


def test_a_sound_file_is_not_copied(coco_folder):
    content = coco_folder.content

    checked = checked_content(content, "file", ("file_name",))

    assert checked == content
    assert all(a is b for a, b in zip(checked["annotations"], content["annotations"]))


def test_a_class_named_by_a_number_is_named_by_its_digits(coco_folder):
    coco_folder.content["categories"][0]["name"] = 7
    coco_folder.save()

    assert AnnotationFile(coco_folder.annotations).categories[0]["name"] == "7"
