"""Evaluation with a sentence for every class: what is found, and what is refused."""

import json
import logging
from pathlib import Path

import pytest
import torch
import yaml

from maskrcnn_benchmark.data import make_data_loader
from maskrcnn_benchmark.engine.class_sentences import check_class_sentences, encode_class_sentences
from maskrcnn_benchmark.engine.detectors import ClassDetector
from maskrcnn_benchmark.engine.evaluate_tasks import list_tasks
from maskrcnn_benchmark.engine.inference import build_detector
from maskrcnn_benchmark.engine.predictor_glip import GLIPDemo
from maskrcnn_benchmark.engine.stop_request import EvaluationInterrupted
from maskrcnn_benchmark.engine.trainer import build_trainer
from maskrcnn_benchmark.errors import ConfigError, DataError
from maskrcnn_benchmark.modeling.detector import GeneralizedVLRCNN
from tests.engine.small_world import read_config, write_config, write_detection_set
from tests.engine.test_inference import Calls, boxes_in, run_inference, sure_model

KNOWLEDGE = {
    "red square": {
        "clean_name": "red square",
        "def_wiki": "A square that is red.",
        "gpt3": [" It has four corners.", " It is a shape."],
    },
    "green square": {"clean_name": "green", "def_wiki": None, "gpt3": [" A green shape."]},
}
PARALLEL = ("GLIPKNOW.PARALLEL_LANGUAGE_INPUT", True)


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    write_detection_set(folder, 4)
    write_config(folder)
    (folder / "knowledge.yaml").write_text(yaml.safe_dump(KNOWLEDGE))
    return folder


def settings(world: Path, kind: str = "gpt3_and_wiki") -> tuple:
    file = ("GLIPKNOW.KNOWLEDGE_FILE", str(world / "knowledge.yaml"))
    return (*PARALLEL, *file, "GLIPKNOW.KNOWLEDGE_TYPE", kind)


class Classes:
    """A set of which only the classes are asked for."""

    def __init__(self, categories: dict[int, str]):
        self._categories = categories

    def categories(self) -> dict[int, str]:
        return self._categories


def test_every_class_is_a_sentence_encoded_once_for_all_pictures(world, monkeypatch, caplog):
    config = read_config(world / "config.yaml", *settings(world), "TEST.CHUNKED_EVALUATION", 1)
    model = sure_model(config)
    calls = Calls(model, monkeypatch)
    (loader,) = make_data_loader(config, is_train=False, tokenizer=model.tokenizer)

    with torch.no_grad(), caplog.at_level(logging.WARNING):
        detector = build_detector(config, model, loader.dataset)
        found = [boxes for batch in loader for boxes in detector(batch)]

    assert sorted(calls.texts) == [
        "",
        "blue square",
        "green: A green shape.",
        "red square: A square that is red. It has four corners. It is a shape.",
    ]
    assert calls.heads == len(found) == 4
    assert {label for boxes in found for label in boxes.get_field("labels").tolist()} == {1, 2, 3}
    assert "1 of 3 classes are not in" in caplog.text and "'blue square'" in caplog.text


@torch.no_grad()
def test_the_order_of_the_classes_does_not_matter(world):
    config = read_config(world / "config.yaml", *settings(world))
    model = sure_model(config)
    (loader,) = make_data_loader(config, is_train=False, tokenizer=model.tokenizer)
    names = ["red square", "green square", "blue square", "a dog", "cat"]
    batch = next(iter(loader))
    found = []
    for order in ([0, 1, 2, 3, 4], [3, 0, 4, 2, 1]):
        classes = Classes({label + 1: names[place] for label, place in enumerate(order)})
        query = encode_class_sentences(config, model, classes)
        (boxes,) = ClassDetector(model, [query], 32)(batch)
        places = torch.tensor(order)[boxes.get_field("labels") - 1]
        scores = [boxes.get_field("scores")[places == place] for place in range(5)]
        corners = [boxes.bbox[places == place] for place in range(5)]
        found.append((scores, corners))

    assert min(map(len, found[0][0])) > 0
    for first, second in zip(*found):
        for a, b in zip(first, second):
            torch.testing.assert_close(a, b, atol=1e-3, rtol=1e-3)


def test_knowledge_and_pooling_change_what_is_found(world, tmp_path):
    runs = {
        "names": PARALLEL,
        "wiki": settings(world, "def_wiki"),
        "both": settings(world),
        "mean": (*settings(world), "GLIPKNOW.LAN_FEATURE_AGG_TYPE", "mean"),
    }
    found = {}
    for name, options in runs.items():
        run_inference(world, *options, output=tmp_path / name)
        found[name] = json.dumps(sorted(boxes_in(tmp_path / name).items()))

    assert len(set(found.values())) == len(runs)


@pytest.mark.parametrize("changed", [False, True])
def test_an_interrupted_run_goes_on_only_with_the_same_knowledge(tmp_path, monkeypatch, changed):
    write_detection_set(tmp_path, 4)
    write_config(tmp_path)
    path = tmp_path / "knowledge.yaml"
    path.write_text(yaml.safe_dump(KNOWLEDGE))
    with pytest.raises(EvaluationInterrupted):
        run_inference(
            tmp_path, *settings(tmp_path), output=tmp_path / "out", should_stop=lambda: True
        )
    if changed:
        path.write_text(yaml.safe_dump({**KNOWLEDGE, "blue square": {"def_wiki": "It is blue."}}))
    pictures = []

    def count(model, images):
        pictures.extend(images.image_sizes)
        return encode_images(model, images)

    encode_images = GeneralizedVLRCNN.encode_images
    monkeypatch.setattr(GeneralizedVLRCNN, "encode_images", count)
    run_inference(tmp_path, *settings(tmp_path), output=tmp_path / "out")

    assert len(pictures) == (4 if changed else 3)


def test_the_switch_is_a_synonym_of_the_kind(world, tmp_path):
    run_inference(world, *settings(world), output=tmp_path / "kind")
    switch = (*settings(world, "gpt3"), "GLIPKNOW.WIKI_AND_GPT3", True)
    run_inference(world, *switch, output=tmp_path / "switch")

    assert boxes_in(tmp_path / "kind") == boxes_in(tmp_path / "switch")


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (("GLIPKNOW.PARALLEL_LANGUAGE_INPUT", False), "PARALLEL_LANGUAGE_INPUT True reads it"),
        (("GLIPKNOW.KNOWLEDGE_TYPE", "wiki"), "'wiki', not one of def_wiki"),
        (("GLIPKNOW.KNOWLEDGE_TYPE", ""), "not one of def_wiki"),
        (("GLIPKNOW.LAN_FEATURE_AGG_TYPE", "max"), "'max', not one of first, mean"),
        (("GLIPKNOW.GPT3_NUM", -1), "GPT3_NUM must not be negative"),
        (("GLIPKNOW.KNOWLEDGE_FILE", ""), "KNOWLEDGE_FILE, which is not set"),
        (("TEST.EVAL_TASK", "grounding"), "EVAL_TASK 'detection'"),
        (("MODEL.SWINT.VERSION", "fusion"), "FIBER"),
        (("DATASETS.ONE_HOT", True), "ONE_HOT False"),
        (("MODEL.LANGUAGE_BACKBONE.MASK_SPECIAL", True), "MASK_SPECIAL False"),
        (("MODEL.DYHEAD.FUSE_CONFIG.ADD_LINEAR_LAYER", True), "ADD_LINEAR_LAYER False"),
        (("MODEL.DYHEAD.FUSE_CONFIG.USE_DOT_PRODUCT_TOKEN_LOSS", False), "the dot product"),
    ],
)
def test_settings_that_cannot_work_are_refused_before_anything_is_built(world, opts, message):
    config = read_config(world / "config.yaml", *settings(world), *opts)
    with pytest.raises(ConfigError, match=message):
        list_tasks(config, [], [])
    with pytest.raises(ConfigError, match=message):
        check_class_sentences(config)


def test_a_malformed_file_is_an_error_before_anything_is_built(world, tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text("red square: 5")
    config = read_config(
        world / "config.yaml", *settings(world), "GLIPKNOW.KNOWLEDGE_FILE", str(path)
    )
    with pytest.raises(DataError, match=r"bad\.yaml: 'red square' must be a mapping"):
        list_tasks(config, [], [])


@pytest.mark.parametrize("key", ["PARALLEL_LANGUAGE_INPUT", "KNOWLEDGE_FILE"])
@pytest.mark.parametrize("use", [build_trainer, GLIPDemo])
def test_training_and_the_demo_refuse_what_they_would_not_read(world, key, use):
    value = str(world / "knowledge.yaml") if key == "KNOWLEDGE_FILE" else True
    config = read_config(world / "config.yaml", f"GLIPKNOW.{key}", value)
    with pytest.raises(ConfigError, match=f"GLIPKNOW.{key} is not supported for"):
        use(config)
