"""Names of released files land on the right names of the model."""

import json
import re

import pytest
import torch
from torch import nn

from maskrcnn_benchmark.utils.mmdet_layout import from_mmdet_layout
from maskrcnn_benchmark.utils.model_serialization import align, find_weights, load_weights_into


class NamedModel(nn.Module):
    """A module whose state dict has exactly the given names and shapes."""

    def __init__(self, shapes: dict[str, list[int]]) -> None:
        super().__init__()
        for name, shape in shapes.items():
            *parents, leaf = name.split(".")
            module = self
            for part in parents:
                if part not in module._modules:
                    module.add_module(part, nn.Module())
                module = module._modules[part]
            module.register_buffer(leaf, torch.full(shape, -1.0))


SHAPES = {
    "backbone.body.patch_embed.proj.weight": [4, 3],
    "backbone.body.layers.0.blocks.0.norm1.weight": [4],
    "backbone.body.layers.0.blocks.0.attn.relative_position_index": [2, 2],
    "backbone.body.layers.0.downsample.reduction.weight": [2, 8],
    "backbone.body.layers.0.downsample.norm.weight": [8],
    "backbone.body.norm1.weight": [4],
    "backbone.fpn.fpn_inner2.weight": [2, 4],
    "language_backbone.body.model.embeddings.word_embeddings.weight": [5, 2],
    "rpn.head.cls_logits.weight": [3, 2],
    "rpn.head.log_scale": [1],
}


def weights_like(shapes, value=1.0):
    return {name: torch.full(shape, value) for name, shape in shapes.items()}


def model_and_report(contents, shapes=SHAPES):
    model = NamedModel(shapes)
    return model.state_dict(), load_weights_into(model, find_weights(contents))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda w: {"model": w, "optimizer": {"state": {}}, "iteration": 5},
        lambda w: {"model": {f"module.{k}": v for k, v in w.items()}, "model_ema": w},
        lambda w: {"state_dict": w},
        lambda w: {"model": {"state_dict": {f"module.{k}": v for k, v in w.items()}}},
        lambda w: w,
    ],
    ids=["model", "module prefix", "state_dict", "nested", "bare"],
)
def test_every_wrapping_fills_the_whole_model(wrap):
    state, report = model_and_report(wrap(weights_like(SHAPES)))
    assert report.complete
    assert all(torch.all(value == 1.0) for value in state.values())


def test_stale_position_ids_and_absent_recomputed_buffers_are_no_difference():
    weights = weights_like(SHAPES)
    del weights["backbone.body.layers.0.blocks.0.attn.relative_position_index"]
    weights["language_backbone.body.model.embeddings.position_ids"] = torch.zeros(1, 5)
    weights["language_backbone.body.model.pooler.dense.weight"] = torch.zeros(2, 2)
    assert model_and_report({"model": weights})[1].complete


def test_a_classifier_of_other_size_is_reported_and_left_alone():
    weights = weights_like(SHAPES)
    weights["rpn.head.cls_logits.weight"] = torch.ones(7, 2)
    state, report = model_and_report({"model": weights})
    assert report.reshaped == [("rpn.head.cls_logits.weight", (7, 2), (3, 2))]
    assert torch.all(state["rpn.head.cls_logits.weight"] == -1.0)


def test_half_precision_weights_fill_a_single_precision_model():
    weights = {name: value.half() for name, value in weights_like(SHAPES).items()}
    state, report = model_and_report(weights)
    assert report.complete
    assert state["rpn.head.log_scale"].dtype == torch.float32


def test_an_imagenet_swin_file_lands_on_the_image_backbone():
    swin = {
        "patch_embed.proj.weight": [4, 3],
        "layers.0.blocks.0.norm1.weight": [4],
        "layers.0.blocks.0.attn_mask": [2, 2],
        "layers.0.downsample.reduction.weight": [2, 8],
        "layers.0.downsample.norm.weight": [8],
        "norm.weight": [4],
        "head.weight": [10, 4],
    }
    state, report = model_and_report({"model": weights_like(swin)})
    assert len(report.loaded) == 4
    assert report.unexpected == ["norm.weight", "head.weight"]
    assert torch.all(state["backbone.body.norm1.weight"] == -1.0)


def test_matches_end_at_whole_parts_of_a_name_and_prefer_the_longest():
    names = ["body.layer1.conv1.weight", "body.stem.conv1.weight", "body.xconv1.weight"]
    assert align(names, {"conv1.weight", "layer1.conv1.weight"}) == {
        "body.layer1.conv1.weight": "layer1.conv1.weight",
        "body.stem.conv1.weight": "conv1.weight",
    }


def test_a_lone_last_part_matches_only_itself():
    assert align(["rpn.head.weight", "weight"], {"weight"}) == {"weight": "weight"}


def test_fiber_first_stage_names_lose_their_tower_parts():
    weights = find_weights({"state_dict": {"vit_model.layers.0.w": torch.ones(1)}})
    assert list(weights) == ["layers.0.w"]


def test_the_average_is_taken_when_it_is_asked_for():
    contents = {"model": weights_like(SHAPES, 1.0), "model_ema": weights_like(SHAPES, 2.0)}
    assert find_weights(contents, "model_ema")["rpn.head.log_scale"] == 2.0


def test_an_absent_average_and_a_file_without_tensors_say_what_is_there():
    with pytest.raises(ValueError, match="no 'model_ema'; it has: model, iteration"):
        find_weights({"model": {}, "iteration": 3}, "model_ema")
    with pytest.raises(ValueError, match="holds no weights; its entries are: iteration"):
        find_weights({"iteration": 3})


def test_the_table_gathers_numbered_names():
    shapes = {f"tower.{i}.conv.weight": [2] for i in range(40)} | {"head.weight": [3, 3]}
    report = load_weights_into(
        NamedModel(shapes), {"head.weight": torch.zeros(2), "x.y": torch.ones(1)}
    )
    table = report.table()
    assert report.summary() == "0 loaded, 40 missing, 1 unexpected, 1 reshaped"
    assert len(table.splitlines()) == 5
    assert "missing (keeps its initial value)" in table
    assert "tower.*.conv.weight" in table and "40" in table
    assert "[2] in the file, [3, 3] in the model" in table


def to_mmdet(weights):
    """The published conversion, official names and order to mmdetection's."""
    converted = {}
    for name, value in weights.items():
        if "downsample" in name:
            *leading, length = value.shape
            groups = value.reshape(*leading, 4, length // 4)[..., [0, 2, 1, 3], :]
            value = groups.transpose(-1, -2).reshape(*leading, length)
        if name.startswith("backbone.body."):
            for ours, theirs in (
                ("backbone.body", "backbone"),
                ("patch_embed.proj", "patch_embed.projection"),
                ("layers", "stages"),
                ("mlp.fc1", "ffn.layers.0.0"),
                ("mlp.fc2", "ffn.layers.1"),
                ("attn.", "attn.w_msa."),
            ):
                name = name.replace(ours, theirs)
        for level in range(3):
            for ours, theirs in (("fpn_inner", "lateral_convs"), ("fpn_layer", "fpn_convs")):
                name = name.replace(
                    f"backbone.fpn.{ours}{level + 2}", f"neck.{theirs}.{level}.conv"
                )
        name = name.replace("backbone.fpn.top_blocks.p6", "neck.fpn_convs.3.conv")
        name = name.replace("backbone.fpn.top_blocks.p7", "neck.fpn_convs.4.conv")
        if name.startswith("language_backbone."):
            name = "language_model." + name
        if name.startswith("rpn."):
            name = "bbox_head." + name.removeprefix("rpn.")
        converted[name] = value
    return converted


def test_an_mmdetection_file_fills_every_name_of_the_published_model(golden_dir):
    path = golden_dir / "glip/state_dict/glip_Swin_T_O365_GoldG.json"
    recorded = json.loads(path.read_text())
    generator = torch.Generator().manual_seed(0)
    weights = {
        name: torch.randn([min(size, 8) for size in shape], generator=generator)
        for name, (shape, _) in recorded.items()
    }
    converted = to_mmdet(weights)
    assert not set(converted) & set(weights)

    restored = from_mmdet_layout(converted)

    assert restored.keys() == weights.keys()
    for name, value in weights.items():
        assert torch.equal(restored[name], value), name


def recorded_shapes(golden_dir, config: str) -> dict[str, list[int]]:
    """Names of a published model, with sides cut to 4 to keep the test light."""
    path = golden_dir / f"glip/state_dict/{config}.json"
    return {
        name: [min(size, 4) for size in shape]
        for name, (shape, _) in json.loads(path.read_text()).items()
    }


@pytest.mark.parametrize(
    "config",
    ["glip_A_Swin_T_O365", "glip_Swin_T_O365", "glip_Swin_T_O365_GoldG", "glip_Swin_L"],
)
def test_an_official_checkpoint_fills_every_name_of_its_model(golden_dir, config):
    """Weights under ``model`` with ``module.``, an old buffer, and the rest of a training beside."""
    shapes = recorded_shapes(golden_dir, config)
    weights = {f"module.{name}": torch.ones(shape) for name, shape in shapes.items()}
    stale = "module.language_backbone.body.model.embeddings.position_ids"
    weights[stale] = torch.arange(4)[None]
    contents = {"model": weights, "optimizer": {"state": {}}, "scheduler": {}, "iteration": 9}
    model = NamedModel(shapes)

    report = load_weights_into(model, find_weights(contents))

    assert report.complete, report.table()
    assert len(report.loaded) == len(shapes)
    assert all(name == in_file for name, in_file in report.loaded.items())


@pytest.mark.parametrize("config", ["glip_Swin_T_O365_GoldG", "glip_Swin_L"])
def test_a_released_imagenet_backbone_fills_the_body_of_the_published_model(golden_dir, config):
    shapes = recorded_shapes(golden_dir, config)
    prefix = "backbone.body."
    per_stage_norm = re.compile(r"norm[0-3]\.(weight|bias)$")
    swin = {
        name.removeprefix(prefix): torch.ones(shape)
        for name, shape in shapes.items()
        if name.startswith(prefix) and not per_stage_norm.match(name.removeprefix(prefix))
    }
    extra = ("norm.weight", "norm.bias", "head.weight", "head.bias", "layers.0.blocks.1.attn_mask")
    released = {"model": {**swin, **{name: torch.ones(4) for name in extra}}}
    model = NamedModel(shapes)

    report = load_weights_into(model, find_weights(released))

    assert sorted(report.loaded) == sorted(prefix + name for name in swin)
    assert sorted(report.unexpected) == ["head.bias", "head.weight", "norm.bias", "norm.weight"]
    assert not report.reshaped
    body_missing = [name for name in report.missing if name.startswith(prefix)]
    assert all(per_stage_norm.match(name.removeprefix(prefix)) for name in body_missing)


def test_a_torchvision_resnet_lands_on_stem_and_layers():
    shapes = {
        "backbone.body.stem.conv1.weight": [2, 3],
        "backbone.body.stem.bn1.running_mean": [2],
        "backbone.body.layer1.0.conv1.weight": [2, 2],
        "backbone.body.layer1.0.downsample.0.weight": [2, 2],
    }
    names = ["conv1.weight", "bn1.running_mean", "layer1.0.conv1.weight", "fc.weight"]
    resnet = {
        name: torch.ones(2, 3) if name == "conv1.weight" else torch.ones(2, 2) for name in names
    }
    resnet["bn1.running_mean"] = torch.ones(2)
    resnet["layer1.0.downsample.0.weight"] = torch.ones(2, 2)
    report = load_weights_into(NamedModel(shapes), find_weights(resnet))
    assert len(report.loaded) == 4
    assert report.unexpected == ["fc.weight"]
