"""Which anchors learn which boxes."""

import numpy as np
import pytest
import torch

from maskrcnn_benchmark.modeling.rpn import assignment
from maskrcnn_benchmark.modeling.rpn.anchor_generator import AnchorGenerator
from maskrcnn_benchmark.modeling.rpn.assignment import atss_assign
from maskrcnn_benchmark.modeling.rpn.box_coder import BoxCoder
from tests.golden_tools import load_case, load_units

STRIDES = (8, 16, 32, 64, 128)
TRAINING_CASES = (
    "A_od",
    "A_token_cls",
    "A_contrastive",
    "A_shallow_negpad",
    "A_shallow_zeropad",
    "C_od",
    "C_grounding",
    "C_mlm",
)


def published_anchors(height, width):
    """Anchors of the published models for a padded image."""
    generator = AnchorGenerator([[8 * stride] for stride in STRIDES], [1.0], STRIDES)
    return generator([torch.empty(1, 1, -(-height // s), -(-width // s)) for s in STRIDES])


def boxes_of(case):
    return [torch.tensor(boxes) for boxes in case.meta["boxes"]]


@pytest.mark.parametrize("name", TRAINING_CASES)
def test_recorded_training_batches_are_reproduced(name):
    case = load_case("training", name)
    batch, _ = case.images()
    anchors = published_anchors(*batch.shape[-2:])
    boxes = boxes_of(case)

    result = atss_assign(anchors, torch.cat(boxes), [len(b) for b in boxes])

    first_box = 0
    for image, (matched, own) in enumerate(zip(result.matched_box, boxes)):
        positive = (matched >= 0).nonzero().flatten()
        assert positive.tolist() == case.arrays[f"atss.{image}.anchor_index"].tolist()
        gt_index = matched[positive] - first_box
        assert gt_index.tolist() == case.arrays[f"atss.{image}.gt_index"].tolist()
        targets = BoxCoder().encode(own[gt_index], torch.cat(anchors)[positive])
        torch.testing.assert_close(
            targets, case.tensor(f"atss.{image}.box_targets"), atol=1e-4, rtol=1e-5
        )
        first_box += len(own)


def test_recorded_crowd_of_fourteen_boxes_is_reproduced():
    units = load_units("atss_assignment")
    anchors = AnchorGenerator([[8 * s] for s in STRIDES], [1.0], STRIDES)(
        [torch.empty(1, 1, h, w) for h, w in units["feature_hw"].tolist()]
    )
    boxes = torch.from_numpy(units["gt_boxes"])

    matched = atss_assign(anchors, boxes, [len(boxes)]).matched_box[0]

    positive = (matched >= 0).nonzero().flatten()
    assert positive.tolist() == units["positive_anchor_index"].tolist()
    assert matched[positive].tolist() == units["assigned_gt"].tolist()


@pytest.mark.parametrize("name", ["train_pretrain_v2", "train_refcoco_v3"])
def test_recorded_batches_of_the_fused_backbone_are_reproduced(golden_dir, name):
    with np.load(golden_dir / "fiber" / f"{name}.npz") as stored:
        height, width = stored["input/padded_shape"].tolist()[-2:]
        boxes = [torch.from_numpy(stored[f"input/boxes{i}_xyxy"]) for i in range(2)]
        labels = torch.cat([torch.from_numpy(stored[f"input/labels{i}"]) for i in range(2)])
        expected_labels = torch.from_numpy(stored["assign/labels"])
        expected_deltas = torch.from_numpy(stored["assign/reg_targets_pos"])
    anchors = published_anchors(height, width)

    matched = atss_assign(anchors, torch.cat(boxes), [len(b) for b in boxes]).matched_box

    assert torch.equal(torch.where(matched >= 0, labels[matched], 0), expected_labels.long())
    image, anchor = (matched >= 0).nonzero(as_tuple=True)
    deltas = BoxCoder().encode(torch.cat(boxes)[matched[image, anchor]], torch.cat(anchors)[anchor])
    torch.testing.assert_close(deltas, expected_deltas, atol=1e-4, rtol=1e-5)


def two_level_example():
    """A fine level of 8 x 8 cells of 8 pixels, a coarse one of 4 x 4 cells of 16 pixels."""
    generator = AnchorGenerator([[16], [32]], [1.0], (8, 16))
    return generator([torch.empty(1, 1, 8, 8), torch.empty(1, 1, 4, 4)])


def scalar_atss(anchors, boxes, topk):
    """The rules of the paper, one box and one anchor at a time."""

    def overlap(a, b):
        width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]) + 1)
        height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]) + 1)
        area = [(c[2] - c[0] + 1) * (c[3] - c[1] + 1) for c in (a, b)]
        return width * height / (sum(area) - width * height)

    owner = {}
    for number, box in enumerate(boxes):
        candidates, start = [], 0
        for level in anchors:
            distance = [
                np.hypot((a[0] + a[2] - box[0] - box[2]) / 2, (a[1] + a[3] - box[1] - box[3]) / 2)
                for a in level
            ]
            nearest = np.argsort(distance, kind="stable")[:topk]
            candidates += [(start + int(i), level[int(i)]) for i in nearest]
            start += len(level)
        overlaps = [overlap(anchor, box) for _, anchor in candidates]
        threshold = np.mean(overlaps) + np.std(overlaps, ddof=1)
        for (index, anchor), value in zip(candidates, overlaps):
            x, y = (anchor[0] + anchor[2]) / 2, (anchor[1] + anchor[3]) / 2
            inside = min(x - box[0], y - box[1], box[2] - x, box[3] - y) > 0.01
            if value >= threshold and inside and value > owner.get(index, (-1.0, -1))[0]:
                owner[index] = (value, number)
    return {index: number for index, (_, number) in owner.items()}


def test_two_levels_agree_with_the_rules_applied_one_by_one():
    anchors = two_level_example()
    # Off-centre by uneven fractions, so that no two anchors are equally far away.
    boxes = torch.tensor(
        [[3.1, 5.3, 30.7, 29.2], [20.2, 18.9, 61.3, 55.8], [9.4, 11.7, 17.3, 20.6]]
    )

    matched = atss_assign(anchors, boxes, [3], topk=5).matched_box[0]

    expected = scalar_atss([level.tolist() for level in anchors], boxes.tolist(), topk=5)
    found = {i: b for i, b in enumerate(matched.tolist()) if b >= 0}
    assert found == expected
    assert set(found.values()) == {0, 1, 2}


def test_an_anchor_claimed_twice_goes_to_the_box_it_overlaps_most():
    anchors = two_level_example()
    loose = [0.0, 0.0, 40.0, 40.0]
    tight = anchors[0][27].tolist()

    matched = atss_assign(anchors, torch.tensor([loose, tight]), [2]).matched_box[0]

    assert matched[27] == 1


def test_an_anchor_claimed_twice_with_equal_overlap_goes_to_the_first_box():
    anchors = two_level_example()
    box = [13.2, 9.1, 37.9, 35.4]

    result = atss_assign(anchors, torch.tensor([box, box]), [2])

    assert set(result.matched_box[0].tolist()) == {-1, 0}
    assert result.positive.sum() == (result.matched_box >= 0).sum()


def test_an_image_without_boxes_is_all_background_and_leaves_the_others_alone():
    anchors = two_level_example()
    boxes = torch.tensor([[3.0, 5.0, 30.0, 29.0]])

    empty, full = atss_assign(anchors, boxes, [0, 1]).matched_box
    alone = atss_assign(anchors, boxes, [1]).matched_box[0]

    assert (empty == -1).all()
    assert torch.equal(full, alone)


def test_a_batch_without_any_box_has_no_pairs():
    result = atss_assign(two_level_example(), torch.empty(0, 4), [0, 0])

    assert result.matched_box.shape == (2, 80)
    assert (result.matched_box == -1).all()
    assert len(result.positive) == 0


def test_images_do_not_influence_each_other():
    anchors = two_level_example()
    first = torch.tensor([[3.0, 5.0, 30.0, 29.0], [20.0, 18.0, 61.0, 55.0]])
    second = torch.tensor([[1.0, 30.0, 33.0, 62.0]])

    together = atss_assign(anchors, torch.cat((first, second)), [2, 1]).matched_box

    assert torch.equal(together[0], atss_assign(anchors, first, [2]).matched_box[0])
    expected = atss_assign(anchors, second, [1]).matched_box[0]
    assert torch.equal(together[1], torch.where(expected >= 0, expected + 2, -1))


def test_positive_pairs_and_the_map_of_anchors_tell_the_same():
    anchors = two_level_example()
    boxes = torch.tensor(
        [[3.0, 5.0, 30.0, 29.0], [20.0, 18.0, 61.0, 55.0], [1.0, 30.0, 33.0, 62.0]]
    )

    result = atss_assign(anchors, boxes, [2, 1])

    from_pairs = torch.full((2 * 80,), -1)
    from_pairs[result.pair_anchor[result.positive]] = result.pair_box[result.positive]
    assert torch.equal(from_pairs.view(2, 80), result.matched_box)


def test_many_boxes_in_chunks_give_the_same_as_at_once(monkeypatch):
    anchors = two_level_example()
    generator = torch.Generator().manual_seed(3)
    corner = torch.rand(40, 2, generator=generator) * 40
    boxes = torch.cat((corner, corner + 4 + torch.rand(40, 2, generator=generator) * 20), dim=1)
    whole = atss_assign(anchors, boxes, [40])

    monkeypatch.setattr(assignment, "MAX_DISTANCES", 64 * 7)
    chunked = atss_assign(anchors, boxes, [40])

    assert torch.equal(whole.matched_box, chunked.matched_box)


def test_a_box_without_area_or_with_nan_gets_no_anchor():
    anchors = two_level_example()
    nan = float("nan")
    boxes = torch.tensor([[20.0, 20.0, 20.0, 20.0], [nan, nan, nan, nan]])

    assert (atss_assign(anchors, boxes, [2]).matched_box == -1).all()


def test_a_level_of_one_anchor_gives_that_anchor():
    anchors = [torch.tensor([[0.0, 0.0, 31.0, 31.0]])]

    matched = atss_assign(anchors, torch.tensor([[2.0, 2.0, 29.0, 29.0]]), [1]).matched_box

    assert matched.tolist() == [[0]]


def test_a_wrong_number_of_boxes_is_refused():
    with pytest.raises(ValueError, match="adds up to 3 for 2 boxes"):
        atss_assign(two_level_example(), torch.zeros(2, 4), [3])
