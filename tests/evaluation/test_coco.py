"""COCO evaluator: predictions of a model in, numbers and files out."""

import csv
import json
import logging

import pytest
import torch

from maskrcnn_benchmark.evaluation.base import EvaluationError
from maskrcnn_benchmark.evaluation.coco import CocoEvaluator
from maskrcnn_benchmark.evaluation.ground_truth import read_ground_truth
from maskrcnn_benchmark.evaluation.result_files import read_boxes
from tests.evaluation.box_sets import annotations, prediction

TWO_IMAGES = {
    8: [(3, [10.0, 20.0, 40.0, 50.0])],
    5: [(7, [100.0, 40.0, 60.0, 80.0]), (3, [0.0, 0.0, 30.0, 30.0])],
}
# The same boxes as corners; a box covers both corner pixels.
PERFECT = {
    8: prediction((3, 0.9, [10.0, 20.0, 49.0, 69.0])),
    5: prediction((7, 0.8, [100.0, 40.0, 159.0, 119.0]), (3, 0.7, [0.0, 0.0, 29.0, 29.0])),
}


def make_evaluator(data, **options):
    return CocoEvaluator(read_ground_truth(data, "gt.json"), **options)


def summarize(evaluator, predictions):
    evaluator.update(predictions)
    return evaluator.summarize()


def test_perfect_predictions_give_ap_one():
    result = summarize(make_evaluator(annotations(TWO_IMAGES)), PERFECT)

    assert result["primary"] == "AP"
    assert result["value"] == result["metrics"]["AP"] == pytest.approx(1.0)
    assert result["per_category"] == {"cat": pytest.approx(1.0), "dog": pytest.approx(1.0)}


def test_corners_are_inclusive_in_the_result_file(tmp_path):
    summarize(make_evaluator(annotations(TWO_IMAGES), output_folder=tmp_path), PERFECT)

    rows = json.loads((tmp_path / "bbox.json").read_text())
    assert rows == [
        {"image_id": 5, "category_id": 7, "bbox": [100, 40, 60, 80], "score": pytest.approx(0.8)},
        {"image_id": 5, "category_id": 3, "bbox": [0, 0, 30, 30], "score": pytest.approx(0.7)},
        {"image_id": 8, "category_id": 3, "bbox": [10, 20, 40, 50], "score": pytest.approx(0.9)},
    ]


def test_boxes_of_a_resized_image_are_scaled_to_the_annotated_size(tmp_path):
    half = prediction((3, 0.9, [5.0, 10.0, 24.5, 34.5]), size=(100, 80))

    summarize(make_evaluator(annotations(TWO_IMAGES), output_folder=tmp_path), {8: half})

    [row] = json.loads((tmp_path / "bbox.json").read_text())
    assert row["bbox"] == [10, 20, 40, 50]


def test_labels_are_mapped_to_category_ids_and_unknown_ones_dropped(tmp_path):
    evaluator = make_evaluator(
        annotations(TWO_IMAGES), label_to_category={1: 3, 2: 7}, output_folder=tmp_path
    )
    boxes = prediction(
        (1, 0.9, [10.0, 20.0, 49.0, 69.0]), (0, 0.8, [0.0, 0, 9, 9]), (5, 0.7, [0.0, 0, 9, 9])
    )

    summarize(evaluator, {8: boxes})

    rows = json.loads((tmp_path / "bbox.json").read_text())
    assert [row["category_id"] for row in rows] == [3]


def test_all_files_are_written_and_load_without_running_code(tmp_path):
    result = summarize(make_evaluator(annotations(TWO_IMAGES), output_folder=tmp_path), PERFECT)

    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "bbox.csv",
        "bbox.json",
        "coco_results.pth",
        "metrics.json",
        "predictions.pth",
    ]
    results = torch.load(tmp_path / "coco_results.pth", weights_only=True)
    assert list(results["bbox"]) == ["AP", "AP50", "AP75", "APs", "APm", "APl"]
    assert results["bbox"]["AP"] == result["value"]
    stored = torch.load(tmp_path / "predictions.pth", weights_only=True)["predictions"]
    assert stored[8]["boxes"].tolist() == [[10, 20, 40, 50]]
    assert stored[5]["labels"].tolist() == [7, 3]
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert (metrics["kind"], metrics["primary"], metrics["value"]) == (
        "coco",
        "AP",
        result["value"],
    )


def test_the_table_by_class_leaves_cells_without_boxes_empty(tmp_path):
    result = summarize(make_evaluator(annotations(TWO_IMAGES), output_folder=tmp_path), PERFECT)

    rows = list(csv.reader((tmp_path / "bbox.csv").open(), skipinitialspace=True))
    assert rows[0] == ["metric", "cat", "dog", "emu", "avg"]
    assert len(rows) == 6
    assert rows[1][0].startswith("Average Precision  (AP) @[ IoU=0.50:0.95 | area=   all")
    assert rows[1][3] == ""
    assert float(rows[1][4]) == pytest.approx(result["value"])
    assert rows[5][1:] == ["", "", "", ""], "no large box anywhere"


def test_a_class_name_with_a_comma_stays_one_cell(tmp_path):
    data = annotations(TWO_IMAGES)
    data["categories"][0]["name"] = "cat, small"

    summarize(make_evaluator(data, output_folder=tmp_path), PERFECT)

    rows = list(csv.reader((tmp_path / "bbox.csv").open(), skipinitialspace=True))
    assert rows[0] == ["metric", "cat, small", "dog", "emu", "avg"]


def test_predictions_that_come_after_scoring_are_refused():
    evaluator = make_evaluator(annotations(TWO_IMAGES))
    summarize(evaluator, {8: PERFECT[8]})

    with pytest.raises(EvaluationError, match="make a new evaluator"):
        evaluator.update({5: PERFECT[5]})


def test_an_image_without_prediction_is_one_where_nothing_was_found(caplog):
    result = summarize(make_evaluator(annotations(TWO_IMAGES)), {8: PERFECT[8]})

    assert result["per_category"]["dog"] == 0.0
    assert "1 of 2 images have no prediction" in caplog.text


def test_only_predicted_images_are_scored_when_asked():
    evaluator = make_evaluator(annotations(TWO_IMAGES), only_predicted=True)

    result = summarize(evaluator, {8: PERFECT[8]})

    assert result["value"] == pytest.approx(1.0)
    assert "dog" not in result["per_category"]


def test_an_image_predicted_twice_counts_once():
    evaluator = make_evaluator(annotations(TWO_IMAGES))
    evaluator.update(PERFECT)
    evaluator.update({8: prediction((3, 1.0, [0.0, 0.0, 5.0, 5.0]))})

    assert evaluator.summarize()["value"] == pytest.approx(1.0)


def test_no_detection_gives_zero(tmp_path):
    evaluator = make_evaluator(annotations(TWO_IMAGES), output_folder=tmp_path)

    result = summarize(evaluator, {8: prediction(), 5: prediction()})

    assert result["value"] == 0.0
    assert json.loads((tmp_path / "bbox.json").read_text()) == []


def test_a_test_set_without_annotations_yields_the_result_file_and_no_number(tmp_path):
    data = annotations(TWO_IMAGES)
    del data["annotations"]

    result = summarize(make_evaluator(data, output_folder=tmp_path), PERFECT)

    assert result["metrics"] == {}
    assert result["value"] != result["value"], "NaN"
    assert len(json.loads((tmp_path / "bbox.json").read_text())) == 3
    assert json.loads((tmp_path / "metrics.json").read_text())["value"] is None


def test_a_prediction_of_another_set_is_refused():
    with pytest.raises(ValueError, match=r"gt\.json has no image 77"):
        make_evaluator(annotations(TWO_IMAGES)).update({77: prediction()})
    sized = make_evaluator(annotations(TWO_IMAGES), image_sizes={8: (200, 160)})
    with pytest.raises(EvaluationError, match="image 77, which the dataset lacks"):
        sized.update({77: prediction()})


def test_results_in_unknown_categories_alone_are_refused():
    evaluator = make_evaluator(annotations(TWO_IMAGES))

    with pytest.raises(EvaluationError, match=r"1 of 1 detections .*gt\.json lacks .*\[99\]"):
        summarize(evaluator, {8: prediction((99, 0.5, [0.0, 0.0, 5.0, 5.0]))})


def test_boxes_without_scores_are_refused():
    boxes = prediction((3, 0.5, [0.0, 0.0, 5.0, 5.0])).copy_with_fields("labels")

    with pytest.raises(EvaluationError, match="need a field 'scores'"):
        make_evaluator(annotations(TWO_IMAGES)).update({8: boxes})


def test_an_annotation_with_id_zero_is_reported_and_can_be_renumbered(caplog):
    data = annotations(TWO_IMAGES)
    data["annotations"][0]["id"] = 0

    kept = summarize(make_evaluator(data), PERFECT)
    assert kept["value"] < 1.0
    assert "annotation with id 0" in caplog.text and "TEST.RENUMBER_ANNOTATIONS" in caplog.text
    renumbered = summarize(make_evaluator(data, renumber_annotations=True), PERFECT)
    assert renumbered["value"] == pytest.approx(1.0)


def test_annotations_are_read_from_a_path_when_they_are_needed(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    path = tmp_path / "gt.json"
    sizes = dict.fromkeys(TWO_IMAGES, (200, 160))
    evaluator = CocoEvaluator(path, image_sizes=sizes)
    evaluator.update(PERFECT)

    path.write_text(json.dumps(annotations(TWO_IMAGES)))

    assert evaluator.summarize()["value"] == pytest.approx(1.0)
    assert "coco evaluation" in caplog.text


def test_the_twelve_lines_of_pycocotools_are_printed(shared_dir):
    folder = shared_dir / "data" / "coco"
    evaluator = CocoEvaluator(folder / "instances_val2014_100.json")
    evaluator.update_from_rows(read_boxes(folder / "instances_val2014_fakebbox100_results.json"))

    result = evaluator.summarize()

    official = (folder / "val2014_fake_eval_res.txt").read_text()
    official = official.split("type=bbox")[1].split("-----")[0]
    numbers = [line.split(" = ")[1] for line in result["table"].splitlines()]
    assert numbers == [line.split(" = ")[1] for line in official.splitlines() if " = " in line]
    per_class = json.loads((folder / "expected_fakebbox100.json").read_text())["AP_per_class"]
    assert result["per_category"] == pytest.approx(per_class, abs=1e-14)
