"""Fusion layers: the folded attention equals the plain one, and both what the formulas say."""

import pytest
import torch
from torch import Tensor

from maskrcnn_benchmark.modeling.fusion import (
    BiAttentionFuse,
    BiMultiHeadAttention,
    TextToImageFuse,
    folded_attention,
    folded_bi_attention,
    set_fusion_implementation,
)
from maskrcnn_benchmark.modeling.language_backbone.text_features import TextFeatures

VISUAL_DIM, TEXT_DIM, HEADS = 8, 12, 3
SIZES = ((6, 5), (3, 3), (2, 2), (1, 1), (1, 1))


def random_features(batch: int = 2, tokens: int = 7, dtype=torch.float32):
    visual = [torch.randn(batch, VISUAL_DIM, *size, dtype=dtype) for size in SIZES]
    hidden = torch.randn(batch, tokens, TEXT_DIM, dtype=dtype)
    masks = torch.ones(batch, tokens, dtype=torch.int64)
    masks[1:, tokens // 2 :] = 0
    embedded = hidden * masks[..., None]
    return visual, TextFeatures(hidden, embedded, embedded.mean(1), masks)


def make_attention(**options) -> BiMultiHeadAttention:
    torch.manual_seed(1)
    attention = BiMultiHeadAttention(
        VISUAL_DIM, TEXT_DIM, embed_dim=HEADS * VISUAL_DIM, num_heads=HEADS, **options
    )
    for parameter in attention.parameters():
        torch.nn.init.normal_(parameter, std=0.7)
    return attention.double().eval()


def make_fuse(**options) -> BiAttentionFuse:
    torch.manual_seed(1)
    options = {"initial_scale": 0.5, "num_heads": HEADS, "clamp_min": True, **options}
    return BiAttentionFuse(VISUAL_DIM, TEXT_DIM, **options).double().eval()


def reference_attention(attention, visual, text, mask):
    """The formulas, one head, one image at a time."""
    visual_updates, text_updates = [], []
    d = attention.head_dim
    for v, words, real in zip(visual, text, mask.bool()):
        visual_heads, text_heads = [], []
        for h in range(attention.num_heads):
            own = slice(h * d, (h + 1) * d)

            def project(layer, x, own=own):
                return x @ layer.weight[own].T + layer.bias[own]

            scores = project(attention.v_proj, v) / d**0.5 @ project(attention.l_proj, words).T
            to_text = scores.masked_fill(~real, float("-inf")).softmax(1)
            visual_heads.append(to_text @ project(attention.values_l_proj, words))
            text_heads.append(scores.softmax(0).T @ project(attention.values_v_proj, v))
        visual_updates.append(attention.out_v_proj(torch.cat(visual_heads, 1)))
        text_updates.append(attention.out_l_proj(torch.cat(text_heads, 1)))
    return torch.stack(visual_updates), torch.stack(text_updates)


@pytest.mark.parametrize("implementation", ["plain", "folded"])
def test_bi_attention_follows_the_formulas(implementation):
    attention = make_attention(implementation=implementation)
    visual, text = random_features(dtype=torch.float64)
    visual = visual[0].flatten(2).transpose(1, 2)

    actual = attention(visual, text.hidden, text.masks)

    expected = reference_attention(attention, visual, text.hidden, text.masks)
    torch.testing.assert_close(actual, expected)


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of 32 visual tokens, so that small inputs take several."""
    monkeypatch.setitem(folded_attention._BLOCK_ELEMENTS, "cpu", 1)


def output_and_gradients(attention, visual, text, mask, implementation):
    attention.set_implementation(implementation)
    visual, text = visual.clone().requires_grad_(), text.clone().requires_grad_()
    attention.zero_grad()
    outputs = attention(visual, text, mask)
    weights = [torch.linspace(-1, 1, out.numel()).view_as(out).to(out.dtype) for out in outputs]
    sum((out * weight).sum() for out, weight in zip(outputs, weights)).backward()
    gradients = {name: p.grad.clone() for name, p in attention.named_parameters()}
    return outputs, {"visual": visual.grad, "text": text.grad, **gradients}


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("num_visual", [1, 31, 32, 33, 100])
@pytest.mark.parametrize("tokens", [1, 7, 8, 21])
def test_folded_and_plain_agree_in_values_and_all_gradients(num_visual, tokens):
    attention = make_attention(clamp_min=True, clamp_max=True)
    visual = torch.randn(2, num_visual, VISUAL_DIM, dtype=torch.float64)
    _, text = random_features(tokens=tokens, dtype=torch.float64)
    arguments = (attention, visual, text.hidden, text.masks)

    plain, plain_gradients = output_and_gradients(*arguments, "plain")
    folded, folded_gradients = output_and_gradients(*arguments, "folded")

    torch.testing.assert_close(folded, plain)
    torch.testing.assert_close(folded_gradients, plain_gradients)


def test_without_dropout_the_operator_touches_one_device(monkeypatch):
    """An operator that reads the CPU as well cannot be part of a CUDA graph."""
    devices = []

    def record(*arguments):
        devices.extend(a.device.type for a in arguments if isinstance(a, Tensor))
        return operator(*arguments)

    operator = folded_attention._forward
    monkeypatch.setattr(folded_attention, "_forward", record)
    shapes = ((1, 5, 3), (1, 2, 4, 3), (1, 2, 4), (1, 2, 4, 3), (1, 4))

    folded_bi_attention(*(torch.zeros(shape, device="meta") for shape in shapes))

    assert set(devices) == {"meta"}


def test_without_text_tokens_nothing_is_added_to_the_image():
    visual, (keys, values) = torch.randn(1, 5, 3), torch.randn(2, 1, 2, 0, 3)

    update, context, weight = folded_bi_attention(
        visual, keys, torch.randn(1, 2, 0), values, torch.zeros(1, 0)
    )

    assert not update.any()
    assert context.shape == (1, 2, 0, 3) and weight.shape == (1, 2, 0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_model_in_half_precision_is_no_less_exact_than_the_plain_one(dtype):
    attention = make_attention().to(dtype)
    visual, text = random_features(dtype=dtype)
    arguments = (visual[0].flatten(2).transpose(1, 2), text.hidden)

    folded = attention(*arguments, text.masks)
    attention.set_implementation("plain")
    plain = attention(*arguments, text.masks)
    # The same rounded weights and inputs, computed exactly.
    exact = attention.double()(*(x.double() for x in arguments), text.masks)

    assert [output.dtype for output in folded] == [dtype, dtype]
    for own, other, true in zip(folded, plain, exact):
        assert (own - true).norm() <= (other - true).norm()
        assert (own - true).norm() <= 4 * torch.finfo(dtype).eps * true.norm()


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("scale", [1e5, 1e6])
def test_folded_equals_plain_where_the_clamps_bind(scale, monkeypatch):
    attention = make_attention(clamp_min=True, clamp_max=True)
    visual = scale * torch.randn(2, 50, VISUAL_DIM, dtype=torch.float64)
    _, text = random_features(dtype=torch.float64)
    arguments = (attention, visual, text.hidden, text.masks)

    plain, plain_gradients = output_and_gradients(*arguments, "plain")
    folded, folded_gradients = output_and_gradients(*arguments, "folded")
    unclamped = make_attention()(*arguments[1:])

    torch.testing.assert_close(folded, plain)
    torch.testing.assert_close(folded_gradients, plain_gradients)
    assert not torch.allclose(unclamped[1], plain[1])


def test_a_caption_without_real_tokens_gives_uniform_attention_in_both():
    attention = make_attention()
    visual = torch.randn(1, 9, VISUAL_DIM, dtype=torch.float64)
    text = torch.randn(1, 4, TEXT_DIM, dtype=torch.float64)
    nothing = torch.zeros(1, 4, dtype=torch.int64)
    attention.float()
    visual, text = visual.float(), text.float()

    folded = attention(visual, text, nothing)
    attention.set_implementation("plain")
    plain = attention(visual, text, nothing)

    torch.testing.assert_close(folded, plain)
    assert torch.isfinite(folded[0]).all()


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_gradients_of_the_folded_operator(dropout):
    torch.manual_seed(0)
    visual = torch.randn(2, 40, 3, dtype=torch.float64, requires_grad=True)
    keys, values = (
        torch.randn(2, 2, 4, 3, dtype=torch.float64, requires_grad=True) for _ in range(2)
    )
    bias = torch.randn(2, 2, 4, dtype=torch.float64, requires_grad=True)
    mask_bias = torch.zeros(2, 4, dtype=torch.float64)
    mask_bias[1, 3] = -9e15

    def run(*inputs: Tensor):
        torch.manual_seed(5)  # the same weights are dropped at every evaluation
        return folded_bi_attention(*inputs, mask_bias, clamp=(-3.0, 3.0), dropout=dropout)

    assert torch.autograd.gradcheck(run, (visual, keys, bias, values))


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_the_folded_operator_is_well_registered(dropout):
    inputs = (
        torch.randn(1, 5, 3, requires_grad=True),
        torch.randn(1, 2, 4, 3, requires_grad=True),
        torch.randn(1, 2, 4, requires_grad=True),
        torch.randn(1, 2, 4, 3, requires_grad=True),
        torch.zeros(1, 4),
    )
    arguments = (*inputs, -50000.0, 50000.0, dropout, torch.tensor(3))
    torch.library.opcheck(torch.ops.glip.folded_bi_attention.default, arguments)


@pytest.mark.parametrize("need_visual", [True, False])
def test_the_gradient_of_the_folded_operator_is_well_registered(need_visual):
    visual, bias = torch.randn(1, 5, 3), torch.randn(1, 2, 4)
    keys, values = torch.randn(2, 1, 4, 2, 3).transpose(2, 3).unbind()  # as projections leave them
    inputs = (visual, keys, bias, values, torch.zeros(1, 4))
    settings = (-50000.0, 50000.0, 0.0, torch.tensor(0))
    outputs = torch.ops.glip.folded_bi_attention(*inputs, *settings)
    grads = [torch.randn_like(output) for output in outputs[:3]]

    arguments = (*grads, *inputs, *outputs[1:], *settings, need_visual)

    torch.library.opcheck(torch.ops.glip.folded_bi_attention_backward.default, arguments)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_the_other_gradients_are_the_same_where_visual_tokens_need_none(dropout):
    visual = torch.randn(2, 40, 3, dtype=torch.float64)
    others = [
        torch.randn(size, dtype=torch.float64, requires_grad=True)
        for size in ((2, 2, 4, 3), (2, 2, 4), (2, 2, 4, 3))
    ]
    found = []
    for needed in (True, False):
        torch.manual_seed(5)
        outputs = folded_bi_attention(
            visual.requires_grad_(needed),
            *others,
            torch.zeros(2, 4, dtype=torch.float64),
            dropout=dropout,
        )
        found.append(torch.autograd.grad([output.sin().sum() for output in outputs], others))

    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)


def test_dropout_keeps_the_expected_update():
    attention = make_attention(dropout=0.5).train()
    visual = torch.randn(1, 20, VISUAL_DIM, dtype=torch.float64)
    text = torch.randn(1, 6, TEXT_DIM, dtype=torch.float64)
    mask = torch.ones(1, 6, dtype=torch.int64)

    with torch.no_grad():
        samples = [attention(visual, text, mask) for _ in range(3000)]
        expected = attention.eval()(visual, text, mask)

    for index in range(2):
        stacked = torch.stack([sample[index] for sample in samples])
        assert stacked.std(0).mean() > 0.1
        error = (stacked.mean(0) - expected[index]) / (stacked.std(0) / len(samples) ** 0.5)
        assert error.abs().max() < 5


def test_dropout_draws_the_two_directions_independently_at_the_asked_rate():
    generator = torch.Generator().manual_seed(0)

    first, second = folded_attention._keep_masks((100, 1000), 0.1, generator)

    assert first.float().mean().item() == pytest.approx(0.9, abs=0.005)
    assert second.float().mean().item() == pytest.approx(0.9, abs=0.005)
    assert (first & second).float().mean().item() == pytest.approx(0.81, abs=0.005)


def test_seeded_dropout_repeats():
    attention = make_attention(dropout=0.5).train()
    visual, text = random_features(dtype=torch.float64)
    visual = visual[0].flatten(2).transpose(1, 2)

    torch.manual_seed(3)
    first = attention(visual, text.hidden, text.masks)
    second = attention(visual, text.hidden, text.masks)
    torch.manual_seed(3)
    again = attention(visual, text.hidden, text.masks)

    torch.testing.assert_close(first, again, rtol=0, atol=0)
    assert not torch.equal(first[0], second[0])


def test_stable_softmax_gives_the_same_result_where_nothing_is_clamped():
    visual, text = random_features(dtype=torch.float64)
    visual = visual[0].flatten(2).transpose(1, 2)

    stable = make_attention(stable_softmax_2d=True)(visual, text.hidden, text.masks)

    torch.testing.assert_close(stable, make_attention()(visual, text.hidden, text.masks))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("implementation", ["plain", "folded"])
def test_attention_under_autocast_stays_near_full_precision(dtype, implementation):
    attention = make_attention(clamp_min=True, clamp_max=True).float()
    attention.set_implementation(implementation)
    visual, text = random_features()
    visual = torch.cat([level.flatten(2) for level in visual], 2).transpose(1, 2).requires_grad_()

    expected = attention(visual, text.hidden, text.masks)
    with torch.autocast("cpu", dtype=dtype):
        actual = attention(visual, text.hidden, text.masks)
    (actual[0].float().sum() + actual[1].float().sum()).backward()

    for got, wanted in zip(actual, expected):
        torch.testing.assert_close(got.float(), wanted, atol=0.15, rtol=0.05)
    assert torch.isfinite(visual.grad).all()


def test_attention_compiles_into_one_graph():
    attention = make_attention(dropout=0.1, clamp_min=True).float().train()
    visual, text = random_features()
    visual = visual[0].flatten(2).transpose(1, 2)
    compiled = torch.compile(attention, fullgraph=True, backend="aot_eager")

    torch.manual_seed(0)
    expected = attention(visual, text.hidden, text.masks)
    torch.manual_seed(0)
    actual = compiled(visual, text.hidden, text.masks)

    torch.testing.assert_close(actual, expected)


def test_an_unknown_implementation_is_refused():
    with pytest.raises(ValueError, match="fastest"):
        make_attention(implementation="fastest")


# ---- layers of the tower ------------------------------------------------------------------------


def normalised(x: Tensor) -> Tensor:
    return torch.nn.functional.layer_norm(x, x.shape[-1:])


def test_fusion_without_scale_returns_the_normalised_inputs():
    fuse = make_fuse(initial_scale=0.0)
    visual, text = random_features(dtype=torch.float64)

    fused, fused_text = fuse(visual, text)

    for before, after in zip(visual, fused):
        tokens = before.flatten(2).transpose(1, 2)
        torch.testing.assert_close(after.flatten(2).transpose(1, 2), normalised(tokens))
    torch.testing.assert_close(fused_text.hidden, normalised(text.hidden))
    assert fused_text.embedded is text.embedded


def test_fused_maps_have_channels_last_memory_of_their_own():
    visual, text = random_features(batch=2, dtype=torch.float64)

    fused, _ = make_fuse()(visual, text)

    assert all(level.is_contiguous(memory_format=torch.channels_last) for level in fused)


@pytest.mark.parametrize("implementation", ["plain", "folded"])
def test_padding_tokens_change_neither_the_image_nor_real_tokens(implementation):
    fuse = make_fuse(implementation=implementation)
    visual, text = random_features(batch=1, tokens=5, dtype=torch.float64)
    extra = torch.randn(1, 3, TEXT_DIM, dtype=torch.float64)
    padded = text._replace(
        hidden=torch.cat([text.hidden, extra], 1),
        masks=torch.tensor([[1, 1, 1, 1, 1, 0, 0, 0]]),
    )

    expected, expected_text = fuse(visual, text)
    actual, actual_text = fuse(visual, padded)

    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(actual_text.hidden[:, :5], expected_text.hidden)


def test_more_image_positions_change_the_text():
    fuse = make_fuse()
    visual, text = random_features(dtype=torch.float64)
    wider = [torch.nn.functional.pad(level, (0, 1)) for level in visual]

    _, expected = fuse(visual, text)
    _, actual = fuse(wider, text)

    assert not torch.allclose(actual.hidden, expected.hidden)


@pytest.mark.parametrize("outside", [False, True])
def test_separate_levels_see_the_same_text_and_join_their_own(outside):
    fuse = make_fuse(separate_levels=True, shrink_outside_checkpoint=outside)
    joint = make_fuse()
    joint.load_state_dict(
        {k: v for k, v in fuse.state_dict().items() if "shrink_lang" not in k}, strict=True
    )
    shrink = fuse.shrink_lang if outside else fuse.b_attn.shrink_lang
    visual, text = random_features(dtype=torch.float64)

    fused, fused_text = fuse(visual, text)

    alone = [joint([level], text) for level in visual]
    torch.testing.assert_close(fused, [levels[0] for levels, _ in alone])
    joined = torch.cat([own.hidden for _, own in alone], -1)
    torch.testing.assert_close(fused_text.hidden, shrink(joined))


@pytest.mark.parametrize("make", [make_fuse, lambda **o: make_text_to_image(**o)])
def test_checkpointing_changes_nothing(make):
    options = {"implementation": "plain"} if make is make_fuse else {}
    visual, text = random_features(dtype=torch.float64)
    gradients = []
    for use_checkpoint in (False, True):
        fuse = make(use_checkpoint=use_checkpoint, dropout=0.3, **options).train()
        torch.manual_seed(9)
        fused, _ = fuse(visual, text)
        sum(level.square().sum() for level in fused).backward()
        gradients.append({name: p.grad for name, p in fuse.named_parameters()})

    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        if gradient is not None:
            torch.testing.assert_close(gradients[1][name], gradient)


def make_text_to_image(**options) -> TextToImageFuse:
    torch.manual_seed(1)
    options = {"initial_scale": 0.5, "num_heads": HEADS, **options}
    return TextToImageFuse(VISUAL_DIM, TEXT_DIM, **options).double().eval()


def test_text_to_image_fusion_normalises_the_text_once_more_per_level():
    fuse = make_text_to_image(clamp_min=True, clamp_max=True)
    block, visual, text = fuse.t2i_attn, *random_features(dtype=torch.float64)

    fused, fused_text = fuse(visual, text)

    level_text = text.hidden
    for before, after in zip(visual, fused):
        level_text = normalised(level_text)
        tokens = normalised(before.flatten(2).transpose(1, 2))
        attention = torch.nn.functional.scaled_dot_product_attention(
            *(
                projected.unflatten(-1, (HEADS, VISUAL_DIM)).transpose(1, 2)
                for projected in (
                    block.attn.q_proj(tokens),
                    block.attn.k_proj(level_text),
                    block.attn.v_proj(level_text),
                )
            ),
            attn_mask=text.masks[:, None, None].bool(),
        )
        update = block.attn.out_proj(attention.transpose(1, 2).flatten(2))
        expected = tokens + 0.5 * update
        torch.testing.assert_close(after.flatten(2).transpose(1, 2), expected)
    assert fused_text is text


def test_layer_scale_of_text_to_image_fusion_is_optional():
    assert "t2i_attn.gamma" in make_text_to_image().state_dict()
    assert "t2i_attn.gamma" not in make_text_to_image(initial_scale=None).state_dict()


def test_the_implementation_of_a_whole_model_can_be_switched():
    model = torch.nn.Sequential(make_fuse(), make_fuse())

    set_fusion_implementation(model, "plain")

    assert {fuse.b_attn.attn.implementation for fuse in model} == {"plain"}
