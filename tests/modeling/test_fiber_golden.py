"""FIBER as published: names, maps, detections, losses and gradients equal the recorded ones.

Models have golden weights, see ``tests/golden/fiber/README.md``. The recorded token ids are fed in,
RoBERTa's tokenizer has its own tests.
"""

import json
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from maskrcnn_benchmark.modeling.detector import FusedVLRCNN, build_detection_model
from maskrcnn_benchmark.modeling.language_backbone.text_features import TextFeatures
from maskrcnn_benchmark.modeling.rpn.anchor_generator import make_anchor_generator
from maskrcnn_benchmark.modeling.rpn.assignment import atss_assign
from maskrcnn_benchmark.modeling.rpn.box_coder import BoxCoder
from maskrcnn_benchmark.modeling.rpn.head_outputs import HeadOutputs
from tests.fiber_tools import (
    CONFIGS,
    FIBER,
    GoldenCase,
    build_golden_model,
    fiber_config,
    match_detections,
    without_dropout,
)

LEVELS = ("p3", "p4", "p5", "p6", "p7")
SUMMARY_NAMES = (
    "pretrain",
    "pretrain_refexpclean",
    "coco_finetune",
    "lvis_finetune",
    "refcoco",
    "refcocoplus",
    "refcocog",
)


@pytest.fixture(scope="module", params=["pretrain_v2", "refcoco_v3"])
def published(request) -> tuple[str, FusedVLRCNN]:
    """Name of the recorded cases and the model they were recorded on."""
    config = GoldenCase(f"eval_{request.param}").meta["config"]
    return request.param, without_dropout(build_golden_model(config.removesuffix(".yaml")))


@pytest.mark.parametrize(("config", "summary"), list(zip(CONFIGS, SUMMARY_NAMES)))
def test_names_shapes_and_what_trains(config, summary):
    version = "v2" if summary in ("pretrain", "coco_finetune", "lvis_finetune") else "v3"
    file = {"v2": "state_dict_pretrain_v2.json", "v3": "state_dict_refcoco_v3.json"}[version]
    expected = json.loads((FIBER / file).read_text())
    counts = json.loads((FIBER / "state_dict_summary.json").read_text())["counts"][summary]

    with torch.device("meta"):
        model = build_detection_model(fiber_config(config))

    actual = {
        key: [list(tensor.shape), str(tensor.dtype).removeprefix("torch.")]
        for key, tensor in model.state_dict().items()
    }
    assert actual == expected
    parameters = list(model.parameters())
    assert sum(p.numel() for p in parameters) == counts["parameters"]
    trained = sum(p.numel() for p in parameters if p.requires_grad)
    assert trained == counts["trainable_parameters"]


@dataclass
class Run:
    """What a model computed on a recorded case."""

    case: GoldenCase
    model: FusedVLRCNN
    encoded: list[Tensor]
    words: TextFeatures
    pyramid: list[Tensor]
    text: TextFeatures
    outputs: HeadOutputs
    passed: dict[str, Tensor]


def watched(model: FusedVLRCNN) -> dict[str, torch.nn.Module]:
    """Modules whose outputs were recorded, by the recorded name."""
    body, text = model.backbone.body, model.language_backbone.body.model
    names = {
        "swin.patch_embed": body.patch_embed,
        "text.embeddings": text.embeddings,
        "text.layer0": text.encoder.layer[0],
        "text.layer5.before_fusion": text.encoder.layer[5],
        "swin.stage2.block0": body.layers[2].blocks[0],
        "swin.stage2.block1": body.layers[2].blocks[1],
        "swin.stage2.block13.before_fusion": body.layers[2].blocks[13],
    }
    for stage in (0, 1, 2):
        names[f"swin.stage{stage}.downsample"] = body.layers[stage].downsample
        names[f"swin.norm{stage + 1}"] = getattr(body, f"norm{stage + 1}")
    for stage in (0, 1):
        names[f"swin.stage{stage}.tokens"] = body.layers[stage]
    for index in (14, 15, 16, 17):
        names[f"swin.stage2.block{index}.fused"] = body.layers[2].blocks[index]
    for index in (0, 1):
        names[f"swin.stage3.block{index}.fused"] = body.layers[3].blocks[index]
    for index in range(6, 12):
        names[f"text.layer{index}.fused"] = text.encoder.layer[index]
    for index, layer in enumerate(model.rpn.head.dyhead_tower):
        names[f"dyhead.{index}"] = layer
    return names


@pytest.fixture(scope="module")
def run(published) -> Run:
    case, model = GoldenCase(f"eval_{published[0]}"), published[1].eval()
    passed: dict[str, Tensor] = {}

    def watch(name):
        def keep(_module, _inputs, output):
            if name.startswith("dyhead"):
                maps, _ = output
                passed.update({f"{name}.{level}": x for level, x in zip(LEVELS, maps)})
                return
            output = output[0] if isinstance(output, tuple) else output
            if name == "swin.patch_embed":
                output = output.permute(0, 3, 1, 2)
            elif name.startswith("swin"):
                output = output.flatten(1, 2)
            passed[name] = output

        return keep

    hooks = [module.register_forward_hook(watch(name)) for name, module in watched(model).items()]
    with torch.no_grad():
        encoded = model.encode_images(case.images())
        words = model.encode_tokens(case.tokens())
        pyramid, text = model.fuse(encoded, words)
        outputs = model.rpn.predict(pyramid, text)
    for hook in hooks:
        hook.remove()
    return Run(case, model, encoded, words, list(pyramid), text, outputs, passed)


@pytest.mark.slow
def test_every_recorded_map(run):
    found = dict(run.passed)
    found |= {f"fpn.{level}": x for level, x in zip(LEVELS, run.pyramid)}
    found |= {f"lang.{name}": getattr(run.text, name) for name in ("hidden", "embedded")}
    found["lang.aggregate"] = run.text.aggregate
    head = run.model.rpn.head
    with torch.no_grad():
        classes = [head.cls_logits(x) for x in run.outputs.fused_features]
    for kind, levels in (
        ("cls_logits", classes),
        ("bbox_pred", run.outputs.box_regression),
        ("centerness", run.outputs.centerness),
        ("dot_product_logits", run.outputs.token_logits),
    ):
        found |= {f"head.{kind}.{level}": x for level, x in zip(LEVELS, levels)}

    assert set(found) == set(run.case.tensors())
    for name, tensor in found.items():
        run.case.assert_close(name, tensor)


def positive_map(case: GoldenCase) -> dict[int, list[int]]:
    return {
        int(label): tokens for label, tokens in case.meta["positive_map_label_to_token"].items()
    }


def assert_recorded_detections(run: Run, outputs: HeadOutputs) -> None:
    case, rpn, sizes = run.case, run.model.rpn, run.case.images().image_sizes
    anchors = rpn.anchor_generator(outputs.fused_features)
    for index, found in enumerate(rpn.post_processor(outputs, anchors, sizes, positive_map(case))):
        assert list(found.size) == list(case[f"det{index}/size_wh"])
        share = match_detections(
            found.bbox,
            found.get_field("scores"),
            found.get_field("labels"),
            *(case[f"det{index}/{field}"] for field in ("boxes_xyxy", "scores", "labels")),
        )
        assert share >= 0.97
        assert len(found) == len(case[f"det{index}/scores"])


@pytest.mark.slow
def test_detections(run):
    assert_recorded_detections(run, run.outputs)


@pytest.mark.slow
def test_text_cut_to_its_length_gives_the_same_maps_and_detections(run):
    """Padding is masked wherever it could be read, so its amount does not matter."""
    length = int(run.case.tokens()["attention_mask"].sum(1).max())
    cut = {name: x[:, :length] for name, x in run.case.tokens().items()}
    model = run.model.eval()
    with torch.no_grad():
        pyramid, text = model.fuse(run.encoded, model.encode_tokens(cut))
        outputs = model.rpn.predict(pyramid, text)

    for level, x in zip(LEVELS, pyramid):
        run.case.assert_close(f"fpn.{level}", x)
    run.case.assert_close("lang.aggregate", text.aggregate)
    assert_recorded_detections(run, outputs)


@dataclass
class Training:
    """What a model computed on a recorded case, after one backward pass."""

    case: GoldenCase
    model: FusedVLRCNN
    text: TextFeatures
    outputs: HeadOutputs
    losses: dict[str, Tensor]


def losses_of(
    case: GoldenCase,
    model: FusedVLRCNN,
    text: TextFeatures,
    outputs: HeadOutputs,
    without_boxes_of: int | None = None,
) -> dict[str, Tensor]:
    targets, rows = case.targets(), case.tensor("input/positive_map")
    if without_boxes_of is not None:
        image = torch.cat([torch.full((len(t),), i) for i, t in enumerate(targets)])
        rows = rows[image != without_boxes_of]
        targets[without_boxes_of] = targets[without_boxes_of][:0]
    anchors = model.rpn.anchor_generator(outputs.fused_features)
    return model.rpn.loss_evaluator(outputs, anchors, targets, rows, text)


@pytest.fixture(scope="module")
def training(published) -> Training:
    case, model = GoldenCase(f"train_{published[0]}"), published[1].train()
    encoded = model.encode_images(case.images())
    pyramid, text = model.fuse(encoded, model.encode_tokens(case.tokens()))
    outputs = model.rpn.predict(pyramid, text)
    losses = losses_of(case, model, text, outputs)
    sum(losses.values()).backward()
    yield Training(case, model, text, outputs, losses)
    model.zero_grad()


def recorded_losses(case: GoldenCase, kind: str) -> dict[str, float]:
    return dict(zip(case[f"{kind}/names"].tolist(), case[f"{kind}/values"].tolist()))


@pytest.mark.slow
def test_losses(training):
    expected = recorded_losses(training.case, "loss")
    losses = {name: loss.item() for name, loss in training.losses.items()}
    assert losses == pytest.approx(expected, rel=1e-4)
    total = float(training.case["loss/total"])
    assert sum(losses.values()) == pytest.approx(total, rel=1e-4)


@pytest.mark.slow
def test_losses_where_an_image_has_no_boxes(training):
    case, empty = training.case, training.case.meta["empty_variant_drops_boxes_of_image"]
    if empty is None:
        pytest.skip("this case has no such variant")
    with torch.no_grad():
        losses = losses_of(case, training.model, training.text, training.outputs, empty)

    expected = recorded_losses(case, "loss_empty")
    assert {name: loss.item() for name, loss in losses.items()} == pytest.approx(expected, rel=1e-4)


def gradient_tolerance(parameter: torch.Tensor) -> float:
    """A single value is a sum over all positions, which may nearly cancel."""
    return 5e-3 if parameter.numel() == 1 else 1e-3


@pytest.mark.slow
def test_gradient_norm_of_every_parameter(training):
    case = training.case
    names = case["grad/names"].tolist()
    expected = dict(zip(names, case["grad/norm"].tolist()))
    trains = dict(zip(names, case["grad/requires_grad"].tolist()))
    parameters = dict(training.model.named_parameters())
    assert {name: p.requires_grad for name, p in parameters.items()} == trains

    largest = max(expected.values())
    wrong = {}
    for name, norm in expected.items():
        gradient = parameters[name].grad
        if norm < 0:
            assert gradient is None, name
            continue
        found = gradient.norm().item()
        if abs(found - norm) > gradient_tolerance(parameters[name]) * norm + 1e-6 * largest:
            wrong[name] = (found, norm)
    assert not wrong


@pytest.mark.slow
def test_sampled_gradients(training):
    prefix, parameters = "gradsample/", dict(training.model.named_parameters())
    names = [name for name in training.case.tensors() if name.startswith(prefix)]
    assert len(names) >= 5
    for name in names:
        parameter = parameters[name.removeprefix(prefix)]
        report = training.case.compare(name, parameter.grad)
        assert report["relative_to_absmax"] <= gradient_tolerance(parameter), (name, report)


@pytest.mark.parametrize("name", ["train_pretrain_v2", "train_refcoco_v3"])
def test_which_anchors_learn_which_boxes(name):
    case = GoldenCase(name)
    generator = make_anchor_generator(fiber_config("refcoco"))
    height, width = case["input/padded_shape"][2:].tolist()
    maps = [torch.zeros(1, 1, -(-height // s), -(-width // s)) for s in (8, 16, 32, 64, 128)]
    anchors = generator(maps)
    targets = case.targets()
    boxes = torch.cat([target.bbox for target in targets])
    labels = torch.cat([target.get_field("labels") for target in targets])
    tokens = case.tensor("input/positive_map").sum(1)

    matched = atss_assign(anchors, boxes, [len(target) for target in targets]).matched_box

    positive = matched >= 0
    assert torch.equal(torch.where(positive, labels[matched], 0), case.tensor("assign/labels"))
    deltas = BoxCoder().encode(boxes[matched], torch.cat(anchors).expand(2, -1, 4))[positive]
    torch.testing.assert_close(deltas, case.tensor("assign/reg_targets_pos"), atol=1e-4, rtol=1e-4)
    # The original marks the last column of unassigned anchors, which we leave empty.
    sums = torch.where(positive, tokens[matched], 1.0)[:, ::7]
    assert torch.equal(sums, case.tensor("assign/token_labels_sum"))
