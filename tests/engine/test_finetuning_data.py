"""What is odd or wrong about annotation files is said before training."""

import json

import pytest
from PIL import ExifTags, Image

from maskrcnn_benchmark.config import ConfigError
from maskrcnn_benchmark.engine.finetuning_data import (
    derive_class_count,
    inspect_file,
    require_usable,
)
from maskrcnn_benchmark.evaluation import AnnotationError
from tests.engine.small_task import (
    SIDE,
    count_classes_from_zero,
    list_a_picture_twice,
    small_config,
    write_set,
)

NAME = "annotations_without_background.json"


@pytest.fixture
def inspect(tmp_path):
    """Look through a small set whose content was changed by a function."""

    def run(change=lambda content: None, *, training=True, override=None):
        content = write_set(tmp_path, 4)
        change(content)
        (tmp_path / NAME).write_text(json.dumps(content))
        return inspect_file(
            tmp_path / NAME, tmp_path, name="train", training=training, override=override
        )

    return run


def said(report, text):
    return any(text in message for message in [*report.errors, *report.notes])


def test_a_sound_file_is_counted(inspect):
    report = inspect()

    assert not report.errors
    assert (report.num_images, report.num_boxes) == (4, 4)
    assert report.foreground == {1: "red", 2: "green", 4: "blue"}
    assert report.images_of == {1: 2, 2: 1, 4: 1}


def test_gaps_between_ids_are_said_and_labels_have_none(inspect):
    report = inspect()

    assert said(report, "gaps (3 classes, ids 1 to 4)")
    assert report.classes.json_to_label == {1: 1, 2: 2, 4: 3}


def change_first(**entries):
    def change(content):
        content["annotations"][0].update(entries)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(categories=[]), "has no category"),
        (lambda c: c.update(images=[]), "lists no image"),
        (lambda c: c.update(annotations=[]), "has no usable box to learn from"),
        (change_first(bbox=[1, 2, 3]), "bbox of annotation 1 must be four finite numbers"),
        (change_first(bbox=[1, 2, None, 4]), "bbox of annotation 1 must be four finite numbers"),
        (change_first(category_id=9), "category id 9"),
        (lambda c: c["annotations"][0].pop("bbox"), "1 annotation(s) lack 'bbox'"),
        (lambda c: c["images"][0].update(file_name="gone.png"), "gone.png"),
        (lambda c: c["images"][0].update(id=2), "image id 2 occurs 2 times"),
        (lambda c: c["categories"][0].update(name="  "), "blank name"),
        (lambda c: c["images"][0].update(width="wide"), "'width' must be a whole number"),
        (lambda c: c.update(annotations=None), "no list 'annotations'"),
        (lambda c: c["images"][0].pop("file_name"), "lacks 'file_name'"),
    ],
)
def test_what_cannot_be_used_is_an_error(inspect, change, message):
    report = inspect(change)

    assert any(message in error for error in report.errors), report.errors
    with pytest.raises(AnnotationError, match="cannot be used"):
        require_usable([report])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["annotations"][0].pop("id"), "1 annotation(s) lack 'id'"),
        (change_first(id=2), "annotation id 2 occurs 2 times"),
        (change_first(id="one"), "annotation 'one' has id 'one'"),
    ],
)
def test_annotation_ids_that_evaluation_needs_are_checked_before_training(inspect, change, message):
    assert any(message in error for error in inspect(change, training=False).errors)
    assert not inspect(change).errors


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (count_classes_from_zero, "category id 0 is a class here ('red')"),
        (lambda c: c["categories"].append({"id": 0, "name": "things"}), "is background"),
        (lambda c: c["categories"].append({"id": 9, "name": "sky"}), "1 class(es): sky"),
        (lambda c: c["categories"].append({"id": 9, "name": " "}), "no box uses it"),
        (lambda c: c["categories"].append({"id": 9, "name": "RED"}), "read the same ('red')"),
        (change_first(iscrowd=1), "1 box(es) are crowd regions"),
        (change_first(bbox=[50, 50, 30, 30]), "1 box(es) reach out of their image"),
        (change_first(bbox=[70, 70, 5, 5]), "1 box(es) are at most one pixel"),
        (change_first(bbox=[5, 5, 0, 9]), "1 box(es) are at most one pixel"),
        (change_first(image_id=77), "1 annotation(s) name an image that the file lacks"),
        (lambda c: c["annotations"].pop(), "1 of 4 images have no usable box"),
        (list_a_picture_twice, "1 picture(s) are listed more than once"),
        (lambda c: c["images"][0].update(width=SIDE + 1), "have another size than the file says"),
    ],
)
def test_what_is_odd_is_said_and_trained_on(inspect, change, message):
    report = inspect(change)

    assert said(report, message), report.notes
    assert not report.errors


def test_a_picture_that_does_not_open_is_an_error(tmp_path):
    write_set(tmp_path, 2)
    (tmp_path / f"{tmp_path.name}_0.png").write_bytes(b"no picture")

    report = inspect_file(tmp_path / NAME, tmp_path, name="train", training=True)

    assert said(report, "is not a picture that can be read")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"images": 3}'])
def test_a_file_of_another_kind_is_an_error(tmp_path, text):
    (tmp_path / NAME).write_text(text)

    report = inspect_file(tmp_path / NAME, tmp_path, name="train", training=True)

    assert report.errors


def test_rounding_at_the_edge_is_not_worth_a_word(inspect):
    report = inspect(change_first(bbox=[-0.3, 10, SIDE + 0.5, 20]))

    assert not said(report, "reach out")


def test_an_override_replaces_the_classes_of_the_file(inspect):
    override = [{"id": i, "name": f"thing {i}"} for i in (1, 2, 4)]

    assert inspect(override=override).foreground == {i: f"thing {i}" for i in (1, 2, 4)}


def test_two_sets_that_mean_different_things_are_refused(tmp_path):
    write_set(tmp_path / "train", 3)
    write_set(tmp_path / "val", 3, classes={1: "green", 2: "red", 4: "blue"})
    reports = [
        inspect_file(tmp_path / s / NAME, tmp_path / s, name=s, training=s == "train")
        for s in ("train", "val")
    ]

    with pytest.raises(AnnotationError, match=r"category 1 is 'red' in .* but 'green' in"):
        require_usable(reports)


def test_the_class_count_follows_from_the_file(inspect):
    config = small_config("MODEL.DYHEAD.NUM_CLASSES", "3000")

    derive_class_count(config, [inspect()], [])

    for head in ("ATSS", "DYHEAD", "FCOS", "ROI_BOX_HEAD"):
        assert config.MODEL[head].NUM_CLASSES == 4


def test_a_class_count_on_the_command_line_stays_if_it_is_large_enough(inspect):
    opts = ["MODEL.DYHEAD.NUM_CLASSES", "9"]
    config = small_config(*opts)

    derive_class_count(config, [inspect()], opts)

    assert config.MODEL.DYHEAD.NUM_CLASSES == 9
    opts[1] = "3"
    with pytest.raises(ConfigError, match="it counts the background too, so it must be 4"):
        derive_class_count(small_config(*opts), [inspect()], opts)


def save_turned(path, orientation):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    Image.new("RGB", (SIDE, SIDE)).save(path, exif=exif)


@pytest.mark.parametrize("ending", ["jpg", "png"])
def test_pictures_that_viewers_turn_are_told(inspect, tmp_path, ending):
    def turn(content):
        for image, orientation in zip(content["images"], (6, 3, 1, 0)):
            image["file_name"] = f"{orientation}.{ending}"
            save_turned(tmp_path / image["file_name"], orientation)

    report = inspect(turn)

    (note,) = [note for note in report.notes if "EXIF orientation" in note]
    assert "2 of 4 pictures looked at are shown turned or mirrored" in note
    assert f"(6.{ending}, 3.{ending})" in note and "Save these pictures upright" in note
    assert not report.errors


def test_upright_pictures_and_malformed_exif_are_not_worth_a_word(inspect, tmp_path):
    def spoil(content):
        content["images"][0]["file_name"] = "odd.jpg"
        Image.new("RGB", (SIDE, SIDE)).save(tmp_path / "odd.jpg", exif=b"Exif\0\0nonsense")

    report = inspect(spoil)

    assert not said(report, "EXIF") and not report.errors


def test_greyscale_pictures_are_opened_like_others(tmp_path):
    content = write_set(tmp_path, 1)
    Image.new("L", (SIDE, SIDE)).save(tmp_path / content["images"][0]["file_name"])

    report = inspect_file(tmp_path / NAME, tmp_path, name="train", training=True)

    assert not report.errors
