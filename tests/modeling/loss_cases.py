"""Small head outputs, targets and texts for the tests of losses."""

import torch

from maskrcnn_benchmark.modeling.language_backbone.text_features import TextFeatures
from maskrcnn_benchmark.modeling.rpn.anchor_generator import AnchorGenerator
from maskrcnn_benchmark.modeling.rpn.assignment import atss_assign
from maskrcnn_benchmark.modeling.rpn.contrastive_losses import ShallowContrastive
from maskrcnn_benchmark.modeling.rpn.head_outputs import (
    HeadOutputs,
    ShallowContrastiveInputs,
)
from maskrcnn_benchmark.modeling.rpn.losses import ATSSLoss
from maskrcnn_benchmark.structures.bounding_box import BoxList

NUM_TOKENS = 12
BOXES = ([[3.0, 5.0, 30.0, 29.0], [20.0, 18.0, 61.0, 55.0]], [[1.0, 30.0, 33.0, 62.0]])


def head_outputs(batch_size=2, seed=0, num_tokens=NUM_TOKENS, **extra):
    """Random predictions on a level of 8 x 8 cells of 8 pixels and one of 4 x 4 cells of 16."""
    generator = torch.Generator().manual_seed(seed)

    def random_maps(channels):
        return [
            torch.randn(batch_size, channels, side, side, generator=generator).requires_grad_()
            for side in (8, 4)
        ]

    return HeadOutputs(
        box_regression=random_maps(4),
        centerness=random_maps(1),
        fused_features=[],
        token_logits=[
            torch.randn(batch_size, side * side, num_tokens, generator=generator).requires_grad_()
            for side in (8, 4)
        ],
        **extra,
    )


def two_levels():
    generator = AnchorGenerator([[16], [32]], [1.0], (8, 16))
    return generator([torch.empty(1, 1, 8, 8), torch.empty(1, 1, 4, 4)])


def targets_with(boxes, **fields):
    targets = []
    for number, own in enumerate(boxes):
        target = BoxList(torch.tensor(own).reshape(-1, 4), (64, 64))
        target.add_field("labels", torch.arange(1, len(own) + 1))
        for name, values in fields.items():
            target.add_field(name, torch.tensor(values[number]))
        targets.append(target)
    return targets


def text_with(masks, **fields):
    masks = torch.as_tensor(masks)
    nothing = torch.empty(len(masks), 0)
    return TextFeatures(nothing, nothing, nothing, masks=masks, **fields)


def all_real(batch_size=2, num_tokens=NUM_TOKENS):
    return text_with(torch.ones(batch_size, num_tokens, dtype=torch.int64))


def token_map(num_boxes=3, num_tokens=NUM_TOKENS):
    """Box ``i`` is described by the tokens ``2 i + 1`` and ``2 i + 2``."""
    rows = torch.zeros(num_boxes, num_tokens)
    for box in range(num_boxes):
        rows[box, 2 * box + 1 : 2 * box + 3] = 1
    return rows


def matched_boxes(targets):
    boxes = torch.cat([target.bbox for target in targets])
    return atss_assign(two_levels(), boxes, [len(t) for t in targets], topk=5).matched_box


def shallow_case(batch_size=2, seed=5):
    generator = torch.Generator().manual_seed(seed)
    outputs = head_outputs(batch_size)
    outputs.shallow_contrastive = ShallowContrastiveInputs(
        text=torch.randn(batch_size, NUM_TOKENS, 6, generator=generator).requires_grad_(),
        image_levels=[
            torch.randn(batch_size, 5, side, side, generator=generator).requires_grad_()
            for side in (8, 4)
        ],
    )
    od_labels = [[4, 9], [9]]
    token_labels = [[-1, 4, 4, 9, 9, 9] + [-1] * 6, [-1, 8, 8, -1, 9, 9] + [-1] * 6]
    targets = targets_with(
        BOXES, original_od_label=od_labels, positive_map_for_od_labels=token_labels
    )
    return outputs, targets


def shallow_loss(**settings):
    torch.manual_seed(0)
    settings = {"image_dim": 5, "text_dim": 6, "hidden_dim": 3, "num_tokens": 16, **settings}
    return ATSSLoss(topk=5, shallow=ShallowContrastive(**settings))
