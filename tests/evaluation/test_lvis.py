"""LVIS evaluator: recorded numbers of MDETR's and the lvis package, federated rules, limits."""

import json

import pytest

from maskrcnn_benchmark.evaluation import lvis
from maskrcnn_benchmark.evaluation.base import EvaluationError
from maskrcnn_benchmark.evaluation.ground_truth import read_ground_truth
from maskrcnn_benchmark.evaluation.lvis import LvisEvaluator
from maskrcnn_benchmark.evaluation.result_files import read_boxes
from tests.evaluation.box_sets import annotations, prediction, random_set

CAT = [10.0, 10.0, 40.0, 40.0]
CAT_CORNERS = [10.0, 10.0, 50.0, 50.0]
ELSEWHERE = [120.0, 100.0, 160.0, 140.0]


def make_evaluator(negatives=(), not_exhaustive=(), images=(1,), **options):
    data = annotations(
        {image_id: [(3, CAT)] for image_id in images},
        neg_category_ids=list(negatives),
        not_exhaustive_category_ids=list(not_exhaustive),
    )
    return LvisEvaluator(read_ground_truth(data, "lvis.json"), **options)


def summarize(evaluator, predictions):
    evaluator.update(predictions)
    return evaluator.summarize()


@pytest.mark.parametrize(
    ("expected", "options"),
    [
        ("lvis_api_bbox_max_dets_300", {"fixed": False}),
        ("mdetr_fixed_ap_topk_10000", {}),
        ("mdetr_fixed_ap_topk_3", {"per_category": 3}),
    ],
)
def test_recorded_numbers_of_the_original_evaluators_are_reproduced(shared_dir, expected, options):
    folder = shared_dir / "data" / "lvis"
    numbers = json.loads((folder / "expected_seed1.json").read_text())
    evaluator = LvisEvaluator(folder / "lvis_val_100.json", **options)
    evaluator.update_from_rows(read_boxes(folder / "results_seed1.json"))

    result = evaluator.summarize()

    assert result["metrics"] == pytest.approx(numbers[expected], abs=1e-14)
    if not evaluator.fixed:
        per_category = numbers["lvis_api_bbox_max_dets_300_per_category_AP"]
        names = {c["id"]: c["name"] for c in evaluator.ground_truth.categories.values()}
        assert result["per_category"] == pytest.approx(
            {names[int(key)]: value for key, value in per_category.items()}, abs=1e-14
        )


def test_width_is_the_difference_of_the_corners(tmp_path):
    evaluator = make_evaluator(output_folder=tmp_path)

    result = summarize(evaluator, {1: prediction((3, 0.9, CAT_CORNERS))})

    assert result["value"] == pytest.approx(1.0)
    [row] = json.loads((tmp_path / "bbox.json").read_text())
    assert row["bbox"] == CAT


def test_a_detection_in_a_category_that_was_not_checked_in_the_image_is_ignored():
    wrong = prediction((3, 0.9, CAT_CORNERS), (9, 1.0, ELSEWHERE), (7, 1.0, ELSEWHERE))
    data = annotations(
        {1: [(3, CAT)], 2: [(9, CAT), (7, CAT)]},
        neg_category_ids=[7],
        not_exhaustive_category_ids=[],
    )
    evaluator = LvisEvaluator(read_ground_truth(data))

    result = summarize(
        evaluator, {1: wrong, 2: prediction((9, 0.8, CAT_CORNERS), (7, 0.8, CAT_CORNERS))}
    )

    assert result["per_category"]["emu"] == pytest.approx(1.0), "not checked in image 1"
    assert result["per_category"]["dog"] == pytest.approx(0.5), "known to be absent in image 1"


def test_an_unmatched_detection_is_forgiven_where_the_category_is_not_exhaustive():
    found = {1: prediction((3, 1.0, ELSEWHERE), (3, 0.9, CAT_CORNERS))}

    assert summarize(make_evaluator(), dict(found))["value"] == pytest.approx(0.5)
    forgiving = make_evaluator(not_exhaustive=[3])
    assert summarize(forgiving, dict(found))["value"] == pytest.approx(1.0)


def test_fixed_ap_limits_a_category_over_all_images_not_an_image():
    many = prediction(*((3, 0.9 - 0.001 * n, ELSEWHERE) for n in range(4)), (3, 0.5, CAT_CORNERS))

    generous = summarize(make_evaluator(per_category=5), {1: many})
    strict = summarize(make_evaluator(per_category=4), {1: many})
    usual = summarize(make_evaluator(fixed=False, per_image=4), {1: many})

    assert generous["metrics"]["AR@-1"] == pytest.approx(1.0)
    assert strict["metrics"]["AR@-1"] == 0.0
    assert usual["metrics"]["AR@4"] == 0.0


def test_of_equal_scores_at_the_limit_the_image_with_the_smaller_id_stays():
    found = {
        4: prediction((3, 0.5, CAT_CORNERS)),
        2: prediction((3, 0.5, ELSEWHERE)),
    }

    evaluator = make_evaluator(images=(2, 4), per_category=1)

    assert summarize(evaluator, found)["metrics"]["AR@-1"] == 0.0


def test_duplicates_of_an_image_do_not_change_the_numbers():
    data, predictions = random_set(seed=2, num_images=12)
    once, twice = (LvisEvaluator(read_ground_truth(data)) for _ in range(2))

    twice.update(predictions)
    twice.update(predictions)

    assert twice.summarize()["metrics"] == summarize(once, predictions)["metrics"]


def test_cutting_while_predictions_arrive_changes_nothing(monkeypatch):
    data, predictions = random_set(seed=3, num_images=30)
    options = {"per_category": 20}
    whole = summarize(LvisEvaluator(read_ground_truth(data), **options), predictions)
    monkeypatch.setattr(lvis, "ROWS_BETWEEN_CUTS", 25)
    monkeypatch.setattr("maskrcnn_benchmark.evaluation.base.IMAGES_PER_PART", 4)
    often = LvisEvaluator(read_ground_truth(data), **options)

    for image_id, boxes in predictions.items():
        often.update({image_id: boxes})

    assert often.summarize()["metrics"] == whole["metrics"]


def test_files_carry_the_printed_lines(tmp_path):
    result = summarize(
        make_evaluator(output_folder=tmp_path), {1: prediction((3, 0.9, CAT_CORNERS))}
    )

    lines = (tmp_path / "bbox.csv").read_text().splitlines()
    assert lines[0] == "metric, avg "
    assert lines[1] == (
        "Average Precision  (AP) @[ IoU=0.50:0.95 | area=   all | maxDets= -1 catIds=all], 1.000"
    )
    assert [line.rsplit(", ", 1)[0] for line in lines[1:]] == [
        line.strip().rsplit(" = ", 1)[0] for line in result["table"].splitlines()
    ]
    assert list(result["metrics"])[:9] == [
        "AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf",
    ]  # fmt: skip
    assert json.loads((tmp_path / "metrics.json").read_text())["kind"] == "lvis-fixed"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data["categories"][0].pop("frequency"), "category 3 has frequency None"),
        (lambda data: data["images"][0].pop("neg_category_ids"), "image 1 has no neg_category_ids"),
    ],
)
def test_a_file_that_is_not_lvis_is_refused(change, message):
    data = annotations({1: [(3, CAT)]}, neg_category_ids=[], not_exhaustive_category_ids=[])
    change(data)

    with pytest.raises(EvaluationError, match=f"gt.json.*{message}.*is it an LVIS file"):
        summarize(LvisEvaluator(read_ground_truth(data, "gt.json")), {1: prediction()})
