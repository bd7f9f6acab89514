"""Fusion in the backbone on a tiny model: what it computes, what can be reused, what trains."""

import dataclasses
import json

import pytest
import torch
from torch import Tensor
from transformers import RobertaConfig, RobertaModel

from maskrcnn_benchmark.config import cfg as default_config
from maskrcnn_benchmark.errors import ConfigError
from maskrcnn_benchmark.modeling.backbone import build_backbone
from maskrcnn_benchmark.modeling.backbone.fused_swin import FusedSwinTransformer
from maskrcnn_benchmark.modeling.backbone.swin import SwinTransformer
from maskrcnn_benchmark.modeling.detector import FusedVLRCNN, build_detection_model
from maskrcnn_benchmark.modeling.fusion.fused_backbone import FusedBackbone, build_fused_backbone
from maskrcnn_benchmark.modeling.language_backbone import build as language_build
from maskrcnn_benchmark.modeling.language_backbone.fused_roberta import FusedRobertaEncoder
from maskrcnn_benchmark.modeling.language_backbone.roberta import load_roberta
from maskrcnn_benchmark.modeling.language_backbone.tokenizer import (
    encode_captions,
    load_tokenizer,
)
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.image_list import ImageList, to_image_list
from tests.fiber_tools import (
    REPOSITORY,
    GoldenCase,
    build_tiny_model,
    tiny_config,
    tiny_roberta_folder,
    without_dropout,
)

SENTENCE, OTHER = "the small blue ring left of the green cross", "a red square"
CHUNKS = [("red . square", {1: [1], 2: [3]}), ("blue . circle . ring", {3: [1], 4: [3], 5: [5]})]
FREEZE_ALL = {
    "MODEL.BACKBONE.FREEZE": True,
    "MODEL.FPN.FREEZE": True,
    "MODEL.RPN.FREEZE": True,
    "MODEL.LANGUAGE_BACKBONE.FREEZE": True,
}
PROMPT_TUNING = {"MODEL.DYHEAD.FUSE_CONFIG.ADD_LINEAR_LAYER": True}


@pytest.fixture(scope="module")
def model() -> FusedVLRCNN:
    return build_tiny_model()


def two_images() -> ImageList:
    generator = torch.Generator().manual_seed(1)
    sizes = [(60, 96), (64, 40)]
    return to_image_list([torch.randn(3, *size, generator=generator) for size in sizes], 32)


def fused(model: FusedVLRCNN, images: ImageList, captions: list[str]):
    with torch.no_grad():
        return model.fuse(model.encode_images(images), model.encode_text(captions))


def assert_same_maps(found, expected) -> None:
    for x, y in zip(found, expected, strict=True):
        torch.testing.assert_close(x, y, atol=1e-5, rtol=1e-4)


def assert_same_boxes(found: list[BoxList], expected: list[BoxList]) -> None:
    assert any(len(boxes) for boxes in expected)
    for boxes, others in zip(found, expected, strict=True):
        torch.testing.assert_close(boxes.bbox, others.bbox, atol=1e-3, rtol=1e-4)
        for field in ("scores", "labels"):
            torch.testing.assert_close(boxes.get_field(field), others.get_field(field))


class TestClosedGates:
    """A new model's gates are closed: it is a plain Swin beside a plain RoBERTa."""

    @pytest.fixture
    def closed(self):
        return build_tiny_model(open_gates=False)

    def test_the_image_side_is_a_plain_swin(self, closed):
        plain = SwinTransformer(
            embed_dim=8, depths=(1, 2, 3, 2), num_heads=(1, 2, 2, 4), window_size=4
        ).eval()
        left = plain.load_state_dict(closed.backbone.body.state_dict(), strict=False)
        assert not left.missing_keys
        images = two_images()

        pyramid, _ = fused(closed, images, [SENTENCE, OTHER])

        with torch.no_grad():
            assert_same_maps(pyramid, closed.backbone.fpn(plain(images.tensors)))

    def test_the_text_side_is_a_plain_roberta(self, closed):
        encoder = closed.language_backbone.body.model
        plain = RobertaModel(RobertaConfig(**encoder.config.to_dict()), add_pooling_layer=False)
        left = plain.eval().load_state_dict(encoder.state_dict(), strict=False)
        assert not left.missing_keys
        tokens = closed.tokenizer([SENTENCE, OTHER], padding=True, return_tensors="pt")
        images = closed.encode_images(two_images())

        with torch.no_grad():
            _, text = closed.fuse(images, closed.encode_tokens(tokens))
            expected = plain(tokens["input_ids"], tokens["attention_mask"]).last_hidden_state

        real = tokens["attention_mask"].bool()
        torch.testing.assert_close(text.hidden[real], expected[real], atol=1e-5, rtol=1e-4)


class TestOpenGates:
    def test_the_maps_depend_on_the_caption(self, model):
        first, _ = fused(model, two_images(), [SENTENCE, SENTENCE])
        second, _ = fused(model, two_images(), [SENTENCE, OTHER])

        torch.testing.assert_close(first[0][0], second[0][0])
        assert (first[0][1] - second[0][1]).abs().max() > 1e-3

    def test_the_text_depends_on_the_image(self, model):
        _, text = fused(model, two_images(), [SENTENCE, SENTENCE])

        assert (text.hidden[0] - text.hidden[1]).abs().max() > 1e-3

    def test_every_fused_layer_takes_part(self, model):
        gates = {n: p for n, p in model.named_parameters() if ".alpha_" in n}
        assert len(gates) == 4  # two steps, both directions
        pyramid, text = model.fuse(
            model.encode_images(two_images()), model.encode_text([SENTENCE, OTHER])
        )
        loss = sum(x.square().mean() for x in pyramid) + text.hidden[..., 0].sum()

        gradients = torch.autograd.grad(loss, gates.values())

        assert all(gradient.abs() > 1e-7 for gradient in gradients)

    def test_text_features_are_zero_at_padding_and_averaged_over_words(self, model):
        _, text = fused(model, two_images(), [SENTENCE, OTHER])

        words = text.masks[1].bool()
        assert text.embedded[1, ~words].eq(0).all()
        torch.testing.assert_close(text.aggregate[1], text.hidden[1, words].mean(0))


@pytest.mark.parametrize("version", ["v2", "v3"])
def test_the_amount_of_padding_changes_nothing(version):
    model = build_tiny_model({"MODEL.BACKBONE.FUSION_VERSION": version})
    positive_map = {1: [1, 2], 2: [3]}
    trimmed = model(two_images(), captions=[SENTENCE, OTHER], positive_map=positive_map)

    model.text = dataclasses.replace(model.text, trim=False)
    padded = model(two_images(), captions=[SENTENCE, OTHER], positive_map=positive_map)

    assert model.encode_text([OTHER]).masks.shape == (1, 32)
    assert_same_boxes(trimmed, padded)


class TestStages:
    """What does not depend on the other side is computed once and combined at will."""

    @torch.no_grad()
    def test_an_image_is_encoded_once_for_all_chunks_of_the_class_list(self, model):
        images, runs = two_images(), []
        hook = (
            model.backbone.body.layers[2].blocks[0].register_forward_hook(lambda *_: runs.append(1))
        )
        features = model.encode_images(images)
        found = [
            model.detect(images, features, model.encode_text([caption]), positive_map)
            for caption, positive_map in CHUNKS
        ]
        hook.remove()

        assert runs == [1]
        for (caption, positive_map), boxes in zip(CHUNKS, found):
            whole = model(images, captions=[caption] * 2, positive_map=positive_map)
            assert_same_boxes(boxes, whole)

    @torch.no_grad()
    def test_encoded_images_can_be_sliced_and_repeated(self, model):
        images = two_images()
        features = model.encode_images(images)
        second = ImageList(images.tensors[1:], images.image_sizes[1:])
        captions = [caption for caption, _ in CHUNKS]

        repeated = [x[1:].expand(2, *x.shape[1:]) for x in features]
        pyramid, text = model.fuse(repeated, model.encode_text(captions))

        for row, caption in enumerate(captions):
            alone, alone_text = fused(model, second, [caption])
            assert_same_maps([x[row : row + 1] for x in pyramid], alone)
            length = int(alone_text.masks.sum())
            torch.testing.assert_close(
                text.hidden[row, :length], alone_text.hidden[0, :length], atol=1e-5, rtol=1e-4
            )

    @torch.no_grad()
    def test_encoded_text_does_not_change_when_it_is_used(self, model):
        text = model.encode_text([SENTENCE])
        before = [x.clone() for x in text if isinstance(x, Tensor)]

        model.detect(two_images(), model.encode_images(two_images()), text, {1: [1]})

        assert all(torch.equal(x, y) for x, y in zip(text, before))

    def test_gradients_flow_from_the_losses_to_both_encoders(self):
        model = without_dropout(build_tiny_model().train())

        sum(losses(model).values()).backward()

        for name in ("backbone.body.patch_embed.proj.weight", "language_backbone.body.model."):
            gradients = [
                p.grad for n, p in model.fusion_backbone.named_parameters() if n.startswith(name)
            ]
            assert gradients and all(g is not None and g.abs().sum() > 0 for g in gradients), name


def losses(model: FusedVLRCNN) -> dict[str, Tensor]:
    targets = []
    for box, size in (([10.0, 8.0, 60.0, 50.0], (96, 60)), ([4.0, 5.0, 30.0, 58.0], (40, 64))):
        target = BoxList(torch.tensor([box]), size, mode="xyxy")
        target.add_field("labels", torch.tensor([1]))
        targets.append(target)
    positive_map = torch.zeros(2, 256)
    positive_map[:, 1:4] = 1
    return model(two_images(), targets, [SENTENCE, OTHER], positive_map)


class TestWhatTrains:
    def test_prompt_tuning_trains_the_offsets_alone(self):
        model = build_tiny_model({**FREEZE_ALL, **PROMPT_TUNING}).train()

        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        sum(losses(model).values()).backward()

        assert set(trained) == {"fusion_backbone.tunable_linear.weight"}
        offsets = trained["fusion_backbone.tunable_linear.weight"]
        assert offsets.shape == (1000, 24) and offsets.eq(0).all()
        used = offsets.grad.abs().sum(1) > 0
        assert used[:12].any() and not used[32:].any()

    def test_offsets_are_added_before_the_first_layer_of_the_text(self, model):
        tuned = build_tiny_model(PROMPT_TUNING)
        tuned.load_state_dict(model.state_dict(), strict=False)
        plain, _ = fused(tuned, two_images(), [SENTENCE, OTHER])
        assert_same_maps(plain, fused(model, two_images(), [SENTENCE, OTHER])[0])
        seen = []
        first = tuned.language_backbone.body.model.encoder.layer[0]
        hook = first.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
        with torch.no_grad():
            tuned.encode_text([OTHER])
            tuned.prompt_offsets.weight[2].fill_(0.25)
            tuned.encode_text([OTHER])
        hook.remove()

        difference = seen[1] - seen[0]
        assert difference[:, 2].sub(0.25).abs().max() < 1e-6
        assert difference[:, [0, 1, 3]].eq(0).all()

    def test_a_frozen_text_encoder_still_leads_gradients_to_the_image(self):
        model = build_tiny_model({"MODEL.LANGUAGE_BACKBONE.FREEZE": True}).train()

        sum(losses(model).values()).backward()

        text = list(model.language_backbone.parameters())
        assert not any(p.requires_grad for p in text) and not model.language_backbone.training
        block = model.backbone.body.layers[3].blocks[0]
        assert block.attn.qkv_i2t.weight.grad.abs().sum() > 0

    def test_frozen_parts_are_in_evaluation_mode(self):
        model = build_tiny_model(FREEZE_ALL).train()

        assert not model.backbone.body.training and not model.backbone.fpn.training
        assert not model.language_backbone.training and not model.rpn.head.training
        assert model.training and not any(p.requires_grad for p in model.parameters())

    def test_frozen_stages_of_the_image_side(self):
        model = build_tiny_model({"MODEL.BACKBONE.FREEZE_CONV_BODY_AT": 2}).train()

        body = model.backbone.body
        frozen = {n for n, p in body.named_parameters() if not p.requires_grad}
        assert frozen == {
            n for n, _ in body.named_parameters() if n.startswith(("patch_embed", "layers.0"))
        }
        assert not body.layers[0].training and body.layers[1].training


def test_recomputing_activations_changes_no_gradient():
    plain = build_tiny_model()
    saving = build_tiny_model(
        {"MODEL.BACKBONE.USE_CHECKPOINT": True, "MODEL.LANGUAGE_BACKBONE.USE_CHECKPOINT": True}
    )
    assert [s.use_checkpoint for s in saving.backbone.body.layers] == [True, True, True, False]

    for model in (plain, saving):
        sum(losses(without_dropout(model.train())).values()).backward()

    for (name, ours), theirs in zip(saving.named_parameters(), plain.parameters()):
        torch.testing.assert_close(ours.grad, theirs.grad, msg=name)


def test_half_precision_stays_close():
    model = build_tiny_model()
    with torch.autocast("cpu", torch.bfloat16):
        low, text = fused(model, two_images(), [SENTENCE, OTHER])
    full, full_text = fused(model, two_images(), [SENTENCE, OTHER])

    for x, y in zip([*low, text.hidden], [*full, full_text.hidden]):
        assert (x.float() - y).abs().max() < 0.1 * y.abs().max()


def test_v3_normalises_what_asks_for_the_text_and_v2_does_not():
    names = {
        version: set(build_tiny_model({"MODEL.BACKBONE.FUSION_VERSION": version}).state_dict())
        for version in ("v2", "v3")
    }

    assert names["v3"] - names["v2"] == {
        f"fusion_backbone.backbone.body.layers.3.blocks.{i}.attn.norm_i2t_i.{kind}"
        for i in (0, 1)
        for kind in ("weight", "bias")
    }
    assert not names["v2"] - names["v3"]


class TestBuilding:
    def test_the_upper_half_of_the_text_encoder_is_fused(self, model):
        text, image = model.language_backbone.body, model.backbone.body

        assert isinstance(text, FusedRobertaEncoder) and isinstance(image, FusedSwinTransformer)
        assert len(text.model.encoder.layer) == 4 and len(text.fused_layers) == 2
        assert [index for index, _, _ in image.fused_blocks()] == [3, 3]

    def test_the_small_model_of_the_shapes_world(self, monkeypatch):
        monkeypatch.chdir(REPOSITORY)
        config = default_config.clone()
        config.merge_from_file("configs/shapes/fiber.yaml")

        with torch.device("meta"):
            model = build_detection_model(config)

        assert [index for index, _, _ in model.backbone.body.fused_blocks()] == [2, 3, 3]

    def test_fusion_can_begin_inside_a_stage(self):
        body = FusedSwinTransformer(
            embed_dim=8,
            depths=(1, 1, 3, 2),
            num_heads=(1, 2, 2, 4),
            window_size=4,
            num_fused=4,
            text_dim=24,
            norm_query=False,
        )

        assert body.fused_dims == [32, 32, 64, 64]
        *maps, running = body(torch.zeros(1, 3, 64, 32))
        assert [tuple(x.shape) for x in maps] == [(1, 8, 16, 8), (1, 16, 8, 4)]
        assert running.shape == (1, 4, 2, 32)

    def test_the_published_name_stands_for_roberta_base(self, monkeypatch):
        asked = []
        monkeypatch.setattr(
            language_build, "load_roberta", lambda name: asked.append(name) or tiny_roberta()
        )
        config = tiny_config({"MODEL.LANGUAGE_BACKBONE.MODEL_TYPE": "roberta-fused-v2"})

        assert isinstance(build_fused_backbone(config), FusedBackbone)
        assert asked == ["roberta-base"]

    @pytest.mark.parametrize(
        ("overrides", "message"),
        [
            ({"MODEL.BACKBONE.FUSION_VERSION": "v1"}, r"FUSION_VERSION.*'v1'.*'v2'.*'v3'"),
            ({"MODEL.LANGUAGE_BACKBONE.MODEL_TYPE": "roberta-fused"}, "roberta-fused-v2"),
            ({"MODEL.LANGUAGE_BACKBONE.MODEL_TYPE": "bert-base-uncased"}, "cannot be fused"),
            ({"MODEL.LANGUAGE_BACKBONE.LANG_DIM": 768}, "set LANG_DIM to 24"),
            ({"MODEL.LANGUAGE_BACKBONE.MAX_QUERY_LEN": 256}, "at most 38 tokens"),
            ({"MODEL.BACKBONE.CONV_BODY": "R-50-FPN-RETINANET"}, "CONV_BODY.*SWINT-FPN"),
        ],
    )
    def test_settings_that_do_not_fit_are_refused_by_name(self, overrides, message):
        with pytest.raises(ValueError, match=message):
            build_detection_model(tiny_config(overrides))

    def test_fusion_needs_the_whole_detector(self):
        with pytest.raises(ValueError, match="whole detector"):
            build_backbone(tiny_config())

    def test_a_fused_text_encoder_needs_a_fused_image_encoder(self):
        config = tiny_config(
            {
                "MODEL.SWINT.VERSION": "v1",
                "MODEL.LANGUAGE_BACKBONE.MODEL_TYPE": "roberta-fused-v2",
            }
        )
        with pytest.raises(ConfigError, match=r"SWINT\.VERSION 'fusion'"):
            build_detection_model(config)

    def test_both_sides_need_equally_many_fused_layers(self, model):
        encoder = FusedRobertaEncoder(tiny_roberta(), [64])
        language = torch.nn.Sequential()
        language.body = encoder
        with pytest.raises(ValueError, match="2 fused blocks of the image, but 1 of the text"):
            FusedBackbone(model.backbone, language)

    def test_more_fused_layers_than_layers_are_refused(self):
        with pytest.raises(ValueError, match="5 layers to fuse"):
            FusedRobertaEncoder(tiny_roberta(), [8] * 5)
        with pytest.raises(ValueError, match="9 blocks to fuse, of 8"):
            FusedSwinTransformer(
                (2, 2, 2, 2), (1, 1, 1, 1), num_fused=9, text_dim=8, norm_query=True
            )


@pytest.fixture(scope="module")
def tokenizer(shared_dir):
    return load_tokenizer(str(shared_dir / "data/tokenizers/roberta-base"))


class TestCaptions:
    """RoBERTa's tokenizer from a folder; the recorded cases bring their ids for runs without it."""

    @pytest.mark.parametrize("kind", ["eval", "train"])
    @pytest.mark.parametrize("name", ["pretrain_v2", "refcoco_v3"])
    def test_ids_and_masks_equal_the_recorded_ones(self, tokenizer, kind, name):
        case = GoldenCase(f"{kind}_{name}")

        encoding = encode_captions(tokenizer, case.meta["captions"])

        for field, recorded in case.tokens().items():
            assert torch.equal(encoding[field], recorded)

    def test_hard_texts_equal_the_recorded_encodings(self, tokenizer, shared_dir):
        path = shared_dir / "data/tokenizers/expected_encodings.json"
        for entry in json.loads(path.read_text())["roberta-base"]:
            encoding = tokenizer(entry["text"], return_offsets_mapping=True)
            assert encoding["input_ids"] == entry["input_ids"], entry["text"]
            assert [list(span) for span in encoding["offset_mapping"]] == entry["offsets"]

    def test_a_caption_that_is_too_long_is_cut_with_a_warning(self, tokenizer, caplog):
        encoding = encode_captions(tokenizer, ["Zebra " * 300])

        assert encoding["input_ids"].shape == (1, 256)
        assert encoding["input_ids"][0, [0, -1]].tolist() == [0, 2]
        assert "more than 256 tokens" in caplog.text


def tiny_roberta() -> RobertaModel:
    return load_roberta(tiny_roberta_folder())
