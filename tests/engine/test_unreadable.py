"""Test sets whose pictures are missing or broken: refused by name, or counted when allowed."""

import json
import logging
import shutil
from pathlib import Path

import pytest

from maskrcnn_benchmark.data import make_data_loader
from maskrcnn_benchmark.engine.evaluate_tasks import list_tasks, require_datasets
from maskrcnn_benchmark.engine.inference import inference
from maskrcnn_benchmark.errors import DataError
from maskrcnn_benchmark.modeling.detector import build_detection_model
from tests.engine.small_world import read_config, write_config, write_detection_set

NUM_IMAGES = 4


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    write_detection_set(folder, NUM_IMAGES)
    write_config(folder)
    return folder


@pytest.fixture
def world(whole, tmp_path) -> Path:
    """A copy that a test may spoil."""
    folder = tmp_path / "world"
    shutil.copytree(whole, folder)
    write_config(folder)
    return folder


def evaluate(world: Path, output: Path, *opts) -> dict:
    config = read_config(world / "config.yaml", *opts)
    model = build_detection_model(config).eval()
    (loader,) = make_data_loader(config, is_train=False, tokenizer=model.tokenizer)
    return inference(config, model, loader, "squares", output_folder=output)


def test_missing_pictures_are_counted_and_named_before_the_first_is_computed(world, tmp_path):
    for name in ("001.png", "003.png"):
        (world / "images" / name).unlink()
    with pytest.raises(DataError, match=r"squares: 2 of 4 pictures are missing: .*001\.png, .*003"):
        evaluate(world, tmp_path / "out")
    (unfinished,) = (tmp_path / "out").glob("unfinished.*")
    assert len(unfinished.read_text().splitlines()) == 1  # nothing beside the header


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_picture_stops_with_one_line(world, tmp_path, workers):
    (world / "images/002.png").write_bytes(b"no picture")
    with pytest.raises(DataError) as caught:
        evaluate(world, tmp_path, "DATALOADER.NUM_WORKERS", workers)
    message = str(caught.value)
    assert "002.png" in message and "SKIP_BROKEN_IMAGES" in message
    assert "\n" not in message


def test_allowed_ones_count_as_pictures_in_which_nothing_was_found(world, tmp_path, caplog):
    (world / "images/002.png").write_bytes(b"no picture")
    (world / "images/003.png").unlink()
    with caplog.at_level(logging.WARNING):
        result = evaluate(
            world, tmp_path, "DATASETS.SKIP_BROKEN_IMAGES", True, "TEST.IMS_PER_BATCH", 2
        )
    assert "2 picture(s) could not be read" in caplog.text
    assert "AP" in result["metrics"]
    found = {row["image_id"] for row in json.loads((tmp_path / "bbox.json").read_text())}
    assert found.isdisjoint({102, 103})


def test_a_broken_picture_in_training_is_told_as_in_the_process_that_trains(world):
    (world / "images/002.png").write_bytes(b"no picture")
    config = read_config(world / "config.yaml", "DATALOADER.NUM_WORKERS", 1)
    model = build_detection_model(config)
    loader = make_data_loader(config, is_train=True, tokenizer=model.tokenizer)
    with pytest.raises(DataError) as caught:
        list(loader)
    assert str(caught.value).startswith("Image ") and "\n" not in str(caught.value)
    assert "Original Traceback" in str(caught.value.__cause__)


def test_all_tasks_without_files_are_named_before_the_first_is_evaluated(world):
    config = read_config(world / "config.yaml")
    files = []
    for name, folder in (("good", "images"), ("one", "nowhere"), ("two", "nowhere")):
        files.append(world / f"{name}.yaml")
        files[-1].write_text(
            f"DATASETS:\n  REGISTER:\n    val: {{img_dir: {world / folder}, "
            f"ann_file: {world / 'annotations.json'}}}\n  TEST: ('val',)\n"
        )
    tasks = list_tasks(config, [str(file) for file in files], [])
    with pytest.raises(
        FileNotFoundError, match=r"2 of 3 task\(s\) lack files. one: val: .*two: val"
    ):
        require_datasets(tasks)
    require_datasets(tasks[:1])
