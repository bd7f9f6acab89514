"""Names and shapes of all parameters and buffers are those of the published checkpoints."""

import json

import pytest
import torch

from maskrcnn_benchmark.modeling.detector import build_detection_model
from tests.golden_tools import GLIP, golden_config

CONFIGS = (
    "glip_A_Swin_T_O365",
    "glip_Swin_T_O365",
    "glip_Swin_T_O365_GoldG",
    "glip_Swin_L",
)


@pytest.mark.parametrize("name", CONFIGS)
def test_names_shapes_types_and_what_trains(name):
    expected = json.loads((GLIP / "state_dict" / f"{name}.json").read_text())
    summary = json.loads((GLIP / "state_dict" / "summary.json").read_text())[name]

    with torch.device("meta"):
        model = build_detection_model(golden_config(name))

    actual = {
        key: [list(tensor.shape), str(tensor.dtype).removeprefix("torch.")]
        for key, tensor in model.state_dict().items()
    }
    assert actual == expected
    assert sum(p.numel() for p in model.parameters()) == summary["parameters"]
    frozen = [key for key, p in model.named_parameters() if not p.requires_grad]
    assert sorted(frozen) == sorted(summary["frozen"])


FUSE = "MODEL.DYHEAD.FUSE_CONFIG"


@pytest.mark.parametrize("case", ["A_contrastive", "A_shallow_negpad", "A_token_cls", "C_mlm"])
def test_options_add_the_recorded_names(case):
    meta = json.loads((GLIP / "training" / f"{case}.json").read_text())
    base = json.loads((GLIP / "state_dict" / f"{meta['config']}.json").read_text())

    with torch.device("meta"):
        model = build_detection_model(golden_config(meta["config"], meta["config_overrides"]))

    added = {k: list(v.shape) for k, v in model.state_dict().items() if k not in base}
    assert added == meta["extra_state_dict_keys"]


def test_prompt_tuning_adds_one_table():
    with torch.device("meta"):
        model = build_detection_model(
            golden_config("glip_A_Swin_T_O365", {f"{FUSE}.ADD_LINEAR_LAYER": True})
        )

    assert model.state_dict()["rpn.tunable_linear.weight"].shape == (1000, 768)


def test_text_to_image_fusion_has_its_names():
    with torch.device("meta"):
        model = build_detection_model(golden_config("glip_Swin_T_O365", {f"{FUSE}.TYPE": "MHA-S"}))

    prefix = "rpn.head.dyhead_tower.0."
    names = {k.removeprefix(prefix) for k in model.state_dict() if k.startswith(prefix)}
    assert names == {
        f"t2i_attn.{part}"
        for part in (
            "gamma",
            *(f"layer_norm_{s}_1.{kind}" for s in "qk" for kind in ("weight", "bias")),
            *(
                f"attn.{s}_proj.{kind}"
                for s in ("q", "k", "v", "out")
                for kind in ("weight", "bias")
            ),
        )
    }


@pytest.mark.parametrize(
    ("outside", "name"), [(False, "b_attn.shrink_lang"), (True, "shrink_lang")]
)
def test_fusion_of_separate_levels_has_its_names(outside, name):
    overrides = {
        f"{FUSE}.SEPARATE_BIDIRECTIONAL": True,
        f"{FUSE}.DO_LANG_PROJ_OUTSIDE_CHECKPOINT": outside,
    }
    with torch.device("meta"):
        model = build_detection_model(golden_config("glip_Swin_T_O365", overrides))

    weights = model.state_dict()
    assert weights[f"rpn.head.dyhead_tower.0.{name}.fc.weight"].shape == (768, 5 * 768)
    assert weights[f"rpn.head.dyhead_tower.0.{name}.layer_norm.bias"].shape == (768,)
