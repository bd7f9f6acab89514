"""demo/image_demo.py: the command line of mmdetection."""

import argparse
import importlib.util
import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from maskrcnn_benchmark.config import cfg as defaults
from maskrcnn_benchmark.errors import ConfigError
from maskrcnn_benchmark.modeling.detector import build_detection_model
from tests.conftest import REPOSITORY

_SPEC = importlib.util.spec_from_file_location("image_demo", REPOSITORY / "demo/image_demo.py")
image_demo = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(image_demo)


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("configs/glip/glip_atss_swin-t_a_fpn_dyhead_pretrain_obj365.py", "glip_A_Swin_T_O365"),
        ("glip_atss_swin-t_b_fpn_dyhead_16xb2_ms-2x_funtune_coco.py", "glip_Swin_T_O365"),
        ("glip_atss_swin-t_c_fpn_dyhead_pretrain_obj365-goldg.py", "glip_Swin_T_O365_GoldG"),
        ("glip_atss_swin-l_fpn_dyhead_pretrain_mixeddata.py", "glip_Swin_L"),
    ],
)
def test_names_of_mmdetection_stand_for_our_files(name, ours):
    path = image_demo.find_config(name)
    assert path.stem == ours
    assert path.is_file()


def test_an_unknown_model_is_refused():
    with pytest.raises(ValueError, match="grounding_dino"):
        image_demo.find_config("grounding_dino_swin-t.py")


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"texts": "bench. car. ", "custom_entities": True}, (["bench", "car"], None)),
        ({"texts": "bench. car."}, ("bench. car", None)),
        (
            {"texts": " a red car. ", "tokens_positive": "[[[2, 5], [7, 10]], [[3, 6]]]"},
            (" a red car. ", [{"char_bounds": [[2, 5], [7, 10]]}, {"char_bounds": [[3, 6]]}]),
        ),
    ],
)
def test_texts_are_read_as_names_or_as_a_sentence(more, expected):
    args = argparse.Namespace(**({"custom_entities": False, "tokens_positive": None} | more))
    assert image_demo.read_texts(args) == expected


def test_the_classes_of_coco_are_known():
    names = image_demo.names_of_dataset("coco")
    assert len(names) == 80
    assert names[0] == "person"


@pytest.mark.parametrize("spans", ["-1", "[[0, 5]]", "[[]]", "[[[0, 5, 7]]]", "[[[0, 'a']]]", "["])
def test_spans_of_another_form_are_refused(spans):
    with pytest.raises(ConfigError, match="--tokens-positive"):
        image_demo.read_spans(spans)


@pytest.mark.parametrize(
    ("weights", "ours"),
    [
        ("glip_tiny_a_mmdet-b3654169.pth", "pretrain/glip_A_Swin_T_O365.yaml"),
        ("MODEL/glip_tiny_model_o365.pth", "pretrain/glip_Swin_T_O365.yaml"),
        ("glip_tiny_model_o365_goldg_cc_sbu.pth", "pretrain/glip_Swin_T_O365_GoldG.yaml"),
        ("https://host/glip_l_mmdet-abfe026b.pth", "pretrain/glip_Swin_L.yaml"),
        (
            "glip_atss_swin-t_b_fpn_dyhead_16xb2_ms-2x_funtune_coco_2023.pth",
            "pretrain/glip_Swin_T_O365.yaml",
        ),
        ("MODEL/shapes/glip_shapes_C.safetensors", "shapes/glip_C.yaml"),
    ],
)
def test_published_weights_tell_their_configuration(weights, ours):
    path = image_demo.config_of_weights(weights)
    assert path == REPOSITORY / "configs" / ours
    assert path.is_file()


def test_weights_of_ones_own_training_lie_beside_their_configuration(tmp_path):
    (tmp_path / "config.yml").write_text("{}")
    weights = str(tmp_path / "model_final.pth")
    assert image_demo.config_of_weights(weights) == tmp_path / "config.yml"


def test_weights_of_no_known_model_need_a_configuration(tmp_path, capsys):
    picture = str(REPOSITORY / "demo/demo.jpg")
    assert image_demo.main([picture, str(tmp_path / "mine.pth"), "--texts", "car"]) == 2
    assert "give its configuration as model" in capsys.readouterr().err


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> list[str]:
    """Configuration and weights of a small model, as they stand in the command."""
    config_file = str(REPOSITORY / "configs/shapes/glip_B.yaml")
    config = defaults.clone()
    config.merge_from_file(config_file)
    weights = tmp_path_factory.mktemp("model") / "weights.pth"
    torch.save({"model": build_detection_model(config).state_dict()}, weights)
    return [config_file, "--weights", str(weights), "--device", "cpu"]


def predictions(model: list[str], output: Path, *options: str) -> dict:
    command = [str(REPOSITORY / "demo/demo.jpg"), *model, "--out-dir", str(output), *options]
    assert image_demo.main(command) == 0
    return json.loads((output / "preds/demo.json").read_text())


def test_the_published_command_finds_in_the_bundled_picture(model, tmp_path, capsys):
    content = predictions(model, tmp_path, "--texts", "bench. car")
    assert content["entities"] == ["bench", "car"]
    assert (content["width"], content["height"]) == (640, 427)
    with Image.open(tmp_path / "vis/demo.jpg") as drawn:
        assert (drawn.format, drawn.size) == ("JPEG", (640, 427))
    assert capsys.readouterr().out.rstrip().endswith(f"saved in {tmp_path}")


def test_a_drawing_whose_format_cannot_be_written_is_a_png_file(model, tmp_path):
    picture = tmp_path / "picture.unknown"
    Image.new("RGB", (64, 64)).save(picture, "PNG")
    options = [*model, "--out-dir", str(tmp_path), "--texts", "car", "--no-save-pred"]
    assert image_demo.main([str(picture), *options]) == 0
    assert (tmp_path / "vis/picture.png").is_file()


def test_a_broken_picture_of_a_folder_does_not_keep_the_others(model, tmp_path, capsys):
    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / "a.png").write_bytes(b"no picture")
    Image.new("RGB", (64, 64)).save(folder / "b.png")
    options = [*model, "--out-dir", str(tmp_path), "--texts", "car", "--no-save-vis"]

    assert image_demo.main([str(folder), *options]) == 1

    assert "1 picture(s) could not be read: a.png" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "preds").iterdir()] == ["b.json"]


def test_a_list_is_asked_for_with_the_separator_it_was_written_with(model, tmp_path):
    as_list = predictions(model, tmp_path / "list", "--texts", "bench. car. ", "-c")
    assert as_list["caption"] == "bench. car"
    assert as_list["entities"] == ["bench", "car"]
    spans = ["-p", "[[[0, 5]], [[7, 10]]]"]
    by_spans = predictions(model, tmp_path / "spans", "--texts", "bench. car", *spans)
    assert as_list == by_spans


def test_a_list_longer_than_the_text_encoder_reads_is_split(model, tmp_path):
    names = [f"{colour} thing {number}" for number in range(60) for colour in ("red", "blue")]
    content = predictions(model, tmp_path, "--texts", ". ".join(names), "-c", "--no-save-vis")
    assert content["entities"] == names


def test_every_span_of_an_entity_counts(model, tmp_path):
    text = ["--texts", "bench, red car", "--no-save-vis", "-p"]
    content = predictions(model, tmp_path, *text, "[[[0, 5], [11, 14]], [[7, 10]]]")
    assert content["entities"] == ["bench / car", "red"]


def test_a_checkpoint_given_as_the_model_is_enough(tmp_path):
    weights = str(REPOSITORY / "MODEL/shapes/glip_shapes_C.safetensors")
    content = predictions([weights, "--device", "cpu"], tmp_path, "--texts", "red star", "-c")
    assert content["entities"] == ["red star"]
