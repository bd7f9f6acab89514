"""The shallow contrastive loss."""

import random

import pytest
import torch
import torch.nn.functional as F

from tests.modeling.loss_cases import (
    NUM_TOKENS,
    all_real,
    matched_boxes,
    shallow_case,
    shallow_loss,
    targets_with,
    token_map,
    two_levels,
)

# --------------------------------------------------------------- shallow contrast


def scalar_shallow_loss(loss, outputs, targets, matched, selected):
    """The definition with loops, for ``selected[b]`` = list of (anchor, is positive)."""
    shallow = outputs.shallow_contrastive
    pyramid = torch.cat([level.flatten(2).transpose(1, 2) for level in shallow.image_levels], 1)
    text = F.pad(shallow.text, (0, 0, 0, 4))
    text = F.normalize(loss.shallow_contrastive_projection_text(text), dim=-1)
    rows = F.pad(token_map(), (0, 4))
    nodes = []
    for image, anchors in enumerate(selected):
        for anchor, positive in anchors:
            feature = pyramid[image, anchor] if anchor is not None else torch.zeros(5)
            vector = F.normalize(loss.shallow_contrastive_projection_image(feature), dim=-1)
            box = int(matched[image, anchor]) if positive else None
            nodes.append((image, vector, box, anchor is not None))
    od_labels = torch.cat([t.get_field("original_od_label") for t in targets]).tolist()

    def belongs(node, image, token):
        own_image, _, box, _ = node
        if box is None:
            return False
        if own_image == image:
            return bool(rows[box, token])
        labels = targets[image].get_field("positive_map_for_od_labels").tolist() + [-1] * 4
        return labels[token] == od_labels[box]

    total = 0.0
    slots = [(image, token) for image in range(len(selected)) for token in range(16)]
    for node in nodes:
        z = torch.stack(
            [node[1] @ text[i, t] if t < NUM_TOKENS else torch.tensor(-1e6) for i, t in slots]
        )
        hits = torch.tensor([belongs(node, i, t) for i, t in slots])
        if hits.any():
            total = total - z.log_softmax(0)[hits].mean()
    for i, t in slots:
        z = torch.stack([n[1] @ text[i, t] if n[3] else torch.tensor(-1e6) for n in nodes])
        hits = torch.tensor([belongs(node, i, t) for node in nodes])
        if hits.any():
            total = total - z.log_softmax(0)[hits].mean()
    return total / 2 / (matched >= 0).sum()


def test_shallow_contrast_with_zero_features_agrees_with_its_definition():
    outputs, targets = shallow_case()
    loss = shallow_loss(zero_pads=True)
    matched = matched_boxes(targets)
    positives = [(image >= 0).nonzero().flatten().tolist() for image in matched]
    longest = max(map(len, positives))
    selected = [
        [(a, True) for a in own] + [(None, False)] * (longest - len(own)) for own in positives
    ]

    found = loss(outputs, two_levels(), targets, token_map(), all_real())

    expected = scalar_shallow_loss(loss, outputs, targets, matched, selected)
    torch.testing.assert_close(found["loss_shallow_contrastive"], expected, rtol=1e-4, atol=1e-6)


def test_shallow_contrast_with_negatives_agrees_with_its_definition():
    outputs, targets = shallow_case()
    loss = shallow_loss()
    matched = matched_boxes(targets)
    positives = [(image >= 0).nonzero().flatten().tolist() for image in matched]
    longest = max(map(len, positives))
    random.seed(7)
    selected = []
    for own in positives:
        others = [anchor for anchor in range(80) if anchor not in own]
        fill = sorted(random.sample(others, longest - len(own)))
        selected.append([(a, True) for a in own] + [(a, False) for a in fill])

    random.seed(7)
    found = loss(outputs, two_levels(), targets, token_map(), all_real())

    expected = scalar_shallow_loss(loss, outputs, targets, matched, selected)
    torch.testing.assert_close(found["loss_shallow_contrastive"], expected, rtol=1e-4, atol=1e-6)


def test_shallow_contrast_limits_the_positives_of_an_image():
    outputs, targets = shallow_case()
    loss = shallow_loss(max_positive_anchors=3)

    random.seed(1)
    found = loss(outputs, two_levels(), targets, token_map(), all_real())[
        "loss_shallow_contrastive"
    ]
    found.backward()

    touched = sum(
        int(level.grad.abs().sum(dim=1).gt(0).sum())
        for level in outputs.shallow_contrastive.image_levels
    )
    assert touched == 6


def test_shallow_contrast_of_images_without_boxes_is_zero():
    outputs, _ = shallow_case()
    targets = targets_with(
        ([], []),
        original_od_label=[[], []],
        positive_map_for_od_labels=[[-1] * NUM_TOKENS] * 2,
    )

    found = shallow_loss()(outputs, two_levels(), targets, None, all_real())

    assert found["loss_shallow_contrastive"] == 0


def test_shallow_contrast_names_its_parameters_as_published():
    assert set(shallow_loss().state_dict()) == {
        "shallow_contrastive_projection_image.weight",
        "shallow_contrastive_projection_image.bias",
        "shallow_contrastive_projection_text.weight",
        "shallow_contrastive_projection_text.bias",
        "shallow_log_scale",
    }


def test_detection_labels_that_do_not_match_the_boxes_are_refused():
    outputs, targets = shallow_case()
    targets[1].add_field("original_od_label", torch.tensor([9, 9]))

    with pytest.raises(ValueError, match="target 1 has 1 boxes and 2 entries of original_od_label"):
        shallow_loss()(outputs, two_levels(), targets, token_map(), all_real())
