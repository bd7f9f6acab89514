"""tools/convert_dataset.py as a user calls it."""

import json

import pytest

from tests.data.containers import write_shards
from tests.data.test_conversion import write_coco
from tools import convert_dataset as tool


def test_a_set_goes_there_and_back_and_is_sound(tmp_path, capsys):
    source = write_coco(tmp_path / "coco")
    images = str(tmp_path / "coco/images")
    shards = tmp_path / "shards"

    arguments = ["--images", images, "--output", str(shards), "--shard-samples", "2"]
    assert tool.main(["convert", str(source), "--to", "shards", *arguments]) == 0
    assert tool.main(["check", f"{shards}/set-{{000000..000001}}.tar", "--decode"]) == 0
    assert (
        tool.main(["convert", str(shards), "--to", "tsv", "--output", str(tmp_path / "tsv")]) == 0
    )

    output = capsys.readouterr().out
    assert "3 samples written, 0 left out" in output
    assert str(shards / "set-000001.tar") in output
    assert "no problem found" in output
    assert (tmp_path / "tsv/shards.yaml").is_file()


def test_problems_give_status_one_and_a_report(tmp_path, capsys):
    source = write_coco(tmp_path)
    (tmp_path / "images/a.jpg").unlink()
    report = tmp_path / "report.json"

    status = tool.main(
        ["check", str(source), "--images", str(tmp_path / "images"), "--report", str(report)]
    )

    assert status == 1
    assert "PROBLEM missing image: 1" in capsys.readouterr().out
    assert json.loads(report.read_text())["problems"] == {"missing image": 1}


@pytest.mark.parametrize("workers", ["1", "2"])
def test_indices_are_built_ahead(tmp_path, capsys, workers):
    write_shards(tmp_path, [{"objects": []}] * 5)

    assert tool.main(["index", f"{tmp_path}/*.tar", "--workers", workers]) == 0

    assert "5 samples" in capsys.readouterr().out
    assert len(list(tmp_path.glob("*.tar.idx"))) == 3


def test_errors_are_one_line(tmp_path, capsys):
    assert tool.main(["check", str(tmp_path / "gone.yaml")]) == 1
    assert capsys.readouterr().err.startswith("error: ")


def test_a_set_of_which_nothing_is_left_is_an_error(tmp_path, capsys):
    source = write_coco(tmp_path)
    arguments = ["convert", str(source), "--to", "tsv", "--output", str(tmp_path / "out")]

    assert tool.main([*arguments, "--images", str(tmp_path / "nowhere")]) == 1

    assert "not one sample could be used" in capsys.readouterr().err
