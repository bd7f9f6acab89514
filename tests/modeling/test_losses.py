"""What the dense head is trained on."""

import copy
import math

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode

from maskrcnn_benchmark.layers import token_sigmoid_focal_loss
from maskrcnn_benchmark.layers.iou_loss import giou_loss
from maskrcnn_benchmark.modeling.rpn.assignment import atss_assign
from maskrcnn_benchmark.modeling.rpn.box_coder import BoxCoder
from maskrcnn_benchmark.modeling.rpn.contrastive_losses import (
    contrastive_align_loss,
)
from maskrcnn_benchmark.modeling.rpn.head_outputs import (
    ContrastiveEmbeddings,
    ShallowContrastiveInputs,
)
from maskrcnn_benchmark.modeling.rpn.losses import (
    ATSSLoss,
    centerness_targets,
    masked_language_loss,
)
from tests.golden_tools import load_units
from tests.modeling.loss_cases import (
    BOXES,
    NUM_TOKENS,
    all_real,
    head_outputs,
    matched_boxes,
    shallow_case,
    shallow_loss,
    targets_with,
    text_with,
    token_map,
    two_levels,
)
from tests.process_tools import run_world

# ------------------------------------------------------------------ single terms


def test_recorded_token_focal_loss_is_reproduced():
    units = {
        name: torch.from_numpy(array) for name, array in load_units("token_focal_loss").items()
    }

    for case, mask, alpha in (
        ("binary.full", None, 0.25),
        ("binary.masked", units["text_mask"], 0.25),
        ("alpha_off", units["text_mask"], -1.0),
    ):
        logits = units["logits"].clone().requires_grad_()
        loss = token_sigmoid_focal_loss(logits, units["targets"], mask, alpha=alpha, gamma=2.0)
        loss.backward()

        torch.testing.assert_close(loss.detach(), units[f"{case}.loss"], rtol=1e-5, atol=1e-4)
        torch.testing.assert_close(logits.grad, units[f"{case}.grad"], rtol=1e-4, atol=1e-5)


def test_recorded_contrastive_alignment_is_reproduced():
    units = load_units("contrastive_align_loss")
    logits = torch.from_numpy(units["logits"]).requires_grad_()

    loss = contrastive_align_loss(logits, torch.from_numpy(units["positive_map"]))
    loss.backward()

    torch.testing.assert_close(loss.detach(), torch.tensor(units["loss"]), rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(logits.grad, torch.from_numpy(units["grad"]), rtol=1e-4, atol=1e-6)


def test_recorded_centerness_is_reproduced():
    units = {name: torch.from_numpy(array) for name, array in load_units("giou_loss").items()}

    found = centerness_targets(units["centerness_gt"], units["centerness_anchors"])

    torch.testing.assert_close(found, units["centerness"], rtol=1e-5, atol=1e-6)


def test_centerness_is_one_in_the_middle_and_falls_to_the_sides():
    anchor = torch.tensor([0.0, 0.0, 10.0, 10.0])

    assert centerness_targets(torch.tensor([0.0, 0.0, 10.0, 10.0]), anchor) == 1
    # Distances 2 and 8 across, 5 and 5 down.
    off = centerness_targets(torch.tensor([3.0, 0.0, 13.0, 10.0]), anchor)
    torch.testing.assert_close(off, torch.tensor(math.sqrt(2 / 8)))
    assert centerness_targets(torch.tensor([6.0, 0.0, 13.0, 10.0]), anchor) == 0


def test_masked_language_loss_is_the_mean_over_masked_tokens():
    logits = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0))
    labels = torch.full((2, 5), -100)
    labels[0, 3], labels[1, 1] = 4, 6

    expected = F.cross_entropy(logits[[0, 1], [3, 1]], torch.tensor([4, 6]))
    torch.testing.assert_close(masked_language_loss(logits, labels), expected)


def test_masked_language_loss_of_nothing_is_zero():
    logits = torch.randn(1, 5, 7, requires_grad=True)

    loss = masked_language_loss(logits, torch.full((1, 5), -100))
    loss.backward()

    assert loss == 0
    assert not logits.grad.any()


def test_contrastive_alignment_of_nothing_is_zero():
    logits = torch.randn(1, 4, 5, requires_grad=True)

    loss = contrastive_align_loss(logits, torch.zeros(1, 4, 5, dtype=torch.bool))
    loss.backward()

    assert loss == 0
    assert not logits.grad.any()


# ------------------------------------------------------------- the sum of the head


def scalar_token_loss(logits, rows, mask, alpha=0.25, gamma=2.0):
    total = 0.0
    for image in range(len(logits)):
        for anchor in range(logits.shape[1]):
            for token in range(logits.shape[2]):
                if not mask[image, token]:
                    continue
                p = 1 / (1 + math.exp(-logits[image, anchor, token]))
                if rows[image, anchor, token]:
                    total -= alpha * (1 - p) ** gamma * math.log(p)
                else:
                    total -= (1 - alpha) * p**gamma * math.log(1 - p)
    return total


def test_terms_agree_with_the_formulas_evaluated_one_by_one():
    outputs, anchors, targets = head_outputs(), two_levels(), targets_with(BOXES)
    masks = torch.ones(2, NUM_TOKENS, dtype=torch.int64)
    masks[0, 8:], masks[1, 10:] = 0, 0

    losses = ATSSLoss(topk=5)(outputs, anchors, targets, token_map(), text_with(masks))

    boxes = torch.tensor([box for image in BOXES for box in image])
    matched = atss_assign(anchors, boxes, [2, 1], topk=5).matched_box
    image, anchor = (matched >= 0).nonzero(as_tuple=True)
    count = len(image)
    assert count == 5
    rows = torch.cat((token_map(), torch.zeros(1, NUM_TOKENS)))[matched]
    token_logits = torch.cat(outputs.token_logits, 1).detach().double()
    expected = scalar_token_loss(token_logits, rows, masks) / count
    assert losses["loss_dot_product_token"].item() == pytest.approx(expected, rel=1e-5)

    flat_anchors = torch.cat(anchors)
    centerness = torch.cat([c.flatten(1) for c in outputs.centerness], 1)[image, anchor]
    target = centerness_targets(boxes[matched[image, anchor]], flat_anchors[anchor])
    expected = F.binary_cross_entropy_with_logits(centerness, target, reduction="mean")
    torch.testing.assert_close(losses["loss_centerness"], expected, rtol=1e-5, atol=0)

    deltas = torch.cat([d.flatten(2) for d in outputs.box_regression], 2)[image, :, anchor]
    predicted = BoxCoder().decode(deltas, flat_anchors[anchor])
    cost = giou_loss(predicted, boxes[matched[image, anchor]])
    expected = 2.0 * (cost * target).sum() / target.sum()
    torch.testing.assert_close(losses["loss_reg"], expected, rtol=1e-4, atol=0)
    assert losses["loss_cls"] == 0


def test_padding_of_the_text_does_not_matter():
    outputs, targets = head_outputs(), targets_with(BOXES)
    masks = torch.ones(2, NUM_TOKENS, dtype=torch.int64)
    masks[:, 8:] = 0
    trimmed = copy.copy(outputs)
    trimmed.token_logits = [level[..., :8] for level in outputs.token_logits]

    padded = ATSSLoss()(outputs, two_levels(), targets, token_map(), text_with(masks))
    short = ATSSLoss()(trimmed, two_levels(), targets, token_map(), all_real(2, 8))

    torch.testing.assert_close(padded["loss_dot_product_token"], short["loss_dot_product_token"])


def test_a_token_map_narrower_than_the_text_is_filled_with_zeros():
    outputs, targets = head_outputs(), targets_with(BOXES)

    full = ATSSLoss()(outputs, two_levels(), targets, token_map(), all_real())
    narrow = ATSSLoss()(outputs, two_levels(), targets, token_map()[:, :8], all_real())

    assert torch.equal(full["loss_dot_product_token"], narrow["loss_dot_product_token"])


def test_a_normalised_token_map_means_the_same_as_one_of_zeros_and_ones():
    outputs, targets = head_outputs(), targets_with(BOXES)

    ones = ATSSLoss()(outputs, two_levels(), targets, token_map(), all_real())
    normalised = ATSSLoss()(outputs, two_levels(), targets, token_map() / 2, all_real())

    assert torch.equal(ones["loss_dot_product_token"], normalised["loss_dot_product_token"])


def test_a_caption_that_fills_the_text_makes_no_background_positive():
    outputs = head_outputs()
    outputs.token_logits = [torch.full_like(level, 9.0) for level in outputs.token_logits]
    last_slot_only = torch.zeros(2, NUM_TOKENS, dtype=torch.int64)
    last_slot_only[:, -1] = 1

    losses = ATSSLoss()(
        outputs,
        two_levels(),
        targets_with(([], [])),
        torch.zeros(0, NUM_TOKENS),
        text_with(last_slot_only),
    )

    # Every anchor pays for its confident last token as for any other negative.
    p = torch.tensor(9.0).sigmoid()
    expected = 160 * 0.75 * p**2 * F.softplus(torch.tensor(9.0))
    torch.testing.assert_close(losses["loss_dot_product_token"], expected)


def test_only_background_gives_finite_losses_and_gradients():
    outputs = head_outputs()

    losses = ATSSLoss()(outputs, two_levels(), targets_with(([], [])), None, all_real())
    sum(losses.values()).backward()

    assert losses["loss_reg"] == losses["loss_centerness"] == 0
    assert losses["loss_dot_product_token"] > 0
    for level in outputs.box_regression + outputs.centerness:
        assert not level.grad.any()
    for level in outputs.token_logits:
        assert level.grad.isfinite().all()
        assert level.grad.any()


def test_an_image_without_boxes_adds_negatives_only():
    outputs = head_outputs()
    boxes = (BOXES[0], [])

    losses = ATSSLoss()(outputs, two_levels(), targets_with(boxes), token_map(2), all_real())
    sum(losses.values()).backward()

    for level in outputs.box_regression + outputs.centerness:
        assert level.grad[0].any()
        assert not level.grad[1].any()


def test_anchors_that_are_not_positive_cannot_spoil_the_box_losses():
    outputs, targets = head_outputs(), targets_with(BOXES)
    clean = ATSSLoss()(outputs, two_levels(), targets, token_map(), all_real())
    clean["loss_reg"].backward()
    positive = outputs.box_regression[0].grad != 0
    broken = outputs.box_regression[0].detach().clone()
    broken[~positive.any(dim=1, keepdim=True).expand_as(broken)] = float("inf")
    outputs.box_regression[0] = broken.requires_grad_()

    losses = ATSSLoss()(outputs, two_levels(), targets, token_map(), all_real())
    losses["loss_reg"].backward()

    torch.testing.assert_close(losses["loss_reg"], clean["loss_reg"])
    assert outputs.box_regression[0].grad.isfinite().all()


def test_class_loss_is_left_out_unless_asked_for():
    overflown = [torch.full((2, 3, side, side), float("inf")) for side in (8, 4)]
    outputs = head_outputs(cls_logits=overflown)

    losses = ATSSLoss(classify=False)(
        outputs, two_levels(), targets_with(BOXES), token_map(), all_real()
    )

    assert losses["loss_cls"] == 0


def test_class_loss_counts_labels_beyond_the_vocabulary_as_negatives():
    outputs = head_outputs(cls_logits=[torch.zeros(2, 3, side, side) for side in (8, 4)])
    targets = targets_with(BOXES)
    for target in targets:
        target.add_field("labels", torch.full((len(target),), 99))

    losses = ATSSLoss(topk=5, classify=True)(
        outputs, two_levels(), targets, token_map(), all_real()
    )

    num_positive = (matched_boxes(targets) >= 0).sum().item()
    expected = 160 * 3 * 0.75 * 0.25 * math.log(2) / num_positive
    assert losses["loss_cls"].item() == pytest.approx(expected, rel=1e-5)


def test_class_loss_rewards_the_class_of_the_box():
    outputs = head_outputs(cls_logits=[torch.zeros(2, 3, side, side) for side in (8, 4)])
    targets = targets_with(BOXES)

    losses = ATSSLoss(topk=5, classify=True)(
        outputs, two_levels(), targets, token_map(), all_real()
    )

    num_positive = (matched_boxes(targets) >= 0).sum().item()
    entries = (160 * 3 - num_positive) * 0.75 + num_positive * 0.25
    expected = entries * 0.25 * math.log(2) / num_positive
    assert losses["loss_cls"].item() == pytest.approx(expected, rel=1e-5)


def test_soft_token_logits_wider_than_the_text_are_cut():
    outputs = head_outputs()
    outputs.soft_token_logits = [F.pad(level, (0, 5)) for level in outputs.token_logits]

    losses = ATSSLoss(token_weight=3.0)(
        outputs, two_levels(), targets_with(BOXES), token_map(), all_real()
    )

    torch.testing.assert_close(losses["loss_token"], 3 * losses["loss_dot_product_token"])


def test_contrastive_alignment_uses_the_tokens_of_the_boxes():
    outputs = head_outputs()
    outputs.contrastive = ContrastiveEmbeddings(
        image=[F.normalize(torch.ones(2, side * side, 4), dim=-1) for side in (8, 4)],
        text=F.normalize(torch.ones(2, NUM_TOKENS, 4), dim=-1),
        log_scale=torch.zeros(1),
    )

    targets = targets_with(BOXES)
    losses = ATSSLoss(topk=5, contrastive_weight=2.0)(
        outputs, two_levels(), targets, token_map(), all_real()
    )

    # All similarities are one: every anchor that has tokens costs ln(tokens), every token that has
    # anchors, two for each of the three boxes, ln(anchors).
    num_positive = (matched_boxes(targets) >= 0).sum().item()
    expected = math.log(NUM_TOKENS) + 6 * math.log(80) / num_positive
    assert losses["loss_contrastive_align"].item() == pytest.approx(expected, rel=1e-4)


def test_a_masked_language_branch_adds_its_loss():
    logits = torch.zeros(2, NUM_TOKENS, 30)
    labels = torch.full((2, NUM_TOKENS), -100)
    labels[0, 2] = 7
    outputs = head_outputs(mlm_logits=logits)
    text = all_real()._replace(mlm_labels=labels)

    losses = ATSSLoss(mlm_weight=0.5)(outputs, two_levels(), targets_with(BOXES), token_map(), text)

    assert losses["mlm_loss"].item() == pytest.approx(0.5 * math.log(30))


def test_without_text_only_the_detection_losses_remain():
    outputs = head_outputs(cls_logits=[torch.zeros(2, 3, side, side) for side in (8, 4)])

    losses = ATSSLoss(classify=True)(outputs, two_levels(), targets_with(BOXES))

    assert set(losses) == {"loss_reg", "loss_centerness", "loss_cls"}


def test_losses_are_float32_under_autocast_and_for_half_precision_predictions():
    outputs, targets = head_outputs(), targets_with(BOXES)
    exact = ATSSLoss()(outputs, two_levels(), targets, token_map(), all_real())
    for name in ("box_regression", "centerness", "token_logits"):
        setattr(outputs, name, [level.bfloat16() for level in getattr(outputs, name)])

    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = ATSSLoss()(outputs, two_levels(), targets, token_map(), all_real())

    for name, loss in losses.items():
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss, exact[name], rtol=2e-2, atol=1e-3)


def test_boxes_given_as_corner_and_size_are_understood():
    outputs, targets = head_outputs(), targets_with(BOXES)

    corners = ATSSLoss()(outputs, two_levels(), targets, token_map(), all_real())
    sizes = ATSSLoss()(
        outputs, two_levels(), [t.convert("xywh") for t in targets], token_map(), all_real()
    )

    assert torch.equal(corners["loss_reg"], sizes["loss_reg"])


def test_a_token_map_of_another_batch_is_refused():
    with pytest.raises(ValueError, match="one row for each of the 3 boxes of the batch, got 2"):
        ATSSLoss()(head_outputs(), two_levels(), targets_with(BOXES), token_map(2), all_real())
    with pytest.raises(ValueError, match="got none"):
        ATSSLoss()(head_outputs(), two_levels(), targets_with(BOXES), None, all_real())


def test_a_missing_target_is_refused():
    with pytest.raises(ValueError, match="1 targets for a batch of 2 images"):
        ATSSLoss()(head_outputs(), two_levels(), targets_with(BOXES[:1]), token_map(2), all_real())


def test_nothing_waits_for_the_device():
    # Fake tensors have shapes but no values: whatever asks for a value raises.
    outputs, targets = head_outputs(), targets_with(BOXES)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        for name in ("box_regression", "centerness", "token_logits"):
            fakes = [mode.from_tensor(level.detach()) for level in getattr(outputs, name)]
            setattr(outputs, name, [fake.requires_grad_() for fake in fakes])
        anchors = [mode.from_tensor(level) for level in two_levels()]
        for target in targets:
            target.bbox = mode.from_tensor(target.bbox)
        rows, text = mode.from_tensor(token_map()), all_real()

        losses = ATSSLoss()(outputs, anchors, targets, rows, text)
        sum(losses.values()).backward()

    assert outputs.token_logits[0].grad.shape == outputs.token_logits[0].shape


def test_without_shallow_contrast_there_are_no_parameters():
    assert not list(ATSSLoss().state_dict())


# ------------------------------------------------------------------ several ranks


def _losses_of_rank(folder):
    """Rank 0 has the first image, rank 1 the second; called in a world of two or of one."""
    outputs, targets = shallow_case()
    rows = token_map()
    images = slice(None)
    if dist.is_initialized():
        rank = dist.get_rank()
        images = slice(rank, rank + 1)
        rows = rows[:2] if rank == 0 else rows[2:]
    outputs.box_regression = [level[images] for level in outputs.box_regression]
    outputs.centerness = [level[images] for level in outputs.centerness]
    outputs.token_logits = [level[images] for level in outputs.token_logits]
    shallow = outputs.shallow_contrastive
    outputs.shallow_contrastive = ShallowContrastiveInputs(
        text=shallow.text[images], image_levels=[level[images] for level in shallow.image_levels]
    )
    targets = targets[images]
    loss = shallow_loss(zero_pads=True)
    found = loss(outputs, two_levels(), targets, rows, all_real(len(targets)))
    return {name: value.item() for name, value in found.items()}


def _losses_of_rank_without_boxes(folder):
    rank = dist.get_rank()
    boxes = (BOXES[0],) if rank == 0 else ([],)
    outputs = head_outputs(batch_size=1)
    rows = token_map(2) if rank == 0 else torch.zeros(0, NUM_TOKENS)
    found = ATSSLoss(topk=5)(outputs, two_levels(), targets_with(boxes), rows, all_real(1))
    sum(found.values()).backward()
    return {name: value.item() for name, value in found.items()}


def test_the_mean_over_ranks_equals_the_loss_of_the_whole_batch(tmp_path):
    whole = _losses_of_rank(tmp_path)

    ranks = run_world(2, _losses_of_rank, tmp_path, folder=tmp_path / "world")

    for name, expected in whole.items():
        mean = sum(rank[name] for rank in ranks) / 2
        assert mean == pytest.approx(expected, rel=1e-5), name


def test_a_rank_without_boxes_joins_the_reductions(tmp_path):
    with_boxes, without = run_world(
        2, _losses_of_rank_without_boxes, tmp_path, folder=tmp_path / "world"
    )

    assert with_boxes["loss_reg"] > 0
    assert without["loss_reg"] == without["loss_centerness"] == 0
    assert without["loss_dot_product_token"] > 0
