"""Losses and gradients of whole models with the golden weights are the recorded ones."""

import random
from functools import lru_cache

import pytest
import torch
from torch import nn

from maskrcnn_benchmark.modeling.fusion import set_fusion_implementation
from maskrcnn_benchmark.modeling.rpn import contrastive_losses
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.image_list import ImageList
from tests.golden_tools import (
    GoldenCase,
    build_golden_model,
    load_case,
    without_randomness,
)

CASES = [
    ("A_od", "plain"),
    ("A_contrastive", "plain"),
    ("A_shallow_negpad", "plain"),
    ("A_shallow_zeropad", "plain"),
    ("A_token_cls", "plain"),
    ("C_od", "plain"),
    ("C_od", "folded"),
    ("C_grounding", "folded"),
    ("C_mlm", "folded"),
]


@lru_cache(maxsize=1)
def model_of(config: str, overrides: tuple):
    return without_randomness(build_golden_model(config, dict(overrides)).train())


def ground_truth(case: GoldenCase) -> list[BoxList]:
    targets = []
    for index, image in enumerate(case.meta["images"]):
        target = BoxList(
            torch.tensor(case.meta["boxes"][index]), (image["width"], image["height"]), mode="xyxy"
        )
        target.add_field("labels", torch.tensor(case.meta["labels"][index]))
        target.add_field("original_od_label", torch.tensor(case.meta["original_od_label"][index]))
        od_labels = case.tensor("positive_map_for_od_labels")[index].long()
        target.add_field("positive_map_for_od_labels", od_labels)
        targets.append(target)
    return targets


def positives_as_recorded(case: GoldenCase):
    """The anchors that the shallow contrastive loss was recorded with.

    The original left out the positives of the first box of every image; we do not.
    """
    boxes = [len(labels) for labels in case.meta["labels"]]
    first_boxes = torch.tensor([sum(boxes[:image]) for image in range(len(boxes))])

    def positive_anchors(matched_box: torch.Tensor) -> list[int]:
        positive = (matched_box >= 0) & ~torch.isin(matched_box, first_boxes)
        return positive.nonzero().flatten().tolist()

    return positive_anchors


@pytest.fixture(scope="module", params=CASES, ids=lambda param: "-".join(param))
def trained(request) -> tuple[GoldenCase, nn.Module, dict[str, torch.Tensor]]:
    """A case, its model after one backward pass, and the losses."""
    name, implementation = request.param
    case = load_case("training", name)
    model = model_of(case.meta["config"], tuple(case.meta["config_overrides"].items()))
    set_fusion_implementation(model, implementation)
    model.zero_grad()
    tensors, sizes = case.images()
    seed = case.meta["python_random_seed"]
    if seed is not None:
        random.seed(seed)
        torch.manual_seed(seed)
    greenlight = case.tensor("greenlight_map") if "greenlight_map" in case.arrays else None

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contrastive_losses, "positive_anchors", positives_as_recorded(case))
        losses = model(
            ImageList(tensors, sizes),
            ground_truth(case),
            case.meta["captions"],
            case.tensor("positive_map").float(),
            greenlight,
        )
    sum(losses.values()).backward()
    return case, model, {key: loss.detach() for key, loss in losses.items()}


def test_losses(trained):
    case, _, losses = trained
    expected = case.meta["losses"]
    assert set(losses) == set(expected)
    for name, value in expected.items():
        assert losses[name].item() == pytest.approx(value, rel=1e-4, abs=1e-6), name


def test_gradients_of_every_parameter(trained):
    case, model, _ = trained
    expected = case.meta["grad_norms"]
    actual = {
        name: 0.0 if parameter.grad is None else parameter.grad.norm().item()
        for name, parameter in model.named_parameters()
    }
    assert set(actual) == set(expected)
    total = case.meta["global_grad_norm"]
    assert sum(norm**2 for norm in actual.values()) ** 0.5 == pytest.approx(total, rel=1e-3)
    wrong = {
        name: (actual[name], norm or 0.0)
        for name, norm in expected.items()
        if abs(actual[name] - (norm or 0.0)) > 1e-2 * max(norm or 0.0, 1e-3 * total)
    }
    assert not wrong


def test_what_does_not_train(trained):
    case, model, _ = trained
    frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
    assert set(case.meta["requires_no_grad"]) <= set(frozen)
