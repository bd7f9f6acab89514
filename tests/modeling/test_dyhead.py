"""Layers of the head's tower and the branches that read it."""

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BertConfig
from transformers.models.bert.modeling_bert import BertLayer

from maskrcnn_benchmark.layers.dyrelu import h_sigmoid
from maskrcnn_benchmark.modeling.language_backbone.text_features import TextFeatures
from maskrcnn_benchmark.modeling.rpn.dyconv import DyConv
from maskrcnn_benchmark.modeling.rpn.language_layers import (
    BertEncoderLayer,
    CLIPTransformerLayer,
)
from maskrcnn_benchmark.modeling.rpn.vldyhead import MaskedLanguageHead, VLDyHead, VLDyHeadModule

CHANNELS, TEXT_DIM = 8, 12
SIZES = ((7, 6), (4, 3), (2, 2), (1, 1))


def random_maps(batch: int = 2) -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randn(batch, CHANNELS, *size) for size in SIZES]


def random_text(batch: int = 2, tokens: int = 6, dim: int = TEXT_DIM) -> TextFeatures:
    torch.manual_seed(1)
    hidden = torch.randn(batch, tokens, dim)
    masks = torch.ones(batch, tokens, dtype=torch.int64)
    masks[-1, 4:] = 0
    embedded = torch.randn(batch, tokens, dim) * masks[..., None]
    return TextFeatures(hidden, embedded, embedded.mean(1), masks)


def randomise(module: nn.Module) -> nn.Module:
    torch.manual_seed(2)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    return module.eval()


# ---- vision layer -------------------------------------------------------------------------------


def make_dyconv(**options) -> DyConv:
    options = {"norm": lambda channels: nn.GroupNorm(4, channels), **options}
    return randomise(DyConv(CHANNELS, CHANNELS, **options))


def prefix_by_index(maps: Tensor, height: int, width: int) -> Tensor:
    """Element (c, y, x) is number (c * height + y) * width + x of the image's memory."""
    out = maps.new_empty(len(maps), maps.shape[1], height, width)
    for c in range(maps.shape[1]):
        for y in range(height):
            for x in range(width):
                n = (c * height + y) * width + x
                channel, rest = divmod(n, maps.shape[2] * maps.shape[3])
                row, column = divmod(rest, maps.shape[3])
                out[:, c, y, x] = maps[:, channel, row, column]
    return out


def reference_dyconv(layer: DyConv, maps: list[Tensor]) -> list[Tensor]:
    def normed_conv(index, x, offset, mask):
        conv, norm = layer.DyConv[index].conv, layer.DyConv[index].bn
        stride = 2 if index == 2 else 1
        y = torchvision.ops.deform_conv2d(
            x, offset, conv.weight, conv.bias, stride=stride, padding=1, mask=mask
        )
        return norm(y)

    out = []
    for level, x in enumerate(maps):
        sampling = layer.offset(x)
        offset, mask = sampling[:, :18], sampling[:, 18:].sigmoid()
        terms = [normed_conv(1, x, offset, mask)]
        if level > 0:
            terms.append(normed_conv(2, maps[level - 1], offset, mask))
        if level < len(maps) - 1:
            coarser = maps[level + 1]
            size = coarser.shape[2:]
            y = normed_conv(
                0, coarser, prefix_by_index(offset, *size), prefix_by_index(mask, *size)
            )
            terms.append(F.interpolate(y, x.shape[2:], mode="bilinear", align_corners=True))
        weights = [
            h_sigmoid(layer.AttnConv[1](term.mean((2, 3), keepdim=True)).relu()) for term in terms
        ]
        out.append(layer.relu(sum(w * t for w, t in zip(weights, terms)) / len(terms)))
    return out


def test_vision_layer_follows_the_definition():
    layer, maps, text = make_dyconv(), random_maps(), random_text()

    actual, same_text = layer(maps, text)

    torch.testing.assert_close(actual, reference_dyconv(layer, maps), atol=1e-5, rtol=1e-5)
    assert same_text is text


def test_memory_layout_of_the_maps_does_not_matter():
    layer, maps, text = make_dyconv(), random_maps(), random_text()

    expected, _ = layer(maps, text)
    actual, _ = layer([x.to(memory_format=torch.channels_last) for x in maps], text)

    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


def test_neighbour_weights_of_zero_attention_halve_the_mean():
    layer, maps = make_dyconv(dynamic_relu=False), random_maps()
    nn.init.zeros_(layer.AttnConv[1].weight)
    nn.init.zeros_(layer.AttnConv[1].bias)
    weighted, _ = layer(maps, random_text())

    layer.AttnConv = None
    plain, _ = layer(maps, random_text())

    torch.testing.assert_close(weighted, [x / 2 for x in plain])


def test_options_leave_out_their_parameters():
    layer = make_dyconv(deformable=False, weigh_neighbours=False, dynamic_relu=False)
    maps = random_maps()

    out, _ = layer(maps, random_text())

    assert set(layer.state_dict()) == {
        f"DyConv.{index}.{part}.{kind}"
        for index in range(3)
        for part in ("conv", "bn")
        for kind in ("weight", "bias")
    }
    assert [x.shape for x in out] == [x.shape for x in maps]


def test_identity_start_passes_a_level_through_its_own_convolution():
    torch.manual_seed(0)
    layer = DyConv(CHANNELS, CHANNELS, deformable=False, identity_init=True)
    maps = random_maps()[0]
    same = layer.DyConv[1](maps)
    assert (same - maps).std() < 0.2 * maps.std()
    assert layer.DyConv[0].conv.weight.std() < 0.02


def test_a_single_level_has_no_neighbours():
    layer, maps = make_dyconv(), random_maps()[:1]

    out, _ = layer(maps, random_text())

    torch.testing.assert_close(out, reference_dyconv(layer, maps), atol=1e-5, rtol=1e-5)


# ---- language layers ----------------------------------------------------------------------------


def test_language_layer_equals_that_of_transformers():
    layer = randomise(BertEncoderLayer(TEXT_DIM, 3, 20))
    text = random_text()
    config = BertConfig(
        hidden_size=TEXT_DIM,
        num_attention_heads=3,
        intermediate_size=20,
        attn_implementation="eager",
    )
    reference = BertLayer(config).eval()
    reference.load_state_dict(layer.state_dict())
    padding = (text.masks == 0)[:, None, None] * torch.finfo(torch.float32).min

    visual, actual = layer([], text)

    expected = reference(text.hidden, attention_mask=padding)
    expected = expected[0] if isinstance(expected, tuple) else expected
    torch.testing.assert_close(actual.hidden, expected, atol=1e-5, rtol=1e-5)
    assert actual.embedded is text.embedded and visual == []


def test_language_layer_clamps_what_would_overflow():
    layer = randomise(BertEncoderLayer(TEXT_DIM, 3, 20, clamp_min=True, clamp_max=True))
    nn.init.constant_(layer.output.LayerNorm.weight, 1e6)
    text = random_text()

    _, out = layer([], text._replace(hidden=1e10 * text.hidden))

    assert torch.isfinite(out.hidden).all()
    assert out.hidden.abs().max() == 50000


def test_clip_language_layer_attends_to_real_tokens_in_both_directions():
    layer = randomise(CLIPTransformerLayer(TEXT_DIM, 3))
    text = random_text()
    changed = text.hidden.clone()
    changed[1, 5, 0] += 1  # padding
    changed[0, 5, 0] += 1  # the last token of the first caption

    _, before = layer([], text)
    _, after = layer([], text._replace(hidden=changed))

    torch.testing.assert_close(after.hidden[1, :5], before.hidden[1, :5])
    assert not torch.allclose(after.hidden[0, 0], before.hidden[0, 0])
    assert {"attn.in_proj_weight", "ln_1.weight", "mlp.c_fc.weight", "mlp.c_proj.bias"} <= set(
        layer.state_dict()
    )


# ---- branches -----------------------------------------------------------------------------------


def make_head(**options) -> VLDyHead:
    options = {"channels": CHANNELS, "text_dim": TEXT_DIM, "num_levels": len(SIZES), **options}
    return randomise(VLDyHead([], **options))


def predict(head: VLDyHead, text: TextFeatures | None = None):
    text = text or random_text()
    return head(random_maps(), text, text.embedded)


def test_token_logits_follow_the_formula():
    head, maps, text = make_head(), random_maps(), random_text()

    logits = predict(head).token_logits

    unit = text.embedded / text.embedded.norm(dim=-1, keepdim=True).clamp(min=1e-12)
    keys = head.dot_product_projection_text(unit / 2)
    bias = unit @ head.bias_lang + head.bias0
    for x, level in zip(maps, logits):
        tokens = x.permute(0, 2, 3, 1).reshape(2, -1, CHANNELS)
        expected = torch.einsum("bnc,btc->bnt", tokens, keys) / head.log_scale.exp()
        torch.testing.assert_close(level, expected + bias[:, None])


def test_token_logits_without_projection_are_the_bias_of_the_token():
    head, text = make_head(), random_text()
    nn.init.zeros_(head.dot_product_projection_text.weight)
    nn.init.zeros_(head.dot_product_projection_text.bias)

    logits = predict(head).token_logits

    expected = F.normalize(text.embedded, dim=-1) @ head.bias_lang + head.bias0
    torch.testing.assert_close(logits[0], expected[:, None].expand_as(logits[0]))


def test_token_logits_can_be_clamped():
    head = make_head(clamp_dot_product=True)
    nn.init.constant_(head.bias0, 1e6)

    assert predict(head).token_logits[0].max() == 50000


def test_branches_read_the_text_they_are_told_to():
    text = random_text()
    head = make_head(read_fused_text=True)

    fused = predict(head).token_logits
    given = predict(head, text._replace(embedded=text.hidden)).token_logits

    torch.testing.assert_close(fused, given)


def test_a_new_head_starts_at_the_prior_probability():
    head = VLDyHead([], channels=CHANNELS, text_dim=TEXT_DIM, soft_token_slots=6, prior_prob=0.02)
    maps = [torch.zeros_like(x) for x in random_maps()]
    text = random_text()

    out = head(maps, text, text.embedded)

    assert out.soft_token_logits[0].sigmoid().mean().item() == pytest.approx(0.02)
    assert head.bias0.sigmoid().item() == pytest.approx(0.02)
    assert head.cls_logits.bias[0].sigmoid().item() == pytest.approx(0.02)


def test_branches_that_nothing_reads_are_left_out():
    out = predict(make_head())

    assert out.cls_logits is None and out.soft_token_logits is None
    assert out.contrastive is None and out.mlm_logits is None
    assert out.shallow_contrastive is None


def test_several_anchors_per_location_are_innermost():
    head = make_head(
        dot_product=False, anchors_per_location=3, soft_token_slots=5, contrastive_dim=4
    )
    maps = random_maps()

    out = predict(head)

    soft = head.token_logits(maps[0])  # anchor-major channels
    row, column, anchor = 2, 4, 1
    index = (row * SIZES[0][1] + column) * 3 + anchor
    torch.testing.assert_close(
        out.soft_token_logits[0][:, index], soft[:, 5 * anchor : 5 * anchor + 5, row, column]
    )
    image = head.contrastive_align_projection_image(maps[0])
    torch.testing.assert_close(
        out.contrastive.image[0][:, index],
        F.normalize(image[:, 4 * anchor : 4 * anchor + 4, row, column], dim=-1),
    )
    assert out.box_regression[0].shape == (2, 12, *SIZES[0])


def test_contrastive_logits_are_scaled_cosines():
    head, text = make_head(dot_product=False, contrastive_dim=4), random_text()

    logits = predict(head).contrastive.logits()

    unit = F.normalize(head.contrastive_align_projection_text(text.embedded), dim=-1)
    assert logits[0].shape == (2, SIZES[0][0] * SIZES[0][1], 6)
    assert logits[0].abs().max() <= 1 / head.log_scale.exp() + 1e-5
    torch.testing.assert_close(predict(head).contrastive.text, unit)


def test_masked_language_branch_shares_its_two_biases():
    branch = randomise(MaskedLanguageHead(TEXT_DIM, 30))
    tokens = torch.randn(2, 5, TEXT_DIM)

    logits = branch(tokens)

    inner = branch.transform.LayerNorm(F.gelu(branch.transform.dense(tokens)))
    torch.testing.assert_close(logits, inner @ branch.decoder.weight.T + branch.bias)
    assert branch.decoder.bias is branch.bias
    assert {"bias", "decoder.bias"} <= set(branch.state_dict())


def test_shallow_features_are_those_before_the_tower():
    head = make_head(keep_shallow_features=True)
    head.dyhead_tower.append(make_dyconv())
    maps = random_maps()

    out = head(maps, random_text(), random_text().embedded)

    torch.testing.assert_close(out.shallow_contrastive.image_levels, maps)
    torch.testing.assert_close(
        out.shallow_contrastive.text, F.normalize(random_text().embedded, dim=-1)
    )


@pytest.mark.parametrize(
    "options",
    [{"anchors_per_location": 2}, {"contrastive_dim": 4}],
)
def test_the_dot_product_refuses_what_does_not_fit(options):
    with pytest.raises(ValueError, match="dot-product"):
        make_head(**options)


def test_prompt_offsets_are_looked_up_by_position():
    module = VLDyHeadModule(
        make_head(read_fused_text=True), None, None, None, num_prompt_slots=10, text_dim=TEXT_DIM
    )
    text = random_text()
    untouched = module.predict(random_maps(), text).token_logits
    assert not module.tunable_linear.weight.any()
    nn.init.normal_(module.tunable_linear.weight)

    tuned = module.predict(random_maps(), text).token_logits

    moved = text._replace(hidden=text.hidden + module.tunable_linear.weight[:6])
    expected = module.head(random_maps(), moved, moved.embedded).token_logits
    torch.testing.assert_close(tuned, expected)
    assert not torch.allclose(tuned[0], untouched[0])
    assert module.tunable_linear.weight.shape == (10, TEXT_DIM)
