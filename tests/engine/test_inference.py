"""Evaluation of a real small model: equal numbers however the images are dealt out, nothing twice."""

import json
import logging
from pathlib import Path

import pytest
import torch

from maskrcnn_benchmark.config import cfg
from maskrcnn_benchmark.data import make_data_loader
from maskrcnn_benchmark.engine.batches import groups_of_equal_padding
from maskrcnn_benchmark.engine.detectors import CaptionDetector, ClassDetector, queries_of_dataset
from maskrcnn_benchmark.engine.inference import build_detector, inference
from maskrcnn_benchmark.engine.stop_request import EvaluationInterrupted
from maskrcnn_benchmark.errors import ConfigError
from maskrcnn_benchmark.grounding import build_queries
from maskrcnn_benchmark.modeling.detector import build_detection_model
from maskrcnn_benchmark.structures.image_list import to_image_list
from maskrcnn_benchmark.utils import comm
from maskrcnn_benchmark.utils.random_state import seed_all
from tests.engine.small_world import (
    read_config,
    write_config,
    write_detection_set,
    write_expression_set,
)
from tests.process_tools import run_world

NUM_IMAGES = 7


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """Folder with a detection set and the configuration of a small model."""
    folder = tmp_path_factory.mktemp("world")
    write_detection_set(folder, NUM_IMAGES)
    write_config(folder)
    return folder


def sure_model(config):
    """The configured model, untrained but sure enough of itself to find boxes."""
    seed_all(0)
    model = build_detection_model(config).eval()
    with torch.no_grad():
        model.rpn.head.bias0.fill_(0.0)
        model.rpn.head.bias_lang.normal_(std=0.1)
    return model


def run_inference(world, *opts, output=None, **options):
    config = read_config(world / "config.yaml", *opts)
    model = sure_model(config)
    (loader,) = make_data_loader(
        config, is_train=False, is_distributed=comm.is_distributed(), tokenizer=model.tokenizer
    )
    result = inference(config, model, loader, "squares", output_folder=output, **options)
    return result["metrics"]


def boxes_in(folder) -> dict:
    """(image, category) to sorted boxes and scores of a result file."""
    found = {}
    for entry in json.loads((folder / "bbox.json").read_text()):
        key = (entry["image_id"], entry["category_id"])
        found.setdefault(key, []).append((round(entry["score"], 3), entry["bbox"]))
    return {key: sorted(rows, reverse=True) for key, rows in found.items()}


def assert_same_detections(first, second):
    assert first.keys() == second.keys()
    for key, rows in first.items():
        assert len(rows) == len(second[key]), key
        scores = [[score for score, _ in part] for part in (rows, second[key])]
        assert scores[0] == pytest.approx(scores[1], abs=2e-3), key


def test_images_are_grouped_by_the_padding_they_have_alone():
    images = to_image_list(
        [
            torch.full((3, h, w), i + 1.0)
            for i, (h, w) in enumerate([(60, 90), (64, 70), (30, 30), (33, 90)])
        ],
        32,
    )
    groups = groups_of_equal_padding(images, 32)
    assert [places for places, _ in groups] == [[0, 1, 3], [2]]
    assert [tuple(part.tensors.shape[-2:]) for _, part in groups] == [(64, 96), (32, 32)]
    assert groups[1][1].image_sizes == [(30, 30)]
    assert torch.all(groups[1][1].tensors[0, :, :30, :30] == 3.0)


def test_any_batch_size_finds_what_batch_1_finds(world, tmp_path):
    alone = run_inference(world, output=tmp_path / "1")
    for size in (3, 7):
        together = run_inference(world, "TEST.IMS_PER_BATCH", size, output=tmp_path / str(size))
        assert_same_detections(boxes_in(tmp_path / "1"), boxes_in(tmp_path / str(size)))
        assert together == pytest.approx(alone, abs=1e-3, nan_ok=True)


def test_every_image_is_in_the_result_with_boxes(world, tmp_path):
    run_inference(world, output=tmp_path)
    assert {image for image, _ in boxes_in(tmp_path)} == set(range(100, 100 + NUM_IMAGES))


def metrics_and_files(world, output):
    return run_inference(world, "TEST.IMS_PER_BATCH", comm.get_world_size(), output=output)


@pytest.mark.parametrize("world_size", [2, 3])
def test_the_numbers_do_not_depend_on_the_number_of_processes(world, tmp_path, world_size):
    alone = run_inference(world, output=tmp_path / "alone")
    shared = run_world(
        world_size, metrics_and_files, world, tmp_path / "shared", folder=tmp_path / "processes"
    )
    for metrics in shared:
        assert metrics == pytest.approx(alone, nan_ok=True)
    assert_same_detections(boxes_in(tmp_path / "alone"), boxes_in(tmp_path / "shared"))


class Calls:
    """Counts calls of the stages of a model."""

    def __init__(self, model, monkeypatch):
        self.images, self.texts, self.heads = [], [], 0
        encode_images, encode_text, detect = model.encode_images, model.encode_text, model.detect

        def count_images(images):
            self.images.append(len(images))
            return encode_images(images)

        def count_text(captions, *rest):
            self.texts += list(captions)
            return encode_text(captions, *rest)

        def count_heads(*arguments):
            self.heads += 1
            return detect(*arguments)

        monkeypatch.setattr(model, "encode_images", count_images)
        monkeypatch.setattr(model, "encode_text", count_text)
        monkeypatch.setattr(model, "detect", count_heads)


def test_captions_are_encoded_once_per_run_and_images_once_whatever_the_number_of_captions(
    world, monkeypatch
):
    config = read_config(world / "config.yaml", "TEST.CHUNKED_EVALUATION", 1)
    model = sure_model(config)
    calls = Calls(model, monkeypatch)
    (loader,) = make_data_loader(config, is_train=False, tokenizer=model.tokenizer)
    inference(config, model, loader, "squares")
    assert calls.texts == ["red square", "green square", "blue square"]
    assert sum(calls.images) == NUM_IMAGES
    assert calls.heads == 3 * NUM_IMAGES


def test_the_result_of_chunks_is_the_union_of_the_chunks(world):
    config = read_config(world / "config.yaml", "TEST.CHUNKED_EVALUATION", 2)
    model = sure_model(config)
    (loader,) = make_data_loader(config, is_train=False, tokenizer=model.tokenizer)
    queries = queries_of_dataset(config, loader.dataset, model.tokenizer)
    batch = next(iter(loader))
    with torch.no_grad():
        (whole,) = ClassDetector(model, queries, 32)(batch)
        parts = [ClassDetector(model, [query], 32)(batch)[0] for query in queries]
    assert [sorted(query.label_to_tokens) for query in queries] == [[1, 2], [3]]
    assert len(whole) == len(parts[0]) + len(parts[1])
    expected = torch.cat([part.bbox for part in parts])
    torch.testing.assert_close(whole.bbox, expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("images", [1, 3])
@pytest.mark.parametrize("pairs", [2, 3, 100])
def test_chunks_in_one_forward_pass_are_found_as_alone(world, images, pairs):
    config = read_config(world / "config.yaml", "TEST.IMS_PER_BATCH", images)
    model = sure_model(config)
    (loader,) = make_data_loader(config, is_train=False, tokenizer=model.tokenizer)
    names = {1: "red square", 2: "a small green square of the picture", 3: "square", 4: "it"}
    queries = build_queries(names, model.tokenizer, separation_tokens=". ", chunk_size=1)
    lengths = {len(model.encode_text([query.caption]).masks[0]) for query in queries}
    batch = next(iter(loader))
    with torch.no_grad():
        alone = ClassDetector(model, queries, 32, pairs_at_once=1)(batch)
        together = ClassDetector(model, queries, 32, pairs_at_once=pairs)(batch)

    assert len(lengths) > 1
    assert len(alone) == len(together) == images
    for one, other in zip(alone, together):
        assert set(one.get_field("labels").tolist()) == {1, 2, 3, 4}
        assert torch.equal(one.get_field("labels"), other.get_field("labels"))
        torch.testing.assert_close(one.bbox, other.bbox, atol=1e-3, rtol=0)
        torch.testing.assert_close(one.get_field("scores"), other.get_field("scores"))


def test_chunks_share_as_many_forward_passes_as_configured(world, monkeypatch):
    options = ("TEST.CHUNKED_EVALUATION", 1, "TEST.CHUNKS_PER_FORWARD", 2)
    config = read_config(world / "config.yaml", *options)
    model = sure_model(config)
    calls = Calls(model, monkeypatch)
    (loader,) = make_data_loader(config, is_train=False, tokenizer=model.tokenizer)
    inference(config, model, loader, "squares")
    assert calls.heads == 2 * NUM_IMAGES


def test_a_negative_number_of_chunks_at_a_time_is_refused(world):
    with pytest.raises(ValueError, match=r"TEST\.CHUNKS_PER_FORWARD must not be negative, got -1"):
        run_inference(world, "TEST.CHUNKS_PER_FORWARD", -1)


def test_a_subset_keeps_its_image_ids(world, tmp_path):
    run_inference(world, "TEST.SUBSET", 2, output=tmp_path)
    assert {image for image, _ in boxes_in(tmp_path)} == {100, 101}


def stop_after(count):
    """A question that is answered with yes from the n-th time on."""
    asked = []

    def should_stop():
        asked.append(None)
        return len(asked) >= count

    return should_stop


def test_an_interrupted_evaluation_goes_on_with_the_images_that_are_left(
    world, tmp_path, monkeypatch
):
    expected = run_inference(world, output=tmp_path / "whole")
    with pytest.raises(EvaluationInterrupted):
        run_inference(world, output=tmp_path / "cut", should_stop=stop_after(3))

    config = read_config(world / "config.yaml")
    model = sure_model(config)
    calls = Calls(model, monkeypatch)
    (loader,) = make_data_loader(config, is_train=False, tokenizer=model.tokenizer)
    result = inference(config, model, loader, "squares", output_folder=tmp_path / "cut")

    assert sum(calls.images) == NUM_IMAGES - 3
    assert result["metrics"] == pytest.approx(expected, nan_ok=True)
    assert boxes_in(tmp_path / "cut") == boxes_in(tmp_path / "whole")
    assert not list((tmp_path / "cut").glob("unfinished*"))


def test_predictions_of_other_weights_or_settings_are_not_used_again(world, tmp_path, monkeypatch):
    with pytest.raises(EvaluationInterrupted):
        run_inference(world, output=tmp_path, should_stop=stop_after(3))
    config = read_config(world / "config.yaml", "MODEL.ATSS.INFERENCE_TH", 0.2)
    model = sure_model(config)
    calls = Calls(model, monkeypatch)
    (loader,) = make_data_loader(config, is_train=False, tokenizer=model.tokenizer)
    inference(config, model, loader, "squares", output_folder=tmp_path)
    assert sum(calls.images) == NUM_IMAGES


def stop_on_rank_1(world, output):
    try:
        run_inference(
            world, "TEST.IMS_PER_BATCH", 2, output=output, should_stop=lambda: comm.get_rank() == 1
        )
    except EvaluationInterrupted:
        return "interrupted"
    return "finished"


def test_a_stop_of_one_process_interrupts_all(world, tmp_path):
    outcome = run_world(2, stop_on_rank_1, world, tmp_path / "out", folder=tmp_path / "processes")
    assert outcome == ["interrupted", "interrupted"]


def test_referring_expressions_are_found_in_batches_as_alone(tmp_path):
    write_detection_set(tmp_path, 4)
    annotations = write_expression_set(tmp_path / "refcoco", 4)
    entry = {
        "type": "RefExpDataset",
        "img_dir": str(tmp_path / "refcoco/images"),
        "ann_file": str(annotations),
    }
    write_config(
        tmp_path, DATASETS__REGISTER={"refcoco_val": entry}, DATASETS__TEST="('refcoco_val',)"
    )
    opts = ("TEST.EVAL_TASK", "grounding", "DATASETS.SEPARATION_TOKENS", ". ")
    alone = run_inference(tmp_path, *opts, output=tmp_path / "1")
    together = run_inference(tmp_path, *opts, "TEST.IMS_PER_BATCH", 4, output=tmp_path / "4")
    assert alone and alone == together
    first, second = (
        torch.load(tmp_path / size / "predictions.pth", weights_only=True)["predictions"]
        for size in "14"
    )
    assert first.keys() == second.keys() == {100, 101, 102, 103}
    for image_id, alone in first.items():
        assert len(alone["scores"]) > 0
        torch.testing.assert_close(
            alone["scores"].sort().values,
            second[image_id]["scores"].sort().values,
            atol=1e-3,
            rtol=0,
        )


def write_shared_pictures(folder, pictures):
    """A set of expressions, the n-th about picture ``pictures[n]``."""
    path = write_expression_set(folder / "refcoco", len(pictures))
    content = json.loads(path.read_text())
    names = [image["file_name"] for image in content["images"]]
    for image, picture in zip(content["images"], pictures):
        image["file_name"] = names[picture]
    path.write_text(json.dumps(content))
    entry = {
        "type": "RefExpDataset",
        "img_dir": str(folder / "refcoco/images"),
        "ann_file": str(path),
    }
    write_config(
        folder, DATASETS__REGISTER={"refcoco_val": entry}, DATASETS__TEST="('refcoco_val',)"
    )


@pytest.mark.parametrize("images", [1, 2, 4])
def test_a_picture_is_encoded_once_for_all_its_expressions(tmp_path, monkeypatch, images):
    write_shared_pictures(tmp_path, [0, 1, 0, 1, 1, 2])
    config = read_config(
        tmp_path / "config.yaml", "TEST.EVAL_TASK", "grounding", "TEST.IMS_PER_BATCH", images
    )
    model = sure_model(config)
    (loader,) = make_data_loader(config, is_train=False, tokenizer=model.tokenizer)
    calls = Calls(model, monkeypatch)

    with torch.no_grad():
        shared = CaptionDetector(model, 32, loader.dataset.pictures())
        found = {}
        for batch in loader:
            found.update(zip(batch.ids, shared(batch)))
        encoded = sum(calls.images)
        apart = CaptionDetector(model, 32)
        for batch in loader:
            for index, boxes in zip(batch.ids, apart(batch)):
                assert len(boxes) == len(found[index]) > 0
                torch.testing.assert_close(
                    boxes.get_field("scores"), found[index].get_field("scores")
                )

    assert encoded == 3
    assert sorted(calls.texts) == sorted(2 * list(calls.texts[:6]))


@pytest.mark.parametrize("merging", ["none", "soft-vote"])
def test_several_sizes_and_mirror_images_of_every_picture_are_merged(world, tmp_path, merging):
    views = ("TEST.SCALES", (48, 64), "TEST.RANGES", ((0, 1000), (0, 1000)), "TEST.FLIP", True)
    options = ("TEST.USE_MULTISCALE", True, "TEST.SPECIAL_NMS", merging, *views)

    run_inference(world, *options, "TEST.IMS_PER_BATCH", 3, output=tmp_path / "all")
    run_inference(world, *options, "TEST.CHUNKED_EVALUATION", 1, output=tmp_path / "chunks")

    found = boxes_in(tmp_path / "all")
    assert {image for image, _ in found} == set(range(100, 100 + NUM_IMAGES))
    assert {category for _, category in boxes_in(tmp_path / "chunks")} == {1, 2, 3}


def test_one_view_of_the_usual_size_finds_what_the_plain_test_finds(world, tmp_path):
    view = ("TEST.SCALES", (64,), "TEST.RANGES", ((0, 1000),), "TEST.FLIP", False)
    size = ("TEST.MAX_SIZE", 96, "TEST.PRE_NMS_TOP_N", 100)

    run_inference(world, output=tmp_path / "plain")
    run_inference(world, "TEST.USE_MULTISCALE", True, *view, *size, output=tmp_path / "view")

    plain, seen = boxes_in(tmp_path / "plain"), boxes_in(tmp_path / "view")
    for key, rows in plain.items():
        assert rows[0][0] == pytest.approx(seen[key][0][0], abs=2e-3), key


def test_several_sizes_asked_for_by_a_task_alone_merge_what_is_not_yet_suppressed(world):
    def wanted(*opts):
        return read_config(world / "config.yaml", *opts)

    several = ("TEST.USE_MULTISCALE", True, "TEST.SCALES", (48, 64), "TEST.FLIP", False)
    ranges = ("TEST.RANGES", ((0, 1000), (0, 1000)))
    model, plain = sure_model(wanted(*several, *ranges)), sure_model(wanted())
    found = []
    for each in (model, plain):
        config = wanted(*several, *ranges)
        (loader,) = make_data_loader(config, is_train=False, tokenizer=each.tokenizer)
        with torch.no_grad():
            found.append(build_detector(config, each, loader.dataset)(next(iter(loader)))[0])

    assert torch.equal(found[0].bbox, found[1].bbox) and len(found[0]) > 0
    build_detector(wanted(), model, loader.dataset)
    assert model.rpn.post_processor.suppress


def test_missed_expectations_are_reported(world, caplog):
    config = read_config(
        world / "config.yaml", "TEST.EXPECTED_RESULTS", [["bbox", "AP", [0.9, 0.01]]]
    )
    model = sure_model(config)
    (loader,) = make_data_loader(config, is_train=False, tokenizer=model.tokenizer)
    with caplog.at_level(logging.ERROR):
        result = inference(config, model, loader, "squares")
    assert result["expected"] is False
    assert "FAIL" in caplog.text


@pytest.mark.parametrize(
    ("key", "value"), [("TEST.EVAL_TASK", "classification"), ("TEST.PRECISION", "int8")]
)
def test_unknown_settings_are_refused(world, key, value):
    with pytest.raises(ValueError, match=f"{key} is '{value}'"):
        run_inference(world, key, value)


def expressions_config(folder, *opts):
    """Configuration of a small model with a set of referring expressions to test on."""
    annotations = write_expression_set(folder / "refcoco", 2)
    images = str(folder / "refcoco/images")
    entry = {"type": "RefExpDataset", "img_dir": images, "ann_file": str(annotations)}
    names = {"DATASETS__REGISTER": {"refs": entry}, "DATASETS__TEST": "('refs',)"}
    return read_config(write_config(folder, **names), *opts)


@pytest.mark.parametrize("copies", [1, 2])
@pytest.mark.parametrize("task", ["", "detection"])
def test_captions_are_not_asked_for_classes(tmp_path, task, copies):
    config = expressions_config(
        tmp_path, "TEST.EVAL_TASK", task, "DATASETS.GENERAL_COPY_TEST", copies
    )
    model = sure_model(config)
    (loader,) = make_data_loader(config, is_train=False, tokenizer=model.tokenizer)

    message = rf"EVAL_TASK is '{task}', but refs \(RefExpDataset\) .* set it to 'grounding'"
    with pytest.raises(ConfigError, match=message):
        inference(config, model, loader, "expressions")
    with pytest.raises(ConfigError, match=message):
        build_detector(config, model, loader.dataset)


def test_classes_are_not_asked_for_phrases(world):
    message = r"EVAL_TASK is 'grounding', but \w+ \(COCODataset\) has no captions; .* 'detection'"
    with pytest.raises(ConfigError, match=message):
        run_inference(world, "TEST.EVAL_TASK", "grounding")


def test_low_precision_runs_and_finds_boxes(world, tmp_path):
    run_inference(world, "TEST.PRECISION", "bfloat16", output=tmp_path)
    assert boxes_in(tmp_path)


def test_the_default_configuration_is_left_alone(world):
    assert cfg.TEST.SUBSET == -1
