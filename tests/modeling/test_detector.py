"""The detector as a whole, on a small model: stages, text handling, freezing, refusals."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from maskrcnn_benchmark.layers._native import torch_version
from maskrcnn_benchmark.modeling.detector import build_detection_model
from maskrcnn_benchmark.modeling.detector.generalized_vl_rcnn import PROBED
from maskrcnn_benchmark.modeling.language_backbone.text_features import join_captions
from maskrcnn_benchmark.modeling.rpn.language_layers import BertSelfAttention
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.image_list import ImageList
from tests.golden_tools import golden_config, without_randomness

FUSE = "MODEL.DYHEAD.FUSE_CONFIG"
CAPTION = "a raccoon. a red dustbin"
POSITIVE_MAP = {1: [2, 3, 4], 2: [7, 8, 9, 10]}


@pytest.fixture(scope="module")
def small_config(tmp_path_factory):
    """Makes the configuration of GLIP-T at a size of some 100,000 parameters and its vocabulary."""
    folder = tmp_path_factory.mktemp("bert_tiny")
    sizes = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
    }
    (folder / "config.json").write_text(json.dumps(sizes))
    settings = {
        "MODEL.LANGUAGE_BACKBONE.MODEL_TYPE": str(folder),
        "MODEL.LANGUAGE_BACKBONE.LANG_DIM": 32,
        "MODEL.LANGUAGE_BACKBONE.TRIM_PADDING": True,
        "MODEL.SWINT.EMBED_DIM": 8,
        "MODEL.SWINT.DEPTHS": (1, 1, 1, 1),
        "MODEL.SWINT.NUM_HEADS": (1, 1, 2, 2),
        "MODEL.SWINT.OUT_CHANNELS": (8, 16, 32, 64),
        "MODEL.BACKBONE.OUT_CHANNELS": 16,
        "MODEL.DYHEAD.CHANNELS": 16,
        "MODEL.GROUP_NORM.NUM_GROUPS": 4,
        "MODEL.DYHEAD.NUM_CONVS": 2,
        f"{FUSE}.JOINT_EMB_SIZE": 16,
        "MODEL.ATSS.INFERENCE_TH": 0.0,
    }

    def make(name: str = "glip_Swin_T_O365", **overrides):
        dotted = {key.replace("__", "."): value for key, value in overrides.items()}
        return golden_config(name, {**settings, **dotted})

    return make


@pytest.fixture
def make_model(small_config):
    def make(name: str = "glip_Swin_T_O365", overrides: dict | None = None) -> nn.Module:
        torch.manual_seed(0)
        return build_detection_model(small_config(name, **(overrides or {})))

    return make


def random_images(count: int = 2) -> ImageList:
    torch.manual_seed(1)
    return ImageList(torch.randn(count, 3, 64, 96), [(64, 96), (60, 80)][:count])


def ground_truth(count: int = 2) -> tuple[list[BoxList], Tensor]:
    targets = []
    for _ in range(count):
        target = BoxList(torch.tensor([[4.0, 4.0, 40.0, 50.0], [20.0, 10.0, 75.0, 55.0]]), (96, 64))
        target.add_field("labels", torch.tensor([1, 2]))
        targets.append(target)
    positive_map = torch.zeros(2, 256)
    positive_map[0, POSITIVE_MAP[1]] = 1
    positive_map[1, POSITIVE_MAP[2]] = 1
    return targets, positive_map.repeat(count, 1)


def lose(model: nn.Module) -> dict[str, Tensor]:
    targets, positive_map = ground_truth()
    return model(random_images(), targets, [CAPTION] * 2, positive_map)


def assert_same_boxes(found: list[BoxList], expected: list[BoxList]) -> None:
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a.bbox, b.bbox, atol=1e-3, rtol=1e-4)
        torch.testing.assert_close(a.get_field("scores"), b.get_field("scores"))
        assert torch.equal(a.get_field("labels"), b.get_field("labels"))


# ---- stages -------------------------------------------------------------------------------------


@torch.no_grad()
def test_the_stages_compose_to_the_forward_pass(make_model):
    model, images = make_model().eval(), random_images()

    features = model.encode_images(images)
    text = model.encode_text([CAPTION] * 2)
    staged = model.detect(images, features, text, POSITIVE_MAP)

    assert len(staged[0]) and set(staged[0].get_field("labels").tolist()) == {1, 2}
    whole = model(images, captions=[CAPTION] * 2, positive_map=POSITIVE_MAP)
    assert_same_boxes(whole, staged)


# ---- captions and labels ------------------------------------------------------------------------


@torch.no_grad()
def test_every_image_may_have_its_own_caption_and_labels(make_model):
    model, images = make_model().eval(), random_images()
    features = model.encode_images(images)
    captions = [CAPTION, "a dog. a cat of many words"]
    maps = [POSITIVE_MAP, {7: [2]}]

    parts = [model.encode_text([caption]) for caption in captions]
    found = model.detect(images, features, join_captions(parts), maps)

    for index, (text, labels) in enumerate(zip(parts, maps)):
        image = ImageList(images.tensors[index : index + 1], images.image_sizes[index : index + 1])
        alone = model.detect(image, [level[index : index + 1] for level in features], text, labels)
        assert_same_boxes([found[index]], alone)


@torch.no_grad()
def test_one_encoded_caption_serves_every_image(make_model):
    model, images = make_model().eval(), random_images()
    features = model.encode_images(images)

    one = model.detect(images, features, model.encode_text([CAPTION]), POSITIVE_MAP)
    each = model.detect(images, features, model.encode_text([CAPTION] * 2), POSITIVE_MAP)

    assert_same_boxes(one, each)


@torch.no_grad()
def test_images_may_come_one_by_one(make_model):
    model = make_model().eval()
    image = torch.randn(3, 64, 96)

    listed = model([image], captions=[CAPTION], positive_map=POSITIVE_MAP)
    batched = model(image[None], captions=[CAPTION], positive_map=POSITIVE_MAP)

    assert_same_boxes(listed, batched)


@torch.no_grad()
def test_without_a_positive_map_nothing_is_detected(make_model):
    detections = make_model().eval()(random_images(), captions=[CAPTION] * 2)

    assert [len(boxes) for boxes in detections] == [0, 0]


def test_captions_that_do_not_fit_the_images_are_refused(make_model):
    model = make_model().eval()

    for captions in (None, CAPTION, [CAPTION]):
        with pytest.raises(ValueError, match="captions"):
            model(random_images(), captions=captions, positive_map=POSITIVE_MAP)
    text = model.encode_text([CAPTION, "a", "b"])
    with pytest.raises(ValueError, match="3 captions for 2 images"):
        model.detect(random_images(), [], text, POSITIVE_MAP)


def test_training_without_targets_is_refused(make_model):
    with pytest.raises(ValueError, match="targets"):
        make_model().train()(random_images(), captions=[CAPTION] * 2)


# ---- text ---------------------------------------------------------------------------------------


@torch.no_grad()
def test_repeated_captions_are_encoded_once_in_evaluation(make_model):
    model = make_model().eval()
    sizes = []
    model.language_backbone.register_forward_hook(
        lambda _module, _inputs, text: sizes.append(len(text.masks))
    )

    text = model.encode_text([CAPTION, "a dog", CAPTION])

    assert sizes == [2] and len(text.masks) == 3
    torch.testing.assert_close(text.hidden[0], text.hidden[2])
    assert not torch.allclose(text.hidden[0], text.hidden[1])


def test_captions_encoded_once_in_training_have_the_features_and_gradients_of_each(make_model):
    model = without_randomness(make_model()).train()
    captions = [CAPTION, "a dog", CAPTION]
    parameter = model.language_backbone.body.model.encoder.layer[0].output.dense.weight
    results = []
    for encode in (model.encode_distinct, model.encode_text):
        text = encode(captions)
        (gradient,) = torch.autograd.grad(text.embedded.pow(3).sum(), parameter)
        results.append((text.embedded, text.masks, gradient))

    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)


def test_equal_captions_encoded_once_share_their_dropout(make_model):
    model = make_model().train()
    once, each = (encode([CAPTION] * 2) for encode in (model.encode_distinct, model.encode_text))

    assert torch.equal(once.hidden[0], once.hidden[1])
    assert not torch.equal(each.hidden[0], each.hidden[1])


@torch.no_grad()
@pytest.mark.parametrize("name", ["glip_A_Swin_T_O365", "glip_Swin_T_O365"])
def test_trimming_text_changes_no_detection(make_model, name):
    trimmed = make_model(name).eval()
    full = make_model(name, {"MODEL__LANGUAGE_BACKBONE__TRIM_PADDING": False}).eval()
    images, captions = random_images(), [CAPTION, "a dog. " + CAPTION]

    expected = full(images, captions=captions, positive_map=POSITIVE_MAP)

    assert trimmed.encode_text(captions).masks.shape[1] == 16
    assert full.encode_text(captions).masks.shape[1] == 256
    assert_same_boxes(trimmed(images, captions=captions, positive_map=POSITIVE_MAP), expected)


@pytest.mark.parametrize("name", ["glip_A_Swin_T_O365", "glip_Swin_T_O365"])
def test_trimming_text_changes_no_loss_and_no_gradient(make_model, name):
    targets, positive_map = ground_truth()
    results = []
    for trim in (True, False):
        model = make_model(name, {"MODEL__LANGUAGE_BACKBONE__TRIM_PADDING": trim})
        model = without_randomness(model).train()
        losses = model(random_images(), targets, [CAPTION] * 2, positive_map)
        sum(losses.values()).backward()
        gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        results.append((losses, gradients))

    torch.testing.assert_close(results[0][0], results[1][0], rtol=1e-4, atol=1e-6)
    # Position embeddings of padding are not even read when trimmed; all else has its gradient.
    assert results[0][1].keys() == results[1][1].keys()
    norms = {key: gradient.norm().item() for key, gradient in results[1][1].items()}
    largest = max(norms.values())
    for key, gradient in results[1][1].items():
        error = (results[0][1][key] - gradient).norm().item()
        # Gradients that are zero but for rounding, such as those of key biases, are left out.
        assert error <= 1e-3 * max(norms[key], 1e-4 * largest), key


@torch.no_grad()
def test_special_tokens_can_be_treated_as_padding(make_model):
    model = make_model(overrides={"MODEL__LANGUAGE_BACKBONE__MASK_SPECIAL": True}).eval()

    masks = model.encode_text(["a dog"]).masks

    assert masks.tolist() == [[0, 1, 1, 0, 0, 0, 0, 0]]


@torch.no_grad()
def test_one_hot_captions_use_the_first_slots(make_model):
    model = make_model(
        overrides={"DATASETS__ONE_HOT": True, "MODEL__DYHEAD__NUM_CLASSES": 5}
    ).eval()

    masks = model.encode_text(["a dog"]).masks

    assert masks.shape == (1, 256)
    assert masks[0].nonzero().flatten().tolist() == [0, 1, 2, 3, 4]


def test_tokens_are_masked_for_prediction_only_in_training_and_where_allowed(make_model):
    model = make_model(overrides={f"{FUSE}__MLM_LOSS".replace(".", "__"): True})
    greenlight = torch.full((1, 256), -1)
    greenlight[0, 3:6] = 1

    labels = [model.encode_text([CAPTION], greenlight).mlm_labels for _ in range(60)]

    scored = torch.cat(labels) != -100
    assert scored.shape[1] == 16  # as many slots as the trimmed features
    assert scored.any(0).nonzero().flatten().tolist() == [3, 4, 5]
    assert model.eval().encode_text([CAPTION], greenlight).mlm_labels is None


def test_the_masked_language_loss_trains(make_model):
    model = make_model(overrides={f"{FUSE}__MLM_LOSS".replace(".", "__"): True})
    targets, positive_map = ground_truth()

    losses = model(random_images(), targets, [CAPTION] * 2, positive_map)
    losses["mlm_loss"].backward()

    assert model.rpn.head.mlm_head.bias.grad is not None


# ---- what trains --------------------------------------------------------------------------------

RECIPES = {
    "full": (),
    "linear_prob": ("BACKBONE", "FPN", "LINEAR", "LANGUAGE"),
    "language_prompt_v1": ("BACKBONE", "FPN", "RPN"),
    "language_prompt_v2": ("BACKBONE", "FPN", "RPN", "OFFSETS", "LANGUAGE"),
    "language_prompt_v3": ("BACKBONE", "FPN", "RPN", "LINEAR"),
    "language_prompt_v4": ("BACKBONE", "FPN", "RPN", "LINEAR", "OFFSETS", "LANGUAGE"),
}
SWITCHES = {
    "BACKBONE": "MODEL__BACKBONE__FREEZE",
    "FPN": "MODEL__FPN__FREEZE",
    "RPN": "MODEL__RPN__FREEZE",
    "LINEAR": "MODEL__LINEAR_PROB",
    "OFFSETS": "MODEL__DYHEAD__FUSE_CONFIG__ADD_LINEAR_LAYER",
    "LANGUAGE": "MODEL__LANGUAGE_BACKBONE__FREEZE",
}


def trains(name: str, recipe: str) -> bool:
    """Whether a recipe trains a parameter, by the published rules and the names of v3 and v4."""
    switched = RECIPES[recipe]
    if "head.cls_logits" in name:
        return False
    if name.startswith("backbone.body"):
        return "BACKBONE" not in switched
    if name.startswith("backbone.fpn"):
        return "FPN" not in switched
    if name.startswith("language_backbone"):
        return "LANGUAGE" not in switched
    if "tunable_linear" in name:
        return "OFFSETS" in switched
    if "LINEAR" in switched:
        return any(part in name for part in PROBED)
    return "RPN" not in switched


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipes_of_fine_tuning(make_model, recipe):
    model = make_model(overrides={SWITCHES[switch]: True for switch in RECIPES[recipe]})

    for mode in (True, False, True):
        model.train(mode)
        for name, parameter in model.named_parameters():
            assert parameter.requires_grad == trains(name, recipe), name

    switched = RECIPES[recipe]
    assert model.backbone.body.training == ("BACKBONE" not in switched)
    assert model.language_backbone.training == ("LANGUAGE" not in switched)
    assert model.rpn.head.training == ("RPN" not in switched)
    assert model.rpn.training


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipes_give_losses_that_reach_what_trains(make_model, recipe):
    model = make_model(overrides={SWITCHES[switch]: True for switch in RECIPES[recipe]})
    targets, positive_map = ground_truth()

    losses = model(random_images(), targets, [CAPTION] * 2, positive_map)
    sum(losses.values()).backward()

    reached = {name for name, p in model.named_parameters() if p.grad is not None}
    assert reached
    assert all(trains(name, recipe) for name in reached)


def test_mode_switches_can_be_chained(make_model):
    model = make_model()

    assert model.eval() is model and not model.training
    assert model.train() is model and model.training


def test_a_linear_probe_needs_a_frozen_backbone(make_model):
    with pytest.raises(ValueError, match=r"MODEL.BACKBONE.FREEZE and MODEL.FPN.FREEZE"):
        make_model(overrides={"MODEL__LINEAR_PROB": True, "MODEL__BACKBONE__FREEZE": True})


# ---- variants -----------------------------------------------------------------------------------

VARIANTS = {
    "no fusion": ("glip_A_Swin_T_O365", {}),
    "plain fusion": (None, {"IMPLEMENTATION": "plain"}),
    "text to image": (None, {"TYPE": "MHA-S"}),
    "separate levels": (None, {"SEPARATE_BIDIRECTIONAL": True}),
    "last text layer unread": (None, {"USE_FUSED_FEATURES_DOT_PRODUCT": False}),
    "soft tokens and classes": (None, {"USE_TOKEN_LOSS": True, "USE_CLASSIFICATION_LOSS": True}),
    "contrastive": (
        "glip_A_Swin_T_O365",
        {"USE_DOT_PRODUCT_TOKEN_LOSS": False, "USE_CONTRASTIVE_ALIGN_LOSS": True},
    ),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_train_and_detect(make_model, variant):
    name, options = VARIANTS[variant]
    overrides = {f"MODEL__DYHEAD__FUSE_CONFIG__{key}": value for key, value in options.items()}
    model = make_model(name or "glip_Swin_T_O365", overrides)
    targets, positive_map = ground_truth()

    losses = model(random_images(), targets, [CAPTION] * 2, positive_map)
    sum(losses.values()).backward()
    with torch.no_grad():
        detections = model.eval()(
            random_images(), captions=[CAPTION] * 2, positive_map=POSITIVE_MAP
        )

    assert all(torch.isfinite(loss) for loss in losses.values())
    assert len(detections) == 2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_training_step_under_autocast(make_model, dtype):
    model = without_randomness(make_model()).train()
    targets, positive_map = ground_truth()
    arguments = (random_images(), targets, [CAPTION] * 2, positive_map)
    expected = sum(model(*arguments).values())

    with torch.autocast("cpu", dtype=dtype):
        losses = model(*arguments)
    total = sum(losses.values())
    total.backward()

    assert all(loss.dtype == torch.float32 for loss in losses.values())
    assert total.item() == pytest.approx(expected.item(), rel=0.05)
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@pytest.mark.skipif(torch_version() < (2, 10), reason="older compilers cut the graph at tuples")
@torch.no_grad()
def test_the_head_compiles_into_one_graph(make_model):
    model = make_model(overrides={"MODEL__DYHEAD__NUM_CONVS": 1}).eval()
    features, text = model.encode_images(random_images()), model.encode_text([CAPTION] * 2)
    compiled = torch.compile(model.rpn.predict, fullgraph=True, backend="eager")

    expected, actual = model.rpn.predict(features, text), compiled(features, text)

    torch.testing.assert_close(actual.token_logits, expected.token_logits)
    torch.testing.assert_close(actual.box_regression, expected.box_regression)


# ---- refusals -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"MODEL__META_ARCHITECTURE": "GeneralizedRCNN"}, "GeneralizedVLRCNN"),
        ({"MODEL__RPN_ARCHITECTURE": "RETINA"}, "VLDYHEAD"),
        ({"MODEL__RPN_ONLY": False}, "MODEL.RPN_ONLY True"),
        ({"MODEL__DYHEAD__FUSE_CONFIG__TYPE": "SCAN"}, "SCAN.*MHA-B"),
        ({"MODEL__DYHEAD__FUSE_CONFIG__IMPLEMENTATION": "quick"}, "quick.*folded"),
        ({"MODEL__DYHEAD__FUSE_CONFIG__JOINT_EMB_SIZE": 24}, "JOINT_EMB_SIZE 24"),
        ({"MODEL__DYHEAD__FUSE_CONFIG__USE_CONTRASTIVE_ALIGN_LOSS": True}, "USE_CONTRASTIVE"),
    ],
)
def test_settings_that_cannot_work_are_refused_by_name(make_model, overrides, message):
    with pytest.raises(ValueError, match=message):
        make_model(overrides=overrides)


def describe_bert(folder: Path, **sizes: int) -> str:
    defaults = {"num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 64}
    folder.joinpath("config.json").write_text(json.dumps({**defaults, **sizes}))
    return str(folder)


def test_a_tokenizer_with_more_words_than_the_text_encoder_is_refused(make_model, tmp_path):
    name = describe_bert(tmp_path, hidden_size=32, vocab_size=1000)

    with pytest.raises(ValueError, match=r"TOKENIZER_TYPE .* 30522 words.*MODEL_TYPE .* 1000"):
        make_model(overrides={"MODEL__LANGUAGE_BACKBONE__MODEL_TYPE": name})


@pytest.mark.parametrize(("width", "heads"), [(32, 1), (200, 2), (201, 3), (131, 1), (768, 12)])
def test_the_text_may_have_any_width(make_model, tmp_path, width, heads):
    name = describe_bert(tmp_path, hidden_size=width)
    keys = {"MODEL_TYPE": name, "LANG_DIM": width}
    overrides = {f"MODEL__LANGUAGE_BACKBONE__{key}": value for key, value in keys.items()}

    model = make_model(overrides={**overrides, "MODEL__DYHEAD__NUM_CONVS": 1})

    attention = [m for m in model.modules() if isinstance(m, BertSelfAttention)]
    assert [layer.num_heads for layer in attention] == [heads]
