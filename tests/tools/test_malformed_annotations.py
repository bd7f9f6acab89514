"""Annotation files that cannot be read end a command with one line that names file and entry."""

import json

import pytest

from tests.engine.small_task import rewrite, run_finetune, write_set
from tests.engine.small_world import write_config, write_detection_set
from tools.test_grounding_net import main as evaluate_net


def lack_a_size(content):
    content["images"][0]["width"] = None


def lack_a_name(content):
    content["categories"][0]["name"] = None


def lack_a_file_name(content):
    del content["images"][0]["file_name"]


CASES = pytest.mark.parametrize(
    ("change", "message"),
    [
        (lack_a_size, "'width' must be a whole number, got None"),
        (lack_a_name, "category 1 needs a text as its name, got None"),
        (lack_a_file_name, "lacks 'file_name'"),
    ],
)


def change_file(path, change):
    content = json.loads(path.read_text())
    change(content)
    rewrite(path, **content)


def error_line(shown: str) -> str:
    (line,) = [line for line in shown.splitlines() if line.startswith("error: ")]
    return line


@CASES
def test_fine_tuning_on_a_folder(tmp_path, capsys, change, message):
    write_set(tmp_path / "mine", 5, file_name="all.json")
    change_file(tmp_path / "mine" / "all.json", change)

    status = run_finetune(tmp_path / "out", "--data", str(tmp_path / "mine"), "--check")

    line = error_line(capsys.readouterr().err)
    assert status == 1
    assert "all.json: " in line and message in line


@CASES
def test_evaluation(tmp_path, capsys, change, message):
    write_detection_set(tmp_path, 3)
    write_config(tmp_path)
    change_file(tmp_path / "annotations.json", change)

    status = evaluate_net(["--config-file", str(tmp_path / "config.yaml")])

    line = error_line(capsys.readouterr().err)
    assert status == 1
    assert "annotations.json: " in line and message in line
