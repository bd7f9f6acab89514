"""From the configuration to a visual backbone."""

import json

import pytest
import torch
from torch import nn

from maskrcnn_benchmark.config import cfg
from maskrcnn_benchmark.errors import ConfigError
from maskrcnn_benchmark.layers.batch_norm import FrozenBatchNorm2d, NaiveSyncBatchNorm
from maskrcnn_benchmark.layers.drop_block import DropBlock2D
from maskrcnn_benchmark.modeling.backbone import build_backbone
from maskrcnn_benchmark.modeling.backbone.build import BUILDERS

SMALL_SWIN = {
    "EMBED_DIM": 8,
    "DEPTHS": (1, 2, 1, 1),
    "NUM_HEADS": (1, 1, 2, 2),
    "WINDOW_SIZE": 4,
    "OUT_CHANNELS": (8, 16, 32, 64),
}
SMALL_RESNET = {"STEM_OUT_CHANNELS": 8, "RES2_OUT_CHANNELS": 16, "WIDTH_PER_GROUP": 4}


def config(body, **keys):
    """Defaults with ``keys``, whose double underscores stand for the dots of a key."""
    options = cfg.clone()
    options.MODEL.BACKBONE.CONV_BODY = body
    options.MODEL.BACKBONE.OUT_CHANNELS = 16
    options.MODEL.SWINT.update(SMALL_SWIN)
    options.MODEL.RESNETS.update(SMALL_RESNET)
    options.MODEL.FPN.DROP_BLOCK = False
    for key, value in keys.items():
        *nodes, name = key.split("__")
        node = options.MODEL
        for part in nodes:
            node = node[part]
        node[name] = value
    return options


def shapes(backbone):
    with torch.no_grad():
        levels = backbone.eval()(torch.randn(1, 3, 64, 96))
    return [tuple(level.shape[1:]) for level in levels]


@pytest.mark.parametrize(
    "name",
    ["glip_A_Swin_T_O365", "glip_Swin_T_O365", "glip_Swin_T_O365_GoldG", "glip_Swin_L"],
)
def test_published_configurations_give_the_published_names_and_shapes(golden_dir, name, request):
    path = golden_dir / f"glip/state_dict/{name}.json"
    recorded = {
        key: shape
        for key, (shape, _) in json.loads(path.read_text()).items()
        if key.startswith("backbone.")
    }
    options = cfg.clone()
    options.merge_from_file(str(request.config.rootpath / f"configs/pretrain/{name}.yaml"))
    with torch.device("meta"):
        backbone = build_backbone(options)
    state = backbone.state_dict(prefix="backbone.")
    assert {key: list(value.shape) for key, value in state.items()} == recorded
    assert backbone.out_channels == 256


@pytest.mark.parametrize(
    "body", ["SWINT-FPN-RETINANET", "R-50-FPN-RETINANET", "R-101-FPN-RETINANET"]
)
def test_retinanet_pyramids_have_strides_8_to_128(body):
    backbone = build_backbone(config(body))
    assert shapes(backbone) == [(16, 8, 12), (16, 4, 6), (16, 2, 3), (16, 1, 2), (16, 1, 1)]
    assert backbone.out_channels == 16


@pytest.mark.parametrize("body", ["SWINT-FPN", "R-50-FPN"])
def test_plain_pyramids_have_strides_4_to_64(body):
    assert shapes(build_backbone(config(body))) == [
        (16, 16, 24), (16, 8, 12), (16, 4, 6), (16, 2, 3), (16, 1, 2),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("body", "shape"),
    [
        ("R-50-C4", (64, 4, 6)),
        ("R-50-C5", (128, 2, 3)),
        ("R-101-C4", (64, 4, 6)),
        ("R-101-RETINANET", (128, 2, 3)),
    ],
)
def test_bodies_without_a_pyramid_give_their_last_map(body, shape):
    backbone = build_backbone(config(body))
    assert shapes(backbone) == [shape] and backbone.out_channels == shape[0]


def test_only_the_plain_swin_pyramid_normalises_the_first_stage():
    assert isinstance(build_backbone(config("SWINT-FPN")).body.norm0, nn.LayerNorm)
    assert isinstance(build_backbone(config("SWINT-FPN-RETINANET")).body.norm0, nn.Identity)


def test_stages_that_the_pyramid_does_not_read_need_not_come_out():
    features = ("stage3", "stage4", "stage5")
    backbone = build_backbone(config("SWINT-FPN-RETINANET", BACKBONE__OUT_FEATURES=features))
    assert shapes(backbone)[0] == (16, 8, 12)


def test_freezing_checkpointing_and_drop_path_reach_the_body():
    body = build_backbone(
        config(
            "SWINT-FPN-RETINANET",
            BACKBONE__FREEZE_CONV_BODY_AT=2,
            BACKBONE__USE_CHECKPOINT=True,
            SWINT__DROP_PATH_RATE=0.5,
        )
    ).body
    assert body.frozen_stages == 2
    assert [layer.use_checkpoint for layer in body.layers] == [False, False, True, True]
    assert body.layers[3].blocks[0].drop_path.drop_prob == 0.5


def test_drop_block_is_on_by_default():
    assert cfg.MODEL.FPN.DROP_BLOCK
    fpn = build_backbone(config("SWINT-FPN-RETINANET", FPN__DROP_BLOCK=True)).fpn
    assert isinstance(fpn.drop_block, DropBlock2D)
    assert (fpn.drop_block.drop_prob, fpn.drop_block.block_size) == (0.3, 3)


def test_pyramid_options_reach_the_pyramid():
    fpn = build_backbone(
        config(
            "SWINT-FPN-RETINANET",
            FPN__USE_GN=True,
            FPN__USE_RELU=True,
            FPN__USE_SPP=True,
            FPN__USE_PAN=True,
        )
    ).fpn
    kinds = [type(module) for module in fpn.fpn_inner4]
    assert kinds == [nn.Conv2d, nn.GroupNorm, nn.ReLU]
    assert fpn.fpn_inner4[0].in_channels == 4 * 64 and hasattr(fpn, "pan_in_layer3")


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("USE_BN", nn.BatchNorm2d),
        ("USE_NSYNCBN", NaiveSyncBatchNorm),
        ("USE_SYNCBN", nn.SyncBatchNorm),
        (None, FrozenBatchNorm2d),
    ],
)
def test_the_norm_of_a_resnet_is_chosen_by_its_key(key, kind):
    keys = {f"BACKBONE__{key}": True} if key else {}
    body = build_backbone(config("R-50-C4", **keys)).body
    assert type(body.stem.bn1) is kind and type(body.layer3[0].bn3) is kind


def test_group_norm_is_chosen_for_stem_and_blocks_apart():
    body = build_backbone(
        config("R-50-C4", RESNETS__TRANS_FUNC="BottleneckWithGN", GROUP_NORM__DIM_PER_GP=4)
    ).body
    assert isinstance(body.stem.bn1, FrozenBatchNorm2d)
    assert body.layer1[0].bn3.num_groups == 4


def test_deformable_stages_are_chosen_by_flags():
    body = build_backbone(
        config("R-50-C4", RESNETS__STAGE_WITH_DCN=(False, False, True, True),
               RESNETS__WITH_MODULATED_DCN=True)
    ).body  # fmt: skip
    assert hasattr(body.layer3[0].conv2, "offset") and not hasattr(body.layer2[0].conv2, "offset")


@pytest.mark.parametrize(
    ("body", "keys", "message"),
    [
        ("VGG", {}, "SWINT-FPN-RETINANET"),
        ("SWINT-FPN", {"SWINT__VERSION": "v2"}, "VERSION"),
        ("SWINT-FPN", {"SWINT__LAYER_SCALE": 1}, "LAYER_SCALE"),
        ("SWINT-FPN", {"SWINT__OUT_CHANNELS": (1, 2, 3, 4)}, "OUT_CHANNELS"),
        ("SWINT-FPN", {"BACKBONE__OUT_FEATURES": ("stage6",)}, "stage6"),
        ("SWINT-FPN", {"FPN__USE_DYHEAD": True}, "USE_DYHEAD"),
        ("R-50-C4", {"RESNETS__STEM_FUNC": "Stem"}, "StemWithGN"),
    ],
)
def test_what_cannot_be_built_is_refused_by_key(body, keys, message):
    with pytest.raises(ConfigError, match=message):
        build_backbone(config(body, **keys))


def test_every_name_is_listed():
    assert {"SWINT-FPN-RETINANET", "R-50-C4", "R-101-RETINANET"} <= set(BUILDERS)
