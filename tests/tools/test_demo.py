"""tools/demo.py as a user calls it."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.ops import box_iou

from tests.conftest import REPOSITORY
from tools import demo

CONFIG = str(REPOSITORY / "configs/shapes/glip_B.yaml")


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for name in ("a.png", "a.jpg", "b.jpg"):
        Image.fromarray(rng.integers(0, 255, (64, 80, 3), dtype=np.uint8)).save(pictures / name)
    return pictures


def _run(source, output, weights, *more):
    arguments = [str(source), "--config-file", CONFIG, "--weight", weights, "--output", str(output)]
    return demo.main([*arguments, *more, "MODEL.ATSS.INFERENCE_TH", "0.0"])


def test_a_folder_gives_a_picture_and_a_json_for_each(folder, tmp_path, weights, capsys):
    output = tmp_path / "out"
    status = _run(folder, output, weights, "--texts", "star. ring", "--threshold", "0.0")
    assert status == 0
    assert {p.name for p in output.iterdir()} == {
        f"{stem}{suffix}" for stem in ("a.png", "a.jpg", "b") for suffix in (".png", ".json")
    }
    content = json.loads((output / "b.json").read_text())
    assert content["entities"] == ["star", "ring"]
    assert len(content["bboxes"]) == len(content["scores"]) == len(content["labels"]) > 0
    assert set(content["labels"]) <= {0, 1}
    assert str(output / "b.png") in capsys.readouterr().out


def test_the_pictures_themselves_are_never_overwritten(folder, weights, capsys):
    (folder / "a.jpg").unlink()
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    output = folder.parent / "elsewhere" / ".." / "pictures"

    assert _run(folder, output, weights, "--texts", "star. ring") == 2

    assert "a.png is one of the pictures" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_picture_that_could_not_be_written_leaves_nothing_half_done(
    folder, tmp_path, weights, monkeypatch, capsys
):
    def fail(image, file, *args, **options):
        file.write(b"half of it")
        raise OSError("the disk is full")

    monkeypatch.setattr(Image.Image, "save", fail)
    output = tmp_path / "out"

    assert _run(folder / "b.jpg", output, weights, "--text", "a star") == 1

    assert "the disk is full" in capsys.readouterr().err
    assert [path.name for path in output.iterdir()] == ["b.json"]


# What `tools/make_shapes.py --picture demo/shapes.jpg --seed 4` says it drew: x, y, width, height.
DRAWN = {
    "striped blue heart": [(17, 11, 27, 24), (3, 126, 57, 51)],
    "striped orange cross": [(126, 30, 55, 55), (134, 121, 48, 48)],
    "striped orange triangle": [(34, 56, 21, 20)],
    "plain white heart": [(66, 89, 47, 42)],
}


def test_bundled_weights_find_what_the_demo_asks_for_and_nothing_else(tmp_path):
    picture = REPOSITORY / "demo/shapes.jpg"
    words = (REPOSITORY / "demo/shapes.txt").read_text()
    options = ["--texts", words, "--threshold", "0.4", "--output", str(tmp_path)]
    assert demo.main([str(picture), *options]) == 0
    content = json.loads((tmp_path / "shapes.json").read_text())
    found = {
        tuple(box): name
        for box, name, score in zip(content["bboxes"], content["label_names"], content["scores"])
        if score >= 0.4
    }
    truth = {
        (x, y, x + width, y + height): name
        for name, boxes in DRAWN.items()
        for x, y, width, height in boxes
    }
    overlaps = box_iou(torch.tensor(list(truth)).float(), torch.tensor(list(found)).float())
    best = overlaps.max(dim=1)
    assert len(found) == len(truth)
    assert best.values.min() > 0.6
    assert [list(found.values())[i] for i in best.indices.tolist()] == list(truth.values())


def test_weights_named_as_a_setting_win_over_the_bundled_ones():
    named = demo.parse_arguments(["a.png", "--text", "a star", "MODEL.WEIGHT", "mine.pth"])
    assert demo.build_config(named).MODEL.WEIGHT == "mine.pth"


def test_the_bundled_config_is_known_by_any_path(monkeypatch):
    monkeypatch.chdir(REPOSITORY / "configs")
    options = ["--text", "a star", "--config-file", "shapes/glip_C.yaml"]
    config = demo.build_config(demo.parse_arguments(["a.png", *options]))
    assert Path(config.MODEL.WEIGHT) == demo.BUNDLED_WEIGHT


def test_a_plain_sentence_is_understood(folder, tmp_path, weights):
    assert _run(folder / "b.jpg", tmp_path / "out", weights, "--text", "a star above a ring") == 0
    content = json.loads((tmp_path / "out" / "b.json").read_text())
    assert content["entities"] == ["a star", "a ring"]


@pytest.mark.parametrize(
    ("text", "message"), [("   ", "empty"), ("a red star and " * 100 + "a ring", "tokens")]
)
def test_bad_sentences_are_one_clear_line(folder, tmp_path, weights, capsys, text, message):
    assert _run(folder / "b.jpg", tmp_path / "out", weights, "--text", text) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error


def test_a_list_of_marks_is_refused_as_such_a_sentence_is(folder, tmp_path, weights, capsys):
    for option in ("--texts", "--text"):
        assert _run(folder / "b.jpg", tmp_path / "out", weights, option, "...") == 1
        assert "nothing to look for in" in capsys.readouterr().err


def test_an_image_that_cannot_be_read_is_named(tmp_path, weights, capsys):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff not a picture")
    assert _run(broken, tmp_path / "out", weights, "--text", "a star") == 1
    assert "broken.jpg" in capsys.readouterr().err


def test_a_broken_picture_of_a_folder_is_named_and_the_others_are_shown(
    folder, tmp_path, weights, capsys, caplog
):
    (folder / "a.png").write_bytes(b"not a picture")
    (folder / "a.tif").symlink_to(tmp_path / "gone.tif")
    output = tmp_path / "out"

    assert _run(folder, output, weights, "--text", "a star") == 1

    assert {p.name for p in output.glob("*.json")} == {"a.jpg.json", "b.json"}
    assert "2 picture(s) could not be read: a.png, a.tif" in capsys.readouterr().err
    assert f"Image {folder / 'a.png'} cannot be decoded" in caplog.text


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        (["--device", "foo"], 2, "MODEL.DEVICE must be cpu, cuda or cuda:N, not 'foo'"),
        (["--device", "cudafoo"], 2, "not 'cudafoo'"),
        (["--min-image-size", "-1"], 2, "a side of -1 pixels"),
        (["--min-image-size", "0"], 2, "a side of 0 pixels"),
        (["INPUT.MIN_SIZE_TEST", "0"], 2, "a side of 0 pixels"),
        (["--output", str(REPOSITORY / "README.md")], 1, "README.md"),
    ],
)
def test_mistaken_options_are_one_clear_line(folder, weights, capsys, options, status, message):
    before = (REPOSITORY / "README.md").read_bytes()
    assert _run(folder / "b.jpg", folder / "out", weights, "--text", "a star", *options) == status
    assert message in capsys.readouterr().err
    assert (REPOSITORY / "README.md").read_bytes() == before


def test_a_missing_picture_is_named(tmp_path, weights, capsys):
    assert _run(tmp_path / "nothing.jpg", tmp_path, weights, "--text", "a star") == 1
    assert "nothing.jpg does not exist" in capsys.readouterr().err


def test_a_file_that_is_no_checkpoint_is_named(folder, tmp_path, capsys):
    text = tmp_path / "weights.pth"
    text.write_text("not a checkpoint")
    assert _run(folder / "b.jpg", tmp_path / "out", str(text), "--text", "a star") == 1
    assert "weights.pth" in capsys.readouterr().err


def test_a_text_encoder_that_cannot_be_had_is_one_clear_line(folder, tmp_path, weights, capsys):
    opts = ["MODEL.LANGUAGE_BACKBONE.TOKENIZER_TYPE", "no-such-tokenizer"]
    assert _run(folder / "b.jpg", tmp_path / "out", weights, "--text", "a star", *opts) == 1
    assert "no-such-tokenizer" in capsys.readouterr().err
