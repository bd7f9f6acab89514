"""VOC evaluator: 11-point AP, difficult boxes, the doubled inclusive pixel."""

import numpy as np
import pytest

from maskrcnn_benchmark.evaluation.detections import Detections
from maskrcnn_benchmark.evaluation.ground_truth import read_ground_truth
from maskrcnn_benchmark.evaluation.voc import VocEvaluator, class_average_precision
from tests.evaluation.box_sets import annotations, prediction, random_set

BOX = [10.0, 10.0, 40.0, 40.0]
CORNERS = [10.0, 10.0, 49.0, 49.0]
ELSEWHERE = [100.0, 100.0, 139.0, 139.0]


def summarize(data, predictions, **options):
    evaluator = VocEvaluator(read_ground_truth(data), **options)
    evaluator.update(predictions)
    return evaluator.summarize()


def test_perfect_predictions_give_one_and_classes_without_boxes_stay_out_of_the_mean(tmp_path):
    result = summarize(
        annotations({1: [(3, BOX)]}), {1: prediction((3, 0.9, CORNERS))}, output_folder=tmp_path
    )

    assert result["metrics"] == {"mAP": 1.0}
    assert result["per_category"] == {"cat": 1.0}
    lines = (tmp_path / "result.txt").read_text().splitlines()
    assert lines[0] == "mAP: 1.0000"
    assert [line.split(":")[0].strip() for line in lines[1:]] == ["cat", "dog", "emu"]


def test_ap_is_the_mean_of_the_best_precision_at_eleven_recalls():
    data = annotations({1: [(3, BOX)], 2: [(3, BOX)]})
    # Hit, false alarm, hit: precision 1 up to recall 0.5 (6 levels), then 2/3 (5 levels).
    found = {
        1: prediction((3, 0.9, CORNERS), (3, 0.8, ELSEWHERE)),
        2: prediction((3, 0.7, CORNERS)),
    }

    assert summarize(data, found)["value"] == pytest.approx((6 + 5 * 2 / 3) / 11)


def test_a_second_detection_of_a_box_is_a_false_alarm():
    data = annotations({1: [(3, BOX)], 2: [(3, BOX)]})
    twice = {
        1: prediction((3, 0.9, CORNERS), (3, 0.8, CORNERS)),
        2: prediction((3, 0.7, CORNERS)),
    }

    assert summarize(data, twice)["value"] == pytest.approx((6 + 5 * 2 / 3) / 11)


def test_difficult_boxes_are_neither_asked_for_nor_held_against_a_detection():
    data = annotations({1: [(3, BOX), (3, [100.0, 100.0, 40.0, 40.0])]})
    data["annotations"][1]["difficult"] = 1
    found = {1: prediction((3, 0.9, ELSEWHERE), (3, 0.8, CORNERS))}

    assert summarize(data, found)["value"] == 1.0


def test_an_image_without_detections_keeps_its_boxes():
    data = annotations({1: [(3, BOX)], 2: [(3, BOX)]})

    result = summarize(data, {1: prediction((3, 0.9, CORNERS)), 2: prediction()})

    assert result["value"] == pytest.approx(6 / 11)


def test_overlap_counts_the_inclusive_pixel_twice():
    # 4 of 9 columns in common without extra pixels; with one more on each side 5 of 10.
    data = annotations({1: [(3, [0.0, 0.0, 8.0, 1e6])]})
    data["images"][0] |= {"width": 100, "height": 2_000_000}
    found = {1: prediction((3, 0.9, [4.0, 0.0, 7.0, 1e6 - 1]), size=(100, 2_000_000))}
    narrower = {1: prediction((3, 0.9, [5.0, 0.0, 7.0, 1e6 - 1]), size=(100, 2_000_000))}

    assert summarize(data, found)["value"] == 1.0
    assert summarize(data, narrower)["value"] == 0.0


def reference_ap(data, predictions, category):
    """The rule written down image by image and detection by detection."""
    boxes, rows = {}, []
    for row in data["annotations"]:
        x, y, w, h = row["bbox"]
        if row["category_id"] == category:
            boxes.setdefault(row["image_id"], []).append([x, y, x + w + 1, y + h + 1])
    for image_id in sorted(predictions):
        found = predictions[image_id]
        for corners, score, label in zip(
            found.bbox.double().tolist(),
            found.get_field("scores").tolist(),
            found.get_field("labels").tolist(),
        ):
            if label == category:
                x1, y1, x2, y2 = corners
                rows.append((score, image_id, [x1, y1, x2 + 2, y2 + 2]))
    rows.sort(key=lambda row: -row[0])
    taken, outcomes = set(), []
    for _, image_id, (x1, y1, x2, y2) in rows:
        best = (0.0, None)
        for number, (a1, b1, a2, b2) in enumerate(boxes.get(image_id, [])):
            common = max(min(x2, a2) - max(x1, a1), 0) * max(min(y2, b2) - max(y1, b1), 0)
            union = (x2 - x1) * (y2 - y1) + (a2 - a1) * (b2 - b1) - common
            best = max(best, (common / union, number), key=lambda pair: pair[0])
        hit = best[0] >= 0.5
        outcomes.append(hit and (image_id, best[1]) not in taken)
        if hit:
            taken.add((image_id, best[1]))
    hits = np.cumsum(outcomes)
    precision = hits / np.arange(1, len(hits) + 1)
    recall = hits / sum(map(len, boxes.values()))
    return np.mean([max(precision[recall >= t], default=0) for t in np.arange(0, 1.1, 0.1)])


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_generated_sets_agree_with_the_rule_written_down_plainly(seed):
    data, predictions = random_set(seed, num_images=15)

    result = summarize(data, predictions)

    for category, name in ((3, "cat"), (7, "dog"), (9, "emu")):
        expected = reference_ap(data, predictions, category)
        assert result["per_category"][name] == pytest.approx(expected, abs=1e-12)


def test_a_class_without_boxes_has_no_ap():
    truth = read_ground_truth(annotations({1: [(3, BOX)]}))

    assert np.isnan(class_average_precision(truth, Detections.empty(), category=7))
    assert class_average_precision(truth, Detections.empty(), category=3) == 0.0
