"""From the predictions of the dense head to detections."""

import math

import pytest
import torch

from maskrcnn_benchmark.modeling.rpn.anchor_generator import AnchorGenerator
from maskrcnn_benchmark.modeling.rpn.head_outputs import HeadOutputs
from maskrcnn_benchmark.modeling.rpn.post_process import PostProcessor, build_post_processor
from tests.golden_tools import load_case

STRIDES = (8, 16, 32, 64, 128)
LEVELS = ("p3", "p4", "p5", "p6", "p7")


def logit(probability):
    return math.log(probability / (1 - probability)) if 0 < probability < 1 else probability


def recorded_outputs(case):
    return HeadOutputs(
        box_regression=[case.tensor(f"head.regression.{level}") for level in LEVELS],
        centerness=[case.tensor(f"head.centerness.{level}") for level in LEVELS],
        fused_features=[],
        token_logits=[case.tensor(f"head.logits.{level}") for level in LEVELS],
    )


def anchors_for(outputs):
    generator = AnchorGenerator([[8 * stride] for stride in STRIDES], [1.0], STRIDES)
    return generator(outputs.centerness)


def assert_same_detections(detections, case, tag, image):
    scores = case.tensor(f"{tag}.{image}.scores")
    order = scores.argsort(descending=True, stable=True)
    assert len(detections) == len(scores)
    torch.testing.assert_close(detections.get_field("scores"), scores[order], atol=1e-5, rtol=0)
    rows = torch.cat(
        (
            detections.bbox,
            detections.get_field("labels")[:, None],
            detections.get_field("scores")[:, None],
        ),
        1,
    )
    expected = torch.cat(
        (
            case.tensor(f"{tag}.{image}.boxes"),
            case.tensor(f"{tag}.{image}.labels")[:, None],
            scores[:, None],
        ),
        1,
    )
    # Equal scores may swap places: every recorded row has its own nearest detection.
    distance = torch.cdist(rows.double(), expected.double())
    nearest, match = distance.min(dim=0)
    assert sorted(match.tolist()) == list(range(len(scores)))
    assert nearest.max() < 1e-3


@pytest.mark.parametrize("name", ["A_duo", "B_single", "C_duo", "L_duo"])
def test_recorded_heads_give_the_recorded_detections(name):
    case = load_case("forward", name)
    outputs = recorded_outputs(case)
    _, sizes = case.images()
    label_to_tokens = {int(label): tokens for label, tokens in case.meta["positive_map"].items()}

    for tag, expected in case.meta["detections"].items():
        processor = PostProcessor(
            score_threshold=expected["threshold"], score_aggregation=tag.split(".")[0]
        )
        detections = processor(outputs, anchors_for(outputs), sizes, label_to_tokens)

        for image, boxes in enumerate(detections):
            assert list(boxes.size) == expected["image_sizes_wh"][image]
            assert_same_detections(boxes, case, f"det.{tag}", image)


def one_level(probabilities, centerness, deltas=None):
    """Outputs of one image whose single level is one row of anchors of 8 pixels.

    Args:
        probabilities: per anchor the probabilities of its tokens.
        centerness: per anchor.
    """
    count = len(probabilities)
    if deltas is None:
        deltas = torch.zeros(count, 4)
    return HeadOutputs(
        box_regression=[deltas.T.reshape(1, 4, 1, count)],
        centerness=[torch.tensor([logit(c) for c in centerness]).reshape(1, 1, 1, count)],
        fused_features=[],
        token_logits=[torch.tensor([[[logit(p) for p in row] for row in probabilities]])],
    )


def row_of_anchors(outputs):
    return AnchorGenerator([[8]], [1.0], [8])(outputs.centerness)


def detect(outputs, label_to_tokens, size=(8, 800), **settings):
    processor = PostProcessor(**settings)
    return processor(outputs, row_of_anchors(outputs), [size], label_to_tokens)[0]


def test_the_threshold_comes_before_centerness():
    outputs = one_level([[0.04], [0.06]], centerness=[0.999999, 0.01])

    found = detect(outputs, {1: [0]}, score_threshold=0.05)

    assert found.bbox.tolist() == [[8, 0, 15, 7]]
    torch.testing.assert_close(found.get_field("scores"), torch.tensor([0.0006]).sqrt())


def test_detections_come_by_descending_score():
    outputs = one_level([[0.5], [0.9], [0.7]], centerness=[0.5, 0.5, 0.5])

    found = detect(outputs, {1: [0]})

    assert found.bbox[:, 0].tolist() == [8, 16, 0]
    assert found.get_field("scores").diff().max() <= 0


def test_one_anchor_can_show_several_labels():
    outputs = one_level([[0.9, 0.8]], centerness=[0.5])

    found = detect(outputs, {3: [0], 70: [1]})

    assert found.get_field("labels").tolist() == [3, 70]
    assert found.get_field("labels").dtype == torch.int64
    assert torch.equal(found.bbox[0], found.bbox[1])


def test_labels_beyond_the_published_vocabulary_are_fine():
    found = detect(one_level([[0.9]], [0.5]), {1203: [0]})

    assert found.get_field("labels").tolist() == [1203]


def test_boxes_of_one_label_suppress_each_other_and_those_of_others_do_not():
    same_box = torch.tensor([[0.0, 0, 0, 0], [-10.0, 0, 0, 0]])
    outputs = one_level([[0.9, 0.9], [0.8, 0.01]], centerness=[0.5, 0.5], deltas=same_box)

    found = detect(outputs, {1: [0], 2: [1]})

    assert found.get_field("labels").tolist() == [1, 2]


def test_images_of_a_batch_do_not_suppress_each_other():
    one = one_level([[0.9]], [0.5])
    outputs = HeadOutputs(
        box_regression=[one.box_regression[0].expand(2, -1, -1, -1)],
        centerness=[one.centerness[0].expand(2, -1, -1, -1)],
        fused_features=[],
        token_logits=[one.token_logits[0].expand(2, -1, -1)],
    )

    found = PostProcessor()(outputs, row_of_anchors(outputs), [(8, 8), (4, 6)], {1: [0]})

    assert [len(boxes) for boxes in found] == [1, 1]
    assert [boxes.size for boxes in found] == [(8, 8), (6, 4)]
    assert found[1].bbox.tolist() == [[0, 0, 5, 3]]


def test_boxes_are_clipped_to_the_unpadded_image():
    wide = torch.tensor([[0.0, 0.0, 10.0, 10.0]])

    found = detect(one_level([[0.9]], [0.5], deltas=wide), {1: [0]}, size=(20, 30))

    assert found.bbox.tolist() == [[0, 0, 29, 19]]


def test_the_best_detections_are_kept_when_there_are_too_many():
    probabilities = [[0.1 + 0.01 * i] for i in range(30)]

    found = detect(one_level(probabilities, [0.5] * 30), {1: [0]}, detections_per_image=4)

    assert found.bbox[:, 0].tolist() == [232, 224, 216, 208]


def test_candidates_are_limited_per_level_not_over_all():
    fine, coarse = one_level([[0.9], [0.8], [0.7]], [0.5] * 3), one_level([[0.1]], [0.5])
    outputs = HeadOutputs(
        box_regression=fine.box_regression + coarse.box_regression,
        centerness=fine.centerness + coarse.centerness,
        fused_features=[],
        token_logits=fine.token_logits + coarse.token_logits,
    )
    anchors = AnchorGenerator([[8], [16]], [1.0], [8, 16])(outputs.centerness)

    (found,) = PostProcessor(pre_nms_top_n=2)(outputs, anchors, [(64, 64)], {1: [0]})

    torch.testing.assert_close(found.get_field("scores"), torch.tensor([0.45, 0.40, 0.05]).sqrt())


def test_without_suppression_all_candidates_come_back():
    same_box = torch.tensor([[0.0, 0, 0, 0], [-10.0, 0, 0, 0]])
    outputs = one_level([[0.9], [0.8]], centerness=[0.5, 0.5], deltas=same_box)

    found = detect(outputs, {1: [0]}, suppress=False, detections_per_image=1)

    assert len(found) == 2


@pytest.mark.parametrize("label_to_tokens", [None, {}, {1: []}])
def test_without_tokens_nothing_is_detected(label_to_tokens):
    found = detect(one_level([[0.9]], [0.5]), label_to_tokens)

    assert len(found) == 0
    assert found.size == (800, 8)
    assert found.get_field("labels").dtype == torch.int64


def test_nothing_above_the_threshold_gives_an_empty_list_with_fields():
    found = detect(one_level([[0.01]], [0.5]), {1: [0]})

    assert found.bbox.shape == (0, 4)
    assert found.get_field("scores").shape == found.get_field("labels").shape == (0,)


def test_predictions_that_are_not_numbers_are_no_detections():
    outputs = one_level([[0.9], [0.9], [0.9], [0.8]], centerness=[0.5] * 4)
    outputs.token_logits[0][0, 0] = float("nan")
    outputs.centerness[0][0, 0, 0, 1] = float("nan")
    outputs.box_regression[0][0, :, 0, 2] = float("nan")

    found = detect(outputs, {1: [0]})

    assert found.bbox.tolist() == [[24, 0, 31, 7]]


def test_half_precision_predictions_give_float32_detections():
    outputs = one_level([[0.9], [0.2]], centerness=[0.5, 0.5])
    outputs.token_logits[0] = outputs.token_logits[0].half()
    outputs.centerness[0] = outputs.centerness[0].half()
    outputs.box_regression[0] = outputs.box_regression[0].half()

    found = detect(outputs, {1: [0]})

    assert found.bbox.dtype == found.get_field("scores").dtype == torch.float32
    assert len(found) == 2


def test_a_fixed_vocabulary_needs_no_token_map():
    outputs = one_level([[0.9, 0.1]], centerness=[0.5])
    outputs.cls_logits = [outputs.token_logits[0].transpose(1, 2).reshape(1, 2, 1, 1)]
    outputs.token_logits = None

    found = detect(outputs, None)

    assert found.get_field("labels").tolist() == [1, 2]


def test_dot_product_logits_come_before_soft_token_logits():
    outputs = one_level([[0.9]], centerness=[0.5])
    outputs.soft_token_logits = [torch.full((1, 1, 1), -9.0)]

    assert len(detect(outputs, {1: [0]})) == 1
    outputs.token_logits = None
    assert len(detect(outputs, {1: [0]})) == 0


def test_a_head_that_scores_nothing_is_refused():
    outputs = one_level([[0.9]], centerness=[0.5])
    outputs.token_logits = None

    with pytest.raises(ValueError, match="neither token logits nor class logits"):
        detect(outputs, {1: [0]})


class Config(dict):
    __getattr__ = dict.__getitem__


def test_the_builder_reads_the_atss_keys():
    cfg = Config(
        MODEL=Config(
            ATSS=Config(
                INFERENCE_TH=0.05,
                PRE_NMS_TOP_N=1000,
                DETECTIONS_PER_IMG=300,
                NMS_TH=0.6,
            ),
            DYHEAD=Config(SCORE_AGG="MAX"),
        ),
        TEST=Config(USE_MULTISCALE=True),
    )

    built = build_post_processor(cfg)

    assert (built.score_threshold, built.pre_nms_top_n) == (0.05, 1000)
    assert (built.nms_threshold, built.detections_per_image) == (0.6, 300)
    assert built.score_aggregation == "MAX"
    assert not built.suppress
