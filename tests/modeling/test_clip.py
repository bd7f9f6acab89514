"""The text half of CLIP."""

import pytest
import torch
from torch import nn

from maskrcnn_benchmark.config import cfg
from maskrcnn_benchmark.modeling.language_backbone.build import build_language_backbone
from maskrcnn_benchmark.modeling.language_backbone.clip import (
    CLIPTextEncoder,
    Float32LayerNorm,
    text_weights,
)

SMALL = {
    "context_length": 6,
    "width": 8,
    "num_layers": 2,
    "num_heads": 2,
    "vocabulary_size": 20,
}


def encoder(**options):
    torch.manual_seed(0)
    model = CLIPTextEncoder(**SMALL, **options).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


@pytest.fixture
def tokens():
    ids = torch.tensor([[1, 5, 6, 2, 0, 0], [1, 7, 8, 9, 3, 2]])
    return {"input_ids": ids, "attention_mask": (ids > 0).long()}


def test_equals_the_formulas(tokens):
    model = encoder()
    x = model.token_embedding.weight[tokens["input_ids"]] + model.positional_embedding
    for block in model.resblocks:
        normed = nn.functional.layer_norm(x, (8,), block.ln_1.weight, block.ln_1.bias, 1e-12)
        qkv = normed @ block.attn.in_proj_weight.T + block.attn.in_proj_bias
        q, k, v = (part.unflatten(-1, (2, 4)).transpose(1, 2) for part in qkv.chunk(3, -1))
        scores = q @ k.transpose(-1, -2) / 2
        scores = scores.masked_fill(tokens["attention_mask"][:, None, None] == 0, -torch.inf)
        attended = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
        x = x + block.attn.out_proj(attended)
        normed = nn.functional.layer_norm(x, (8,), block.ln_2.weight, block.ln_2.bias, 1e-12)
        inner = block.mlp.c_fc(normed)
        x = x + block.mlp.c_proj(inner * (1.702 * inner).sigmoid())
    expected = nn.functional.layer_norm(x, (8,), model.ln_final.weight, model.ln_final.bias, 1e-12)
    text = model(tokens)
    torch.testing.assert_close(text.hidden, expected, atol=1e-5, rtol=1e-5)
    assert text.embedded is text.hidden and text.aggregate is text.hidden
    assert torch.equal(text.masks, tokens["attention_mask"])


def test_names_are_those_of_openai():
    names = set(encoder().state_dict())
    assert {"token_embedding.weight", "positional_embedding", "ln_final.weight"} <= names
    block = {name.removeprefix("resblocks.0.") for name in names if name.startswith("resblocks.0")}
    assert block == {
        "attn.in_proj_weight", "attn.in_proj_bias", "attn.out_proj.weight", "attn.out_proj.bias",
        "ln_1.weight", "ln_1.bias", "ln_2.weight", "ln_2.bias",
        "mlp.c_fc.weight", "mlp.c_fc.bias", "mlp.c_proj.weight", "mlp.c_proj.bias",
    }  # fmt: skip


def test_later_words_are_read(tokens):
    model = encoder()
    changed = {**tokens, "input_ids": tokens["input_ids"].clone()}
    changed["input_ids"][1, 4] = 15
    with torch.no_grad():
        assert (model(tokens).hidden[1, 0] - model(changed).hidden[1, 0]).abs().max() > 1e-3


def test_another_length_is_refused(tokens):
    with pytest.raises(ValueError, match="exactly 6 tokens"):
        encoder()({name: value[:, :5] for name, value in tokens.items()})


def test_checkpointing_changes_no_gradient(tokens):
    plain, recomputed = encoder(), encoder(use_checkpoint=True)
    for model in (plain, recomputed):
        model.train()(tokens).hidden.square().mean().backward()
    for ours, theirs in zip(plain.parameters(), recomputed.parameters()):
        torch.testing.assert_close(ours.grad, theirs.grad)


def test_normalisation_is_computed_in_float32_and_keeps_the_type():
    norm = Float32LayerNorm(4, eps=1e-12)
    x = torch.tensor([[1.0, 2.0, 3.0, 1000.0]]).bfloat16()
    out = norm(x)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out, norm(x.float()).bfloat16())


def test_the_text_half_of_a_checkpoint_is_taken_and_its_positions_resized():
    table = torch.arange(4.0)[:, None].expand(4, 8)
    weights = {"text.positional_embedding": table, "visual.proj": torch.zeros(1)}
    resized = text_weights(weights, 8)
    assert list(resized) == ["positional_embedding"]
    expected = torch.tensor([0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3])
    torch.testing.assert_close(resized["positional_embedding"][:, 3], expected)
    with pytest.raises(ValueError, match=r"text\."):
        text_weights({"visual.proj": torch.zeros(1)}, 8)


def config(**keys):
    options = cfg.clone()
    options.MODEL.LANGUAGE_BACKBONE.MODEL_TYPE = "clip"
    options.MODEL.LANGUAGE_BACKBONE.LANG_DIM = 8
    options.MODEL.CLIP.CONTEXT_LENGTH, options.MODEL.CLIP.WIDTH = 6, 8
    options.MODEL.CLIP.LAYERS, options.MODEL.CLIP.HEADS = 2, 2
    options.MODEL.CLIP.VOCAB_SIZE = 20
    for key, value in keys.items():
        options.MODEL.LANGUAGE_BACKBONE[key] = value
    return options


def test_weights_named_by_the_configuration_are_loaded(tmp_path, tokens):
    saved = encoder()
    state = {f"text.{name}": value for name, value in saved.state_dict().items()}
    torch.save({"model": state}, tmp_path / "clip.pth")
    backbone = build_language_backbone(config(WEIGHT=str(tmp_path / "clip.pth"))).eval()
    assert backbone.language_dim == 8
    torch.testing.assert_close(backbone(tokens).hidden, saved(tokens).hidden)


def test_a_width_that_disagrees_is_refused():
    with pytest.raises(ValueError, match="set LANG_DIM to 8"):
        build_language_backbone(config(LANG_DIM=768))
