"""demo/image_demo.py: the command line of mmdetection."""

import argparse
import importlib.util
import json

import numpy as np
import pytest
import torch
from PIL import Image

from maskrcnn_benchmark.config import cfg as defaults
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
            {"texts": "a red car", "tokens_positive": "[[[2, 9]]]"},
            ("a red car", [{"char_bounds": [2, 9]}]),
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


def test_pictures_and_predictions_are_written(tmp_path, capsys):
    config_file = str(REPOSITORY / "configs/shapes/glip_B.yaml")
    config = defaults.clone()
    config.merge_from_file(config_file)
    torch.save({"model": build_detection_model(config).state_dict()}, tmp_path / "weights.pth")
    pixels = np.random.default_rng(0).integers(0, 255, (64, 80, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "p.png")
    output = tmp_path / "outputs"
    weights = str(tmp_path / "weights.pth")
    options = ["--texts", "star. ring", "-c", "--out-dir", str(output), "--device", "cpu"]
    picture = str(tmp_path / "p.png")
    status = image_demo.main([picture, config_file, "--weights", weights, *options])
    assert status == 0
    assert (output / "vis" / "p.png").is_file()
    content = json.loads((output / "preds" / "p.json").read_text())
    assert content["entities"] == ["star", "ring"]
    assert capsys.readouterr().out.rstrip().endswith(f"saved in {output}")
