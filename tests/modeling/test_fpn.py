"""Feature pyramid: wiring, extra levels, options."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from maskrcnn_benchmark.layers.drop_block import DropBlock2D
from maskrcnn_benchmark.modeling.backbone.fpn import (
    FPN,
    LastLevelMaxPool,
    LastLevelP6P7,
    build_conv,
)


def features(sizes=((20, 24), (10, 12), (5, 6)), channels=(4, 6, 8)):
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(2, c, *size, generator=generator) for c, size in zip(channels, sizes)]


def test_levels_are_laterals_plus_the_enlarged_level_above():
    fpn = FPN([0, 4, 6, 8], 5).eval()
    c3, c4, c5 = features()
    p3, p4, p5 = fpn([torch.zeros(2, 3, 40, 48), c3, c4, c5])

    m5 = fpn.fpn_inner4(c5)
    m4 = fpn.fpn_inner3(c4) + m5.repeat_interleave(2, 2).repeat_interleave(2, 3)
    m3 = fpn.fpn_inner2(c3) + m4.repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(p5, fpn.fpn_layer4(m5))
    torch.testing.assert_close(p4, fpn.fpn_layer3(m4))
    torch.testing.assert_close(p3, fpn.fpn_layer2(m3))


def test_an_unused_map_has_no_modules_but_keeps_its_number():
    names = [name for name, _ in FPN([0, 4, 6, 8], 5).named_children() if name.startswith("fpn")]
    assert names == [f"fpn_{kind}{index}" for index in (2, 3, 4) for kind in ("inner", "layer")]


def test_levels_above_may_be_larger_than_half():
    maps = features(sizes=((9, 13), (5, 7), (3, 4)))
    shapes = [tuple(level.shape[-2:]) for level in FPN([4, 6, 8], 5)(maps)]
    assert shapes == [(9, 13), (5, 7), (3, 4)]


def test_p6_is_not_rectified_and_p7_reads_it_rectified():
    top = LastLevelP6P7(5, 5)
    p5 = torch.randn(1, 5, 7, 9)
    p6, p7 = top(torch.zeros(1, 8, 7, 9), p5)
    torch.testing.assert_close(p6, top.p6(p5))
    assert (p6 < 0).any()
    torch.testing.assert_close(p7, top.p7(F.relu(p6)))
    assert p6.shape[-2:] == (4, 5) and p7.shape[-2:] == (2, 3)


def test_p6_reads_the_backbone_when_the_channels_differ():
    c5 = torch.randn(1, 8, 4, 4)
    top = LastLevelP6P7(8, 5)
    torch.testing.assert_close(top(c5, torch.zeros(1, 5, 4, 4))[0], top.p6(c5))


def test_max_pool_level_takes_every_second_position():
    levels = FPN([4, 6, 8], 5, LastLevelMaxPool())(features())
    assert torch.equal(levels[3], levels[2][:, :, ::2, ::2])


def test_drop_block_touches_all_levels_but_the_coarsest_and_not_the_path_down():
    class Zero(DropBlock2D):
        def forward(self, x):
            return x * 0 if self.training else x

    fpn = FPN([4, 6, 8], 5, drop_block=Zero(0.3, 3))
    kept = fpn.eval()(features())
    dropped = fpn.train()(features())
    assert torch.equal(dropped[2], kept[2])
    for level, layer in zip(dropped, (fpn.fpn_layer1, fpn.fpn_layer2)):
        torch.testing.assert_close(level, layer.bias[:, None, None].expand_as(level))


def test_group_norm_replaces_the_bias_and_relu_comes_last():
    conv = partial(build_conv, num_groups=2, eps=1e-3, use_relu=True)
    fpn = FPN([4, 6, 8], 6, conv=conv)
    assert fpn.fpn_inner1[0].bias is None
    assert fpn.fpn_inner1[1].num_groups == 2 and fpn.fpn_inner1[1].eps == 1e-3
    assert all((level >= 0).all() for level in fpn(features()))


def test_pooling_pyramid_widens_the_last_lateral_only():
    fpn = FPN([4, 6, 8], 5, use_spp=True)
    assert [fpn.fpn_inner2.in_channels, fpn.fpn_inner3.in_channels] == [6, 32]
    c5 = features()[-1]
    pooled = [F.max_pool2d(c5, size, 1, size // 2) for size in (5, 9, 13)]
    expected = fpn.fpn_layer3(fpn.fpn_inner3(torch.cat([c5, *pooled], dim=1)))
    torch.testing.assert_close(fpn(features())[2], expected)


def test_bottom_up_path_adds_reduced_levels_and_feeds_the_top():
    fpn = FPN([0, 4, 6, 8], 5, LastLevelP6P7(5, 5), use_pan=True).eval()
    plain = FPN([0, 4, 6, 8], 5).eval()
    plain.load_state_dict(fpn.state_dict(), strict=False)
    p3, p4, p5 = plain(features())
    n4 = fpn.pan_out_layer2(fpn.pan_in_layer2(p3) + p4)
    n5 = fpn.pan_out_layer3(fpn.pan_in_layer3(n4) + p5)
    levels = fpn(features())
    for level, expected in zip(levels, (p3, n4, n5, fpn.top_blocks.p6(n5))):
        torch.testing.assert_close(level, expected)


def test_convolutions_start_kaiming_uniform_without_bias():
    torch.manual_seed(0)
    conv = build_conv(16, 32, 3)
    bound = (3.0 / (16 * 9)) ** 0.5
    assert conv.bias.abs().max() == 0
    assert 0.98 * bound < conv.weight.abs().max() <= bound


def test_a_pyramid_without_maps_is_refused():
    with pytest.raises(ValueError, match="no map"):
        FPN([0, 0], 5)


def test_without_drop_block_there_is_none():
    assert isinstance(FPN([4], 5).drop_block, nn.Identity)
