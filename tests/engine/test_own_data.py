"""Folders as labelling tools export them become tasks."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from maskrcnn_benchmark.engine.own_data import find_splits, make_own_task
from maskrcnn_benchmark.errors import DataError
from maskrcnn_benchmark.evaluation import AnnotationError
from tests.engine.small_task import rewrite, small_config, write_set


def make(folder, tmp_path):
    """The derived task and the content of its annotation files."""
    config = small_config("OUTPUT_DIR", str(tmp_path / "out"))
    path = make_own_task(folder, config)
    config.merge_from_file(path)
    register = yaml.safe_load(path.read_text())["DATASETS"]["REGISTER"]
    with_content = {
        name: (json.loads(Path(entry["ann_file"]).read_text()), entry["img_dir"])
        for name, entry in register.items()
    }
    for content, images in with_content.values():
        for image in content["images"]:
            assert (tmp_path / images / image["file_name"]).is_file()
    return with_content


def test_roboflow(tmp_path):
    folder = tmp_path / "export"
    for split in ("train", "valid", "test"):
        write_set(folder / split, 3, file_name="_annotations.coco.json")

    assert list(make(folder, tmp_path)) == ["train", "val", "test"]


def test_the_group_entry_of_roboflow_is_no_class(tmp_path):
    folder = tmp_path / "export"
    for split in ("train", "valid"):
        write_set(folder / split, 3, file_name="_annotations.coco.json")
        path = folder / split / "_annotations.coco.json"
        classes = json.loads(path.read_text())["categories"]
        group = [{"id": 0, "name": "shapes", "supercategory": "none"}]
        members = [{**c, "supercategory": "shapes"} for c in classes]
        rewrite(path, categories=group + members)

    content, _ = make(folder, tmp_path)["train"]

    assert [c["name"] for c in content["categories"]] == ["red", "green", "blue"]


def test_a_background_entry_is_no_class(tmp_path):
    folder = tmp_path / "export"
    write_set(folder / "train", 3)
    write_set(folder / "val", 3)
    path = folder / "train" / "annotations_without_background.json"
    classes = json.loads(path.read_text())["categories"]
    rewrite(path, categories=[*classes, {"id": 99, "name": "Background"}])

    content, _ = make(folder, tmp_path)["train"]

    assert "Background" not in [c["name"] for c in content["categories"]]


def test_coco_and_cvat(tmp_path):
    folder = tmp_path / "export"
    for split in ("train", "val"):
        write_set(
            folder,
            3,
            file_name=f"annotations/instances_{split}2017.json",
            images=f"images/{split}2017",
        )

    found = make(folder, tmp_path)

    assert list(found) == ["train", "val"]
    assert found["val"][1].endswith("images/val2017")


def test_cvat_without_splits_gives_a_part_away_for_validation(tmp_path):
    folder = tmp_path / "export"
    write_set(folder, 10, file_name="annotations/instances_default.json", images="images/default")

    first, second = make(folder, tmp_path), make(folder, tmp_path)

    names = {split: {i["file_name"] for i in c["images"]} for split, (c, _) in first.items()}
    assert (len(names["train"]), len(names["val"])) == (8, 2)
    assert not names["train"] & names["val"]
    assert first == second
    for content, _ in first.values():
        ids = {image["id"] for image in content["images"]}
        assert {box["image_id"] for box in content["annotations"]} <= ids


@pytest.fixture
def single(tmp_path):
    """A folder with one file of ten images for all, its content changed by a function."""

    def write(change):
        content = write_set(tmp_path / "export", 10, file_name="all.json")
        change(content)
        rewrite(tmp_path / "export" / "all.json", **content)
        return tmp_path / "export"

    return write


def test_both_entries_of_a_picture_go_to_the_same_part(single, tmp_path):
    def pair(content):
        for first, second in zip(content["images"][::2], content["images"][1::2]):
            second["file_name"] = first["file_name"]

    found = make(single(pair), tmp_path)

    names = {split: [i["file_name"] for i in c["images"]] for split, (c, _) in found.items()}
    assert (len(names["train"]), len(names["val"])) == (8, 2)
    assert not set(names["train"]) & set(names["val"])


def test_validation_pictures_are_drawn_among_those_with_a_box(single, tmp_path):
    def strip(content):
        del content["annotations"][2:]
        content["annotations"].append({**content["annotations"][0], "image_id": 5, "iscrowd": 1})
        content["annotations"].append(
            {**content["annotations"][0], "image_id": 6, "bbox": [1, 1, 0, 9]}
        )

    found = make(single(strip), tmp_path)

    assert (len(found["train"][0]["images"]), len(found["val"][0]["images"])) == (9, 1)
    assert found["val"][0]["images"][0]["id"] in (1, 2)


def test_what_cannot_be_split_is_refused(single, tmp_path):
    with pytest.raises(DataError, match=r"all\.json: image id 1 occurs 2 times"):
        make(single(lambda c: c["images"][1].update(id=1)), tmp_path)
    with pytest.raises(AnnotationError, match=r"has 1 picture\(s\) with a box: no validation"):
        make(single(lambda c: c.update(annotations=c["annotations"][:1])), tmp_path)


def test_a_drawn_validation_set_leaves_the_other_sets_to_be_compared(tmp_path, caplog):
    folder = tmp_path / "export"
    write_set(folder / "train", 4)
    shutil.copytree(folder / "train", folder / "test")

    make(folder, tmp_path)

    assert "picture(s) of test are training pictures too" in caplog.text


def test_label_studio(tmp_path):
    folder = tmp_path / "export"
    content = write_set(
        folder, 5, file_name="result.json", images="images", classes={0: "red", 1: "green"}
    )
    for image in content["images"]:
        image["file_name"] = f"..\\..\\server\\upload\\{image['file_name']}"
    (folder / "result.json").write_text(json.dumps(content))

    found, images = make(folder, tmp_path)["train"]

    assert images.endswith("images")
    assert [c["id"] for c in found["categories"]] == [0, 1]


def test_classes_are_those_of_all_splits(tmp_path):
    folder = tmp_path / "export"
    write_set(folder / "train", 3)
    write_set(folder / "valid", 2, classes={1: "red", 7: "cyan"})

    found = make(folder, tmp_path)

    for content, _ in found.values():
        assert [c["id"] for c in content["categories"]] == [1, 2, 4, 7]


def test_splits_that_disagree_about_a_class_are_refused(tmp_path):
    write_set(tmp_path / "export" / "train", 3)
    write_set(tmp_path / "export" / "valid", 2, classes={1: "blue"})

    with pytest.raises(AnnotationError, match=r"category 1 is 'red' in .* but 'blue'"):
        make(tmp_path / "export", tmp_path)


def test_pictures_that_are_learnt_and_tested_are_told(tmp_path, caplog):
    folder = tmp_path / "export"
    write_set(folder / "train", 3)
    shutil.copytree(folder / "train", folder / "valid")

    make(folder, tmp_path)

    assert "3 picture(s) of val are training pictures too" in caplog.text


@pytest.mark.parametrize("ids", [[None] * 3, [5, 5, 6], ["a", "b", "c"], [1.0, 2.0, 3.0]])
def test_annotations_without_ids_of_their_own_are_numbered(tmp_path, ids):
    folder = tmp_path / "export"
    for split in ("train", "val"):
        boxes = write_set(folder / split, 3)["annotations"]
        for box, value in zip(boxes, ids):
            box["id"] = value
            if value is None:
                del box["id"]
        rewrite(folder / split / "annotations_without_background.json", annotations=boxes)

    for content, _ in make(folder, tmp_path).values():
        assert [box["id"] for box in content["annotations"]] == [1, 2, 3]


def test_annotations_keep_ids_of_their_own(tmp_path):
    boxes = write_set(tmp_path / "export" / "train", 3)["annotations"]
    write_set(tmp_path / "export" / "val", 3)
    for box in boxes:
        box["id"] += 6
    path = tmp_path / "export" / "train" / "annotations_without_background.json"
    rewrite(path, annotations=boxes)

    content, _ = make(tmp_path / "export", tmp_path)["train"]

    assert content["annotations"] == boxes


def test_other_files_are_passed_over(tmp_path):
    folder = tmp_path / "export"
    write_set(folder / "train", 3)
    write_set(folder / "val", 3)
    write_set(folder / "train", 3, file_name="fewshot_train_shot1_seed3.json")
    (folder / "readme.json").write_text('{"about": "this"}')
    (folder / "broken.json").write_text("{")

    assert [split.name for split in find_splits(folder)] == ["train", "val"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "holds no COCO-format annotations"),
        (["test/a.json"], "no training data"),
        (["train/a.json", "train/b.json"], "both look like annotations of the split 'train'"),
    ],
)
def test_a_folder_that_tells_no_training_data_is_refused(tmp_path, files, message):
    folder = tmp_path / "export"
    folder.mkdir()
    for file in files:
        write_set(folder / file.partition("/")[0], 2, file_name=file.partition("/")[2])

    with pytest.raises(AnnotationError, match=message):
        make(folder, tmp_path)


def test_missing_pictures_and_folders_are_named(tmp_path):
    folder = tmp_path / "export"
    write_set(folder / "train", 2)
    for picture in (folder / "train").glob("*.png"):
        picture.unlink()

    with pytest.raises(FileNotFoundError, match=r"names train_0\.png, which is in none of"):
        make(folder, tmp_path)
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        make(tmp_path / "nothing", tmp_path)


def test_the_whole_validation_set_is_preferred_to_the_small_one(tmp_path):
    folder = tmp_path / "export"
    for split in ("train", "valid", "mini_val"):
        write_set(folder / split, 3)

    assert [s.path.parent.name for s in find_splits(folder)] == ["train", "valid"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["images"][0].pop("id"), "lacks 'id'"),
        (lambda c: c["images"][1].pop("file_name"), "lacks 'file_name'"),
        (lambda c: c.update(annotations=None), "has no list 'annotations'"),
        (lambda c: c.update(categories=["red"]), "entry 0 of 'categories' is 'red'"),
        (lambda c: c.update(categories=None), "has no list 'categories'"),
        (lambda c: c["annotations"][0].update(category_id=[1]), "'category_id' must be a whole"),
    ],
)
def test_malformed_files_are_named(single, tmp_path, change, message):
    with pytest.raises(DataError, match=rf"all\.json.*{message}"):
        make(single(change), tmp_path)


def test_classes_named_by_numbers_are_texts(single, tmp_path):
    content, _ = make(single(lambda c: c["categories"][0].update(name=7)), tmp_path)["train"]

    assert [c["name"] for c in content["categories"]] == ["7", "green", "blue"]


def test_small_sets_are_repeated_within_an_epoch(tmp_path):
    write_set(tmp_path / "export" / "train", 3)
    write_set(tmp_path / "export" / "val", 3)
    config = small_config("OUTPUT_DIR", str(tmp_path / "out"))

    datasets = yaml.safe_load(make_own_task(tmp_path / "export", config).read_text())["DATASETS"]

    assert datasets["GENERAL_COPY"] == 14


def test_the_recipe_follows_the_tuning_mode(tmp_path):
    write_set(tmp_path / "export" / "train", 5)
    config = small_config(
        *("OUTPUT_DIR", str(tmp_path / "out")),
        *("SOLVER.TUNING_HIGHLEVEL_OVERRIDE", "language_prompt_v2"),
    )

    solver = yaml.safe_load(make_own_task(tmp_path / "export", config).read_text())["SOLVER"]

    assert (solver["BASE_LR"], solver["WEIGHT_DECAY"]) == (0.05, 0.25)
