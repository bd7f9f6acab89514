"""Result files that are read and written, and the table over several tasks."""

import json

import numpy as np
import pytest

from maskrcnn_benchmark.evaluation import files
from maskrcnn_benchmark.evaluation.base import EvaluationError
from maskrcnn_benchmark.evaluation.detections import Detections
from maskrcnn_benchmark.evaluation.result_files import read_boxes, read_expression_boxes
from maskrcnn_benchmark.evaluation.tables import task_table

ROW = {"image_id": 4, "category_id": 2, "bbox": [1.0, 2.0, 3.0, 4.0], "score": 0.5}


def write(path, content):
    path.write_text(json.dumps(content))
    return path


def test_a_result_list_survives_writing_and_reading_in_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "DETECTIONS_PER_WRITE", 3)
    rows = [ROW | {"image_id": n // 3, "score": n / 7} for n in range(8)]
    detections = read_boxes(write(tmp_path / "a.json", rows))

    files.write_results(tmp_path / "b.json", detections)

    assert json.loads((tmp_path / "b.json").read_text()) == rows
    assert len(read_boxes(write(tmp_path / "c.json", []))) == 0
    files.write_results(tmp_path / "c.json", Detections.empty())
    assert json.loads((tmp_path / "c.json").read_text()) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a": 1}, "holds a dict; a list of detections is needed"),
        ([ROW, ROW | {"image_id": "4"}], "entry 1 needs image_id = a whole number, not '4'"),
        (
            [{**ROW, "bbox": [1, 2, 3]}],
            r"entry 0 needs bbox = x, y, width, height, not \[1, 2, 3\]",
        ),
        (
            [{"image_id": 4, "category_id": 2, "bbox": [1, 2, 3, 4]}],
            "entry 0 needs score = a number",
        ),
        ([3], "entry 0 needs image_id = a whole number, not 3"),
    ],
)
def test_a_malformed_result_file_is_named_with_its_entry(tmp_path, content, message):
    with pytest.raises(EvaluationError, match=f"a.json.* {message}"):
        read_boxes(write(tmp_path / "a.json", content))


def test_a_missing_or_cut_result_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"result file .*gone\.json does not exist"):
        read_boxes(tmp_path / "gone.json")
    (tmp_path / "cut.json").write_text('[{"image_id": 1')
    with pytest.raises(EvaluationError, match=r"cut\.json is not valid JSON"):
        read_boxes(tmp_path / "cut.json")


def test_expression_boxes_are_read_from_lists_and_mappings(tmp_path):
    entry = {"scores": [0.1, 0.9], "boxes": [[0, 0, 1, 1], [2, 2, 3, 3]]}
    listed = read_expression_boxes(write(tmp_path / "a.json", [{"image_id": 7, **entry}]))
    mapped = read_expression_boxes(write(tmp_path / "b.json", {"7": entry}))

    for detections in (listed, mapped):
        assert detections.image_ids.tolist() == [7]
        np.testing.assert_array_equal(detections.scores, [0.1, 0.9])
    with pytest.raises(EvaluationError, match="entry 0 needs lists 'boxes' and 'scores'"):
        read_expression_boxes(write(tmp_path / "c.json", [{"image_id": 7, "boxes": []}]))


def test_json_has_null_where_there_is_no_number(tmp_path):
    files.write_json(tmp_path / "m.json", {"a": float("nan"), "b": [1, float("inf")], 3: "x"})

    assert json.loads((tmp_path / "m.json").read_text()) == {"a": None, "b": [1, None], "3": "x"}


def test_tasks_stand_side_by_side_with_their_mean():
    results = {
        "Raccoon": {"primary": "AP", "value": 0.5},
        "BCCD": {"primary": "AP", "value": 0.25},
        "test-dev": {"primary": "AP", "value": float("nan")},
    }

    assert task_table(results).splitlines() == [
        "| task | metric | value |",
        "|---|---|---|",
        "| Raccoon | AP | 50.0 |",
        "| BCCD | AP | 25.0 |",
        "| test-dev | AP | - |",
        "| mean of 2 | AP | 37.5 |",
    ]


def test_different_metrics_have_no_mean():
    results = {
        "coco": {"primary": "AP", "value": 0.5},
        "flickr": {"primary": "Recall@1_all", "value": 0.8},
    }

    assert "mean" not in task_table(results)
