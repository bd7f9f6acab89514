"""ResNet: agreement with torchvision, options, freezing."""

import pytest
import torch
import torchvision
from torch import nn
from torchvision.models.resnet import Bottleneck as TorchvisionBottleneck
from torchvision.models.resnet import ResNet as TorchvisionResNet

from maskrcnn_benchmark.layers.batch_norm import FrozenBatchNorm2d
from maskrcnn_benchmark.modeling.backbone.resnet import BLOCKS, DeformableConv3x3, ResNet, Stem

SMALL = {"stem_channels": 8, "first_channels": 32, "width_per_group": 8}


def torchvision_weights(twin):
    """Names of torchvision's backbone to ours."""
    weights = {}
    for key, value in twin.state_dict().items():
        stem = key.startswith(("conv1", "bn1"))
        if not key.startswith("fc."):
            weights[f"stem.{key}" if stem else key] = value
    return weights


def randomise(model):
    generator = torch.Generator().manual_seed(4)
    for name, tensor in model.state_dict().items():
        if "running_mean" in name or name.endswith("bias"):
            tensor.copy_(0.1 * torch.randn(tensor.shape, generator=generator))
        elif "running_var" in name:
            tensor.copy_(1 + torch.rand(tensor.shape, generator=generator))


@pytest.mark.parametrize("options", [{}, {"groups": 2, "width_per_group": 32}])
def test_equals_torchvision_on_shared_weights(options):
    blocks = (1, 2, 1, 1)
    # torchvision adds 1e-5 to the variance; published detector weights expect nothing added.
    twin = TorchvisionResNet(
        TorchvisionBottleneck, blocks, norm_layer=lambda n: nn.BatchNorm2d(n, eps=0.0), **options
    ).eval()
    randomise(twin)
    ours = ResNet(
        blocks,
        num_groups=options.get("groups", 1),
        width_per_group=options.get("width_per_group", 64),
        stride_in_1x1=False,
    )
    ours.load_state_dict(torchvision_weights(twin))
    x = torch.randn(1, 3, 65, 97)
    with torch.no_grad():
        maps = ours(x)
        x = twin.maxpool(twin.relu(twin.bn1(twin.conv1(x))))
        for stage, feature in enumerate(maps, 1):
            x = getattr(twin, f"layer{stage}")(x)
            torch.testing.assert_close(feature, x, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("depth", [50, 101])
def test_names_and_shapes_are_those_of_torchvision(depth):
    with torch.device("meta"):
        ours = ResNet(BLOCKS[depth])
        twin = getattr(torchvision.models, f"resnet{depth}")()
    expected = {
        key: value.shape
        for key, value in torchvision_weights(twin).items()
        if not key.endswith("num_batches_tracked")
    }
    assert {key: value.shape for key, value in ours.state_dict().items()} == expected


def test_stride_sits_in_the_first_convolution_unless_told_otherwise():
    caffe, torch_style = (
        ResNet((1, 1), (1, 2), **SMALL),
        ResNet((1, 1), (1, 2), stride_in_1x1=False, **SMALL),
    )
    assert caffe.layer2[0].conv1.stride == (2, 2) and caffe.layer2[0].conv2.stride == (1, 1)
    assert torch_style.layer2[0].conv2.stride == (2, 2)


def test_only_the_requested_stages_come_out():
    model = ResNet((1, 1, 1), (3,), **SMALL)
    assert not hasattr(model, "layer4") and model.out_channels == [128]
    assert [tuple(f.shape) for f in model(torch.randn(1, 3, 64, 64))] == [(1, 128, 4, 4)]


def test_dilation_keeps_the_resolution_of_the_last_stage():
    model = ResNet((1, 1, 1, 2), last_dilation=2, **SMALL)
    assert [f.shape[-1] for f in model(torch.randn(1, 3, 64, 64))] == [16, 8, 4, 4]


@pytest.mark.parametrize(("level", "trainable"), [(1, [0]), (2, [0, 2]), (3, [0, 1, 2])])
def test_norm_level_says_which_blocks_are_not_frozen(level, trainable):
    model = ResNet((3,), (1,), norm=nn.BatchNorm2d, norm_level=level, **SMALL)
    kinds = [isinstance(block.bn1, nn.BatchNorm2d) for block in model.layer1]
    assert [index for index, kind in enumerate(kinds) if kind] == trainable
    assert isinstance(model.stem.bn1, FrozenBatchNorm2d)


@pytest.mark.parametrize("frozen", [-1, 0, 1, 3])
def test_the_first_stages_do_not_train(frozen):
    model = ResNet((1, 1, 1, 1), frozen_stages=frozen, **SMALL)
    parts = [model.stem, model.layer1, model.layer2, model.layer3, model.layer4]
    trains = [all(p.requires_grad for p in part.parameters()) for part in parts]
    assert trains == [index >= frozen for index in range(5)]


def test_a_stem_of_two_small_convolutions_has_no_pooling():
    stem = Stem(8, FrozenBatchNorm2d, use_3x3=True)
    assert stem(torch.randn(1, 3, 32, 32)).shape == (1, 8, 8, 8)
    assert stem.conv2.kernel_size == (3, 3)


def test_averaging_shortcut_and_excitation_have_their_published_names():
    model = ResNet((1, 1), (2,), avg_down=True, with_se=True, **SMALL)
    keys = set(model.state_dict())
    assert {"layer2.0.downsample.1.weight", "layer2.0.downsample.2.running_var"} <= keys
    assert {"layer2.0.se.fc.0.weight", "layer2.0.se.fc.2.weight"} <= keys
    assert model(torch.randn(1, 3, 36, 36))[0].shape == (1, 64, 5, 5)


@pytest.mark.parametrize(("modulated", "channels"), [(False, 36), (True, 54)])
def test_deformable_stage_predicts_offsets_for_every_group(modulated, channels):
    options = {"deformable": (False, True), "modulated": modulated, "deformable_groups": 2}
    model = ResNet((1, 1), (2,), with_se=True, **options, **SMALL)
    assert isinstance(model.layer1[0].conv2, nn.Conv2d)
    conv = model.layer2[0].conv2
    assert conv.offset.out_channels == channels and model.layer2[0].se is None
    assert set(conv.state_dict()) == {"offset.weight", "offset.bias", "conv.weight"}
    assert model(torch.randn(1, 3, 32, 32))[0].shape == (1, 64, 4, 4)


@pytest.mark.parametrize(("modulated", "factor"), [(False, 1.0), (True, 0.5)])
def test_without_offsets_deformable_is_plain_convolution(modulated, factor):
    layer = DeformableConv3x3(4, 6, stride=2, modulated=modulated)
    nn.init.zeros_(layer.offset.weight)
    x = torch.randn(2, 4, 9, 7)
    plain = nn.functional.conv2d(x, layer.conv.weight, stride=2, padding=1)
    torch.testing.assert_close(layer(x), factor * plain, atol=1e-5, rtol=1e-5)


def test_checkpointing_changes_no_gradient():
    plain, recomputed = (ResNet((1, 1), (2,), use_checkpoint=c, **SMALL) for c in (False, True))
    recomputed.load_state_dict(plain.state_dict())
    images = torch.randn(1, 3, 32, 32)
    for model in (plain, recomputed):
        model(images)[0].square().mean().backward()
    for ours, theirs in zip(plain.parameters(), recomputed.parameters()):
        torch.testing.assert_close(ours.grad, theirs.grad)


def test_stages_and_levels_that_do_not_exist_are_refused():
    with pytest.raises(ValueError, match="stages"):
        ResNet((1, 1), (3,), **SMALL)
    with pytest.raises(ValueError, match="norm_level"):
        ResNet((1,), (1,), norm_level=4, **SMALL)
