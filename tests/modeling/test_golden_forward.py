"""Whole models with the golden weights give the recorded maps, logits and detections.

Every number is compared on the plain way, fusion as the formulas say on torchvision's operators, and
on the fast one, folded fusion on the native operators.
"""

from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import pytest
import torch
from torch import Tensor

from maskrcnn_benchmark.layers import _native
from maskrcnn_benchmark.modeling.fusion import set_fusion_implementation
from maskrcnn_benchmark.modeling.language_backbone.text_features import TextFeatures
from maskrcnn_benchmark.modeling.rpn.head_outputs import HeadOutputs
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.image_list import ImageList
from tests.golden_tools import GoldenCase, build_golden_model, load_case

ENCODER_TOLERANCE = 5e-5
LEVELS = ("p3", "p4", "p5", "p6", "p7")


@lru_cache(maxsize=1)
def model_of(config: str):
    return build_golden_model(config).eval()


@dataclass
class Run:
    """What a model computed on a recorded case."""

    case: GoldenCase
    model: torch.nn.Module
    images: ImageList
    features: list[Tensor]
    text: TextFeatures
    tower: list[tuple[list[Tensor], TextFeatures]]
    outputs: HeadOutputs

    @property
    def tolerance(self) -> float:
        return 5e-4 if self.case.name == "L_duo" else 2e-4


# B and C are one network under two names of configurations.
CASES = [
    ("A_duo", "plain"),
    ("A_duo", "folded"),
    ("B_single", "plain"),
    ("B_single", "folded"),
    ("C_duo", "plain"),
    ("C_duo", "folded"),
    pytest.param(("L_duo", "plain"), marks=pytest.mark.slow),
    pytest.param(("L_duo", "folded"), marks=pytest.mark.slow),
]


@pytest.fixture(scope="module", params=CASES, ids=lambda param: "-".join(param))
def run(request) -> Run:
    name, implementation = request.param
    case = load_case("forward", name)
    model = model_of(case.meta["config"].removesuffix("_GoldG"))
    set_fusion_implementation(model, implementation)
    tensors, sizes = case.images()
    images = ImageList(tensors, sizes)
    tower = []
    hooks = [
        layer.register_forward_hook(lambda _module, _inputs, output: tower.append(output))
        for layer in model.rpn.head.dyhead_tower
    ]
    operators = _native.disabled() if implementation == "plain" else nullcontext()
    with torch.no_grad(), operators:
        features = model.encode_images(images)
        text = model.encode_text([case.meta["caption"]] * len(sizes))
        outputs = model.rpn.predict(features, text)
    for hook in hooks:
        hook.remove()
    return Run(case, model, images, features, text, tower, outputs)


def test_encoders(run):
    for name, actual in zip(LEVELS, run.features):
        run.case.assert_close(f"fpn.{name}", actual, ENCODER_TOLERANCE)
    for name in ("hidden", "embedded", "aggregate"):
        run.case.assert_close(f"bert.{name}", getattr(run.text, name), ENCODER_TOLERANCE)
    assert torch.equal(run.text.masks, run.case.tensor("bert.masks"))


def test_every_layer_of_the_tower(run):
    compared = set()
    for index, (visual, text) in enumerate(run.tower):
        prefix = f"tower.{index:02d}"
        recorded = {name for name in run.case.names() if name.startswith(prefix)}
        for name in recorded:
            part = name.rsplit(".", 1)[1]
            actual = text.hidden if part == "text" else visual[LEVELS.index(part)]
            run.case.assert_close(name, actual, run.tolerance)
        compared |= recorded
    assert compared == {name for name in run.case.names() if name.startswith("tower.")}
    assert compared


def test_predictions_of_the_head(run):
    out, real = run.outputs, run.case.meta["nontrivial_tokens"]
    for index, name in enumerate(LEVELS):
        logits = out.token_logits[index]
        run.case.assert_close(f"head.logits.{name}", logits[..., :real], run.tolerance)
        run.case.assert_close(f"head.regression.{name}", out.box_regression[index], run.tolerance)
        run.case.assert_close(f"head.centerness.{name}", out.centerness[index], run.tolerance)
        padding = logits[..., real:].double()
        stats = [padding.mean(), padding.std(correction=0), padding.abs().max()]
        expected = run.case.tensor(f"head.padlogits.{name}.stats")
        torch.testing.assert_close(torch.stack(stats), expected, atol=1e-3, rtol=1e-3)


def recorded_detections(case: GoldenCase, tag: str, image: int) -> tuple[np.ndarray, ...]:
    fields = ("boxes", "scores", "labels")
    return tuple(case.arrays[f"det.{tag}.{image}.{field}"] for field in fields)


def assert_same_detections(case: GoldenCase, tag: str, found: list[BoxList]) -> None:
    """Equal as sets: every recorded detection has its counterpart, and nothing else is there."""
    for image, detections in enumerate(found):
        boxes, scores, labels = recorded_detections(case, tag, image)
        assert len(detections) == len(boxes), f"{case.name} {tag} image {image}"
        left = list(range(len(boxes)))
        for box, score, label in zip(
            detections.bbox.numpy(),
            detections.get_field("scores").numpy(),
            detections.get_field("labels").numpy(),
        ):
            alike = [row for row in left if labels[row] == label]
            assert alike, f"{case.name} {tag} image {image}: label {label} too often"
            nearest = min(alike, key=lambda row: np.abs(boxes[row] - box).max())
            left.remove(nearest)
            assert np.abs(boxes[nearest] - box).max() < 5e-3
            assert abs(scores[nearest] - score) < 1e-4


def detect(run: Run, tag: str, outputs: HeadOutputs) -> list[BoxList]:
    settings = run.case.meta["detections"][tag]
    processor = run.model.rpn.post_processor
    processor.score_aggregation = tag.removesuffix(".low")
    processor.score_threshold = settings["threshold"]
    positive_map = {int(label): tokens for label, tokens in run.case.meta["positive_map"].items()}
    anchors = run.model.rpn.anchor_generator(run.features)
    return processor(outputs, anchors, run.images.image_sizes, positive_map)


@pytest.mark.parametrize("tag", ["MEAN", "MEAN.low", "MAX", "ONEHOT"])
def test_detections(run, tag):
    assert_same_detections(run.case, tag, detect(run, tag, run.outputs))


def test_trimmed_text_gives_the_same_predictions_and_detections(run):
    real = run.case.meta["nontrivial_tokens"]
    model = run.model
    full = model.text
    try:
        model.text = replace(full, trim=True)
        with torch.no_grad():
            text = model.encode_text([run.case.meta["caption"]] * len(run.images))
            outputs = model.rpn.predict(run.features, text)
    finally:
        model.text = full

    assert real <= text.masks.shape[1] < real + 8
    for index, name in enumerate(LEVELS):
        logits = outputs.token_logits[index][..., :real]
        run.case.assert_close(f"head.logits.{name}", logits, run.tolerance)
    assert_same_detections(run.case, "MEAN", detect(run, "MEAN", outputs))


def test_the_whole_model_called_as_users_call_it():
    case = load_case("forward", "B_single")
    model = model_of(case.meta["config"])
    model.rpn.post_processor.score_aggregation = "MEAN"
    model.rpn.post_processor.score_threshold = case.meta["detections"]["MEAN"]["threshold"]
    tensors, sizes = case.images()
    positive_map = {int(label): tokens for label, tokens in case.meta["positive_map"].items()}

    with torch.no_grad():
        detections = model(
            ImageList(tensors, sizes),
            captions=[case.meta["caption"]] * len(sizes),
            positive_map=positive_map,
        )

    assert_same_detections(case, "MEAN", detections)
