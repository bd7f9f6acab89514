"""Referring expressions: plain and generalised IoU, three sets, what is refused."""

import json

import numpy as np
import pytest

from maskrcnn_benchmark.evaluation.base import EvaluationError
from maskrcnn_benchmark.evaluation.refexp import (
    Expression,
    RefExpEvaluator,
    load_expressions,
    read_expressions,
)
from maskrcnn_benchmark.evaluation.result_files import read_expression_boxes
from tests.evaluation.box_sets import prediction

SIZE = (200, 160)
TARGET = [10.0, 10.0, 50.0, 50.0]
# Same height, 27 of 53 columns in common: IoU 0.509; the smallest box around both is their union.
BESIDE = [23.0, 10.0, 63.0, 50.0]
# IoU 0.516, but the box around both has two empty corners: GIoU 0.471.
ASKEW = [17.0, 17.0, 57.0, 57.0]


def make_evaluator(*names, **options):
    return RefExpEvaluator(
        {n: Expression(name, np.array(TARGET), SIZE) for n, name in enumerate(names)}, **options
    )


def summarize(evaluator, predictions):
    evaluator.update(predictions)
    return evaluator.summarize()


def test_recorded_numbers_of_fiber_are_reproduced_by_the_generalised_iou(golden_dir):
    cases = json.loads((golden_dir / "fiber" / "refexp_eval_cases.json").read_text())
    evaluator = RefExpEvaluator(read_expressions(cases, "cases"))

    result = summarize(
        evaluator,
        {
            int(key): prediction(
                *((1, score, box) for score, box in zip(entry["scores"], entry["boxes"])),
                size=(640, 480),
            )
            for key, entry in cases["predictions"].items()
        },
    )

    for name, expected in cases["expected_P_at_1_5_10"].items():
        ours = [result["metrics"][f"{name}: precision@{rank} (GIoU)"] for rank in (1, 5, 10)]
        assert ours == expected
    hits = [round(result["metrics"][f"precision@1{kind}"] * 40) for kind in (" (GIoU)", "")]
    assert hits == cases["top1_hits_giou_vs_iou"]


def test_recorded_numbers_on_coco_boxes_are_reproduced(shared_dir):
    folder = shared_dir / "data" / "refcoco"
    expected = json.loads((folder / "expected_seed1.json").read_text())
    evaluator = RefExpEvaluator(load_expressions(folder / "templated_val.json"))
    evaluator.update_from_rows(read_expression_boxes(folder / "predictions_seed1.json"))

    metrics = evaluator.summarize()["metrics"]

    for rank in (1, 5, 10):
        assert metrics[f"precision@{rank}"] == expected["plain_iou"][f"P@{rank}"]
        giou = expected["mdetr_generalised_iou"][f"P@{rank}"]
        assert metrics[f"precision@{rank} (GIoU)"] == giou


def test_a_box_may_meet_by_plain_iou_and_fail_by_generalised_iou():
    result = summarize(make_evaluator("refcoco"), {0: prediction((1, 0.9, ASKEW))})
    beside = summarize(make_evaluator("refcoco"), {0: prediction((1, 0.9, BESIDE))})

    assert result["value"] == 1.0
    assert result["metrics"]["precision@1 (GIoU)"] == 0.0
    assert beside["metrics"]["precision@1 (GIoU)"] == 1.0


def test_precision_at_k_looks_at_the_k_best_boxes():
    wrong = [(1, 0.5 + 0.01 * n, [100.0, 100.0, 120.0, 120.0]) for n in range(4)]

    result = summarize(make_evaluator("refcoco"), {0: prediction((1, 0.4, TARGET), *wrong)})

    values = [result["metrics"][f"precision@{rank}"] for rank in (1, 5, 10)]
    assert values == [0.0, 1.0, 1.0]


def test_each_set_has_its_own_line_and_a_set_without_expressions_none(tmp_path):
    evaluator = make_evaluator("refcocog", "refcoco", "refcoco", output_folder=tmp_path)

    result = summarize(
        evaluator,
        {0: prediction(), 1: prediction((1, 0.9, TARGET)), 2: prediction((1, 0.9, ASKEW))},
    )

    assert result["metrics"]["precision@1"] == pytest.approx(2 / 3)
    assert result["metrics"]["refcoco: precision@1"] == 1.0
    assert result["metrics"]["refcoco: precision@1 (GIoU)"] == 0.5
    assert result["metrics"]["refcocog: precision@1"] == 0.0
    assert "refcoco+" not in result["table"]
    heading, *lines = (tmp_path / "Recall_results.csv").read_text().splitlines()
    assert heading == "metric, avg "
    assert lines[0] == "refcoco: Recall@1 = 1.0"
    assert lines[3] == "refcoco: Recall@1 (GIoU) = 0.5"
    assert lines[6] == "refcocog: Recall@1 = 0.0"


def test_an_expression_without_detection_or_prediction_is_missed(caplog):
    result = summarize(make_evaluator("refcoco", "refcoco"), {0: prediction()})

    assert result["value"] == 0.0
    assert "1 of 2 images have no prediction" in caplog.text


def test_only_predicted_expressions_are_scored_when_asked():
    evaluator = make_evaluator("refcoco", "refcoco", only_predicted=True)

    assert summarize(evaluator, {1: prediction((1, 0.9, TARGET))})["value"] == 1.0


def test_boxes_of_a_resized_image_are_scaled_back():
    half = prediction((1, 0.9, [5.0, 5.0, 25.0, 25.0]), size=(100, 80))

    assert summarize(make_evaluator("refcoco"), {0: half})["value"] == 1.0


def test_an_expression_needs_exactly_one_box():
    image = {"id": 4, "width": 10, "height": 10}
    box = {"image_id": 4, "bbox": [0, 0, 1, 1]}

    with pytest.raises(EvaluationError, match=r"val\.json: expression 4 has 0 boxes"):
        read_expressions({"images": [image], "annotations": []}, "val.json")
    with pytest.raises(EvaluationError, match="expression 4 has 2 boxes"):
        read_expressions({"images": [image], "annotations": [box, box]}, "val.json")


@pytest.mark.parametrize(
    ("image", "box", "message"),
    [
        ({}, {"bbox": None}, "annotation 9 has .* bbox None"),
        ({}, {"bbox": ["a", 1, 2, 3]}, "annotation 9 has .* bbox"),
        ({}, {"image_id": None}, "annotation 9 has image_id None"),
        ({"width": None}, {}, "image 4 needs id, width and height"),
        ({"height": "tall"}, {}, "image 4 needs id, width and height"),
        ({"id": [4]}, {}, r"image \[4\] needs id"),
    ],
)
def test_a_malformed_entry_is_named(image, box, message):
    image = {"id": 4, "width": 10, "height": 10} | image
    box = {"id": 9, "image_id": 4, "bbox": [0, 0, 1, 1]} | box

    with pytest.raises(EvaluationError, match=rf"val\.json: {message}"):
        read_expressions({"images": [image], "annotations": [box]}, "val.json")


@pytest.mark.parametrize("key", ["image_id", "bbox"])
def test_an_annotation_without_a_field_is_named(key):
    box = {"id": 9, "image_id": 4, "bbox": [0, 0, 1, 1]}
    del box[key]

    with pytest.raises(EvaluationError, match=rf"annotation 9 has .*{key} None"):
        read_expressions({"images": [], "annotations": [box]}, "val.json")


@pytest.mark.parametrize(
    "content", [[], {}, {"images": {}, "annotations": []}, {"images": [], "annotations": [3]}]
)
def test_a_file_of_another_kind_is_refused(content):
    with pytest.raises(EvaluationError, match=r"val\.json"):
        read_expressions(content, "val.json")


def test_a_prediction_of_another_set_is_refused():
    with pytest.raises(EvaluationError, match="entry 3, which the dataset lacks"):
        make_evaluator("refcoco").update({3: prediction()})
