"""Evaluating with knowledge about the classes, as a command."""

import json

import pytest
import yaml

from tests.engine.small_world import write_config, write_detection_set
from tools import (
    imitate_encoders,
    make_pseudo_labels,
    pretrain_shapes,
    train_net,
    visualize_grounding_net,
)
from tools.test_grounding_net import main as evaluate_net

KNOWLEDGE = {
    "red square": {"clean_name": "red square", "def_wiki": "It is red.", "gpt3": [" A shape."]},
    "green square": {"clean_name": "green square", "def_wiki": None, "gpt3": [" Green."]},
}


@pytest.fixture
def command(tmp_path) -> list[str]:
    """Evaluation of a small set with a sentence for each class."""
    write_detection_set(tmp_path, 4)
    # Low enough for a model that has learnt nothing yet.
    config = write_config(tmp_path, MODEL__ATSS__INFERENCE_TH=0.0)
    knowledge = tmp_path / "knowledge.yaml"
    knowledge.write_text(yaml.safe_dump(KNOWLEDGE))
    return [
        *("--config-file", str(config)),
        *("TEST.EVAL_TASK", "detection"),
        *("GLIPKNOW.PARALLEL_LANGUAGE_INPUT", "True"),
        *("GLIPKNOW.KNOWLEDGE_FILE", str(knowledge)),
        *("GLIPKNOW.KNOWLEDGE_TYPE", "gpt3_and_wiki"),
        *("GLIPKNOW.WIKI_AND_GPT3", "True"),
    ]


def test_the_evaluation_says_its_sentences_and_writes_boxes_of_every_class(
    command, tmp_path, capfd
):
    assert evaluate_net(command) == 0

    (results,) = (tmp_path / "output").rglob("bbox.json")
    boxes = json.loads(results.read_text())
    assert {box["category_id"] for box in boxes} == {1, 2, 3}
    assert {box["image_id"] for box in boxes} == {100, 101, 102, 103}
    printed = "".join(capfd.readouterr())
    assert "'red square: It is red. A shape.'" in printed
    assert "1 of 3 classes are not in" in printed


def test_bad_knowledge_is_one_line_and_a_failure(command, tmp_path, capfd):
    (tmp_path / "knowledge.yaml").write_text("red square: [1]")

    assert evaluate_net(command) != 0

    printed = "".join(capfd.readouterr())
    assert "knowledge.yaml: 'red square' must be a mapping" in printed
    assert "Traceback" not in printed


@pytest.mark.parametrize(
    ("tool", "flags"),
    [
        (train_net, []),
        (pretrain_shapes, []),
        (imitate_encoders, ["--teacher-config", "none.yaml", "--teacher", "none.pth"]),
        (make_pseudo_labels, ["--pairs", "none.jsonl", "--output", "labels"]),
    ],
)
def test_tools_that_would_not_read_it_refuse_it(command, tmp_path, monkeypatch, capfd, tool, flags):
    monkeypatch.chdir(tmp_path)
    config, opts = command[:2], command[2:]

    assert tool.main([*config, *flags, *opts]) != 0

    printed = "".join(capfd.readouterr())
    assert "GLIPKNOW.PARALLEL_LANGUAGE_INPUT is not supported for" in printed
    assert "Traceback" not in printed


def test_pictures_are_drawn_with_a_sentence_for_each_class(command, tmp_path, capfd):
    flags = ["--output", str(tmp_path / "drawn"), "--threshold", "0", "--image_index", "-1"]

    assert visualize_grounding_net.main([*command[:2], *flags, *command[2:]]) == 0

    assert len(list((tmp_path / "drawn").glob("img_*.jpg"))) == 4
    assert "3 classes with a sentence each" in "".join(capfd.readouterr())
