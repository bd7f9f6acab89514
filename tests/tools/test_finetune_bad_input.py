"""tools/finetune.py says what is odd about data, by file and entry, before the first iteration."""

import json

import pytest

from maskrcnn_benchmark.engine.training_loop import Trainer
from tests.engine.small_task import (
    SIDE,
    count_classes_from_zero,
    list_a_picture_twice,
    run_finetune,
    write_task,
)


@pytest.fixture
def begin(tmp_path, monkeypatch, capsys):
    """Run the tool up to the first iteration; what it has said by then, and the folder of the run."""
    reached = []

    def train(trainer):
        reached.append(trainer.iteration)
        return False  # as if stopped by a signal

    monkeypatch.setattr(Trainer, "train", train)

    def run(change=lambda content: None, *flags, **settings):
        task = write_task(tmp_path)
        for path in (tmp_path / "colours").glob("*/annotations_without_background.json"):
            content = json.loads(path.read_text())
            change(content)
            path.write_text(json.dumps(content))
        with task.open("a") as file:
            file.writelines(f"{key}: {json.dumps(value)}\n" for key, value in settings.items())
        assert run_finetune(tmp_path / "out", "--ft-tasks", str(task), *flags) == 0
        assert reached == [0]
        return capsys.readouterr().out, tmp_path / "out" / "ft_task_1"

    return run


def change_first_box(**entries):
    return lambda content: content["annotations"][0].update(entries)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["categories"].append({"id": 9, "name": "sky"}), "no image has a box of 1"),
        (count_classes_from_zero, "category id 0 is a class here ('red')"),
        (change_first_box(iscrowd=1), "1 box(es) are crowd regions"),
        (change_first_box(bbox=[50, 50, 30, 30]), "1 box(es) reach out of their image"),
        (change_first_box(bbox=[SIDE + 9, 9, 5, 5]), "1 box(es) are at most one pixel wide"),
        (list_a_picture_twice, "1 picture(s) are listed more than once"),
    ],
)
def test_what_is_odd_is_said_before_the_first_iteration(begin, change, message):
    said, _ = begin(change)

    assert f"(training): {message}" in said


def test_an_image_without_boxes_is_told_and_is_no_shot(begin):
    def strip_first_image(content):
        content["annotations"] = [b for b in content["annotations"] if b["image_id"] != 1]

    said, folder = begin(strip_first_image, "--custom_shot_and_epoch_and_general_copy", "1_1_1")

    assert "1 of 4 images have no usable box; training leaves them out" in said
    chosen = json.loads((folder / "few_shot_images.json").read_text())["sets"][0]["image_ids"]
    assert sorted(chosen) == [2, 3, 4]


def test_a_class_count_of_the_task_file_that_disagrees_is_replaced(begin):
    said, folder = begin(MODEL={"DYHEAD": {"NUM_CLASSES": 9}})

    assert "MODEL.DYHEAD.NUM_CLASSES is 9; " in said
    assert "has 3 classes, so 4 (with background) is used" in said
    assert "NUM_CLASSES: 9" not in (folder / "config.yml").read_text()
