"""Swin Transformer: recorded outputs, an independent implementation, freezing."""

import json
from collections import OrderedDict

import pytest
import torch
from torch import nn
from torchvision.models.swin_transformer import SwinTransformer as TorchvisionSwin

from maskrcnn_benchmark.modeling.backbone.fpn import FPN, LastLevelP6P7
from maskrcnn_benchmark.modeling.backbone.swin import (
    PatchMerging,
    SwinBlock,
    SwinTransformer,
    join_windows,
    partition_windows,
    relative_position_index,
)
from tests.golden_tools import load_case, with_named_weights

TINY = {}
LARGE = {
    "embed_dim": 192,
    "depths": (2, 2, 18, 2),
    "num_heads": (6, 12, 24, 48),
    "window_size": 12,
}
SMALL = {"embed_dim": 8, "depths": (2, 1, 2, 2), "num_heads": (1, 2, 2, 4), "window_size": 4}


def recorded_backbone(options):
    """The body with its pyramid under the names of a whole model, weights by name."""
    body = SwinTransformer(**options)
    fpn = FPN([0, *body.num_features[1:]], 256, LastLevelP6P7(256, 256))
    backbone = nn.Sequential(OrderedDict(body=body, fpn=fpn))
    with_named_weights(nn.ModuleDict({"backbone": backbone}))
    return backbone.eval()


@pytest.fixture(scope="module")
def tiny():
    return recorded_backbone(TINY)


def check_case(backbone, name, monkeypatch):
    case = load_case("forward", name)
    images, _ = case.images()
    # oneDNN's 3 x 3 convolution rounds four times as coarsely: 2.6e-5 from float64 on fpn.p3,
    # where the recorded numbers and the plain kernel are 8e-6 away.
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)
    with torch.inference_mode():
        features = backbone.body(images)
        levels = backbone.fpn(features)
    for stage, feature in enumerate(features, 2):
        case.assert_close(f"swin.stage{stage}", feature, atol=2e-5)
    for level, feature in enumerate(levels, 3):
        case.assert_close(f"fpn.p{level}", feature, atol=2e-5)


@pytest.mark.parametrize("case", ["A_duo", "B_single", "C_duo"])
def test_tiny_and_its_pyramid_equal_the_recorded_maps(tiny, case, monkeypatch):
    check_case(tiny, case, monkeypatch)


@pytest.mark.slow
def test_large_and_its_pyramid_equal_the_recorded_maps(monkeypatch):
    check_case(recorded_backbone(LARGE), "L_duo", monkeypatch)


@pytest.mark.parametrize(
    ("config", "options"), [("glip_A_Swin_T_O365", TINY), ("glip_Swin_L", LARGE)]
)
def test_state_dict_has_the_published_names_and_shapes(golden_dir, config, options):
    recorded = json.loads((golden_dir / f"glip/state_dict/{config}.json").read_text())
    with torch.device("meta"):
        body = SwinTransformer(**options)
    prefix = "backbone.body."
    ours = {key: list(value.shape) for key, value in body.state_dict(prefix=prefix).items()}
    assert ours == {key: shape for key, (shape, _) in recorded.items() if key.startswith(prefix)}


def torchvision_twin(swin, options):
    """torchvision's Swin with the weights of ours; it ends in one more normalisation."""
    twin = TorchvisionSwin(
        patch_size=[4, 4],
        embed_dim=options["embed_dim"],
        depths=list(options["depths"]),
        num_heads=list(options["num_heads"]),
        window_size=[options["window_size"]] * 2,
        stochastic_depth_prob=0.0,
    ).features
    renamed = {}
    for key, value in swin.state_dict().items():
        key = key.replace("patch_embed.proj", "0.0").replace("patch_embed.norm", "0.2")
        for stage in range(4):
            key = key.replace(f"layers.{stage}.blocks", f"{2 * stage + 1}")
            key = key.replace(f"layers.{stage}.downsample", f"{2 * stage + 2}")
        key = key.replace("mlp.fc1", "mlp.0").replace("mlp.fc2", "mlp.3")
        if key.endswith("relative_position_index"):
            value = value.flatten()
        if not key.startswith("norm"):
            renamed[key] = value
    twin.load_state_dict(renamed)
    return twin.eval()


def test_equals_torchvision_on_shared_weights():
    torch.manual_seed(0)
    swin = SwinTransformer(**SMALL, norm_first_stage=True).eval()
    twin = torchvision_twin(swin, SMALL)
    # Odd maps, and every map larger than a window: below that torchvision does not shift.
    x = torch.randn(2, 3, 4 * 37, 4 * 42)
    with torch.no_grad():
        ours = swin(x)
        for stage in range(4):
            x = twin[2 * stage + 1](twin[2 * stage](x))
            expected = getattr(swin, f"norm{stage}")(x).permute(0, 3, 1, 2)
            torch.testing.assert_close(ours[stage], expected, atol=2e-5, rtol=1e-5)


def test_images_of_any_size_give_maps_of_the_ceiling_of_their_strides():
    swin = SwinTransformer(**SMALL).eval()
    with torch.no_grad():
        shapes = [tuple(feature.shape) for feature in swin(torch.randn(1, 3, 65, 131))]
    assert shapes == [(1, 8, 17, 33), (1, 16, 9, 17), (1, 32, 5, 9), (1, 64, 3, 5)]


def test_images_of_a_batch_do_not_meet():
    swin = SwinTransformer(**SMALL).eval()
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        together = swin(images)
        alone = swin(images[1:])
    for batch, single in zip(together, alone):
        torch.testing.assert_close(batch[1:], single, atol=1e-5, rtol=1e-5)


def test_a_shifted_block_lets_only_neighbours_in_the_image_meet():
    torch.manual_seed(0)
    block = SwinBlock(8, 2, window_size=4, shifted=True).eval()
    nn.init.normal_(block.attn.qkv.weight)
    x = torch.randn(1, 8, 8, 8, requires_grad=True)
    block(x)[0, 0, 0].sum().backward()
    reached = x.grad[0].abs().sum(-1) > 1e-7
    # Token (0, 0) sits in the 2 x 2 corner that the shift cuts off, and sees nothing beyond it.
    assert reached[:2, :2].all() and reached.sum() == 4


def test_windows_are_partitioned_and_joined_without_loss():
    x = torch.arange(2 * 8 * 12 * 3.0).view(2, 8, 12, 3)
    windows = partition_windows(x, 4)
    assert windows.shape == (12, 16, 3)
    assert torch.equal(windows[1].view(4, 4, 3), x[0, :4, 4:8])
    assert torch.equal(join_windows(windows, 4, 8, 12), x)


def test_relative_position_index_counts_the_offset_from_key_to_query():
    index = relative_position_index(3)
    # Query (2, 0), key (0, 1): dy = 2, dx = -1.
    assert index[6, 1] == (2 + 2) * 5 + (-1 + 2)
    assert index.unique().numel() == 25


def test_merging_takes_the_lower_neighbour_before_the_right_one():
    merging = PatchMerging(1)
    merging.norm, merging.reduction = nn.Identity(), nn.Identity()
    merged = merging(torch.tensor([[1.0, 3.0], [2.0, 4.0]]).view(1, 2, 2, 1))
    assert merged.flatten().tolist() == [1, 2, 3, 4]


def trains(module):
    return any(parameter.requires_grad for parameter in module.parameters())


def test_nothing_is_frozen_by_a_negative_number():
    swin = SwinTransformer(**SMALL, frozen_stages=-1).train()
    assert all(parameter.requires_grad for parameter in swin.parameters())


@pytest.mark.parametrize(("frozen_stages", "frozen_layers"), [(0, 0), (1, 0), (2, 1), (4, 3)])
def test_frozen_parts_neither_train_nor_leave_evaluation_mode(frozen_stages, frozen_layers):
    swin = SwinTransformer(**SMALL, frozen_stages=frozen_stages, absolute_position=True)
    assert swin.train() is swin
    assert not trains(swin.patch_embed) and not swin.patch_embed.training
    assert swin.absolute_pos_embed.requires_grad == (frozen_stages < 1)
    for index, layer in enumerate(swin.layers):
        assert trains(layer) == layer.training == (index >= frozen_layers)


def test_drop_path_rises_linearly_over_all_blocks():
    swin = SwinTransformer(**SMALL, drop_path_rate=0.6)
    blocks = [block for layer in swin.layers for block in layer.blocks]
    assert isinstance(blocks[0].drop_path, nn.Identity)
    rates = [block.drop_path.drop_prob for block in blocks[1:]]
    assert rates == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])


def test_checkpointing_changes_neither_maps_nor_gradients():
    torch.manual_seed(0)
    plain = SwinTransformer(**SMALL, drop_path_rate=0.0)
    recomputed = SwinTransformer(**SMALL, drop_path_rate=0.0, use_checkpoint=True)
    recomputed.load_state_dict(plain.state_dict())
    images = torch.randn(1, 3, 64, 64)
    for model in (plain, recomputed):
        sum(feature.square().mean() for feature in model.train()(images)).backward()
    for ours, theirs in zip(plain.parameters(), recomputed.parameters()):
        torch.testing.assert_close(ours.grad, theirs.grad)


def test_absolute_positions_are_resized_to_the_map():
    swin = SwinTransformer(**SMALL, absolute_position=True).eval()
    with torch.no_grad():
        assert swin(torch.randn(1, 3, 64, 96))[0].shape == (1, 8, 16, 24)


@pytest.mark.slow
def test_the_whole_model_compiles_into_one_graph():
    swin = SwinTransformer(**SMALL).eval()
    images = torch.randn(1, 3, 64, 96)
    compiled = torch.compile(swin, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        for ours, theirs in zip(swin(images), compiled(images)):
            torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_options_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="heads"):
        SwinTransformer(depths=(2, 2), num_heads=(3,))
    with pytest.raises(ValueError, match="stages"):
        SwinTransformer(**SMALL, out_stages=(0, 4))
    with pytest.raises(ValueError, match="shared by"):
        SwinTransformer(embed_dim=10, num_heads=(3, 6, 12, 24))
