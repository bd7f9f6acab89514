"""Expected numbers of a run: pass, fail, entries of other tasks, malformed entries."""

import logging

import pytest

from maskrcnn_benchmark.evaluation.expected_results import check_expected_results

RESULT = {"kind": "coco", "metrics": {"AP": 0.42, "AP50": 0.6}}


def test_a_value_within_the_tolerance_passes(caplog):
    caplog.set_level(logging.INFO)

    assert check_expected_results(RESULT, [["bbox", "AP", [0.40, 0.01]]], sigma_tolerance=4)
    assert (
        "PASS: bbox > AP sanity check (actual vs. expected): 0.420 vs. mean=0.4000" in caplog.text
    )
    assert "range=(0.3600, 0.4400)" in caplog.text


def test_a_value_outside_fails_as_an_error(caplog):
    assert not check_expected_results(RESULT, [["coco", "AP", [0.40, 0.001]]], sigma_tolerance=4)
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert caplog.text.count("FAIL: coco > AP") == 1


def test_the_bounds_themselves_are_outside():
    assert not check_expected_results(
        {"kind": "coco", "metrics": {"AP": 0.5}}, [["bbox", "AP", [0.25, 0.0625]]], 4
    )


def test_one_failure_among_many_fails_and_the_flat_form_is_read():
    expected = [("bbox", "AP", 0.42, 0.01), ("bbox", "AP50", 0.3, 0.01)]

    assert check_expected_results(RESULT, expected[:1])
    assert not check_expected_results(RESULT, expected)


def test_entries_of_other_tasks_are_passed_over():
    assert check_expected_results(RESULT, [["flickr", "Recall@1_all", [0.9, 0.01]]])
    flickr = {"kind": "flickr", "metrics": {"Recall@1_all": 0.8}}
    assert not check_expected_results(flickr, [["flickr", "Recall@1_all", [0.9, 0.01]]])
    assert check_expected_results({**RESULT, "kind": "lvis-fixed"}, [["bbox", "AP", [0.42, 0.01]]])


def test_an_unknown_metric_and_a_malformed_entry_are_named():
    with pytest.raises(ValueError, match="metric 'mAP' of bbox; there are AP, AP50"):
        check_expected_results(RESULT, [["bbox", "mAP", [0.4, 0.1]]])
    with pytest.raises(ValueError, match=r"TEST\.EXPECTED_RESULTS needs .*\['bbox', 'AP'\]"):
        check_expected_results(RESULT, [["bbox", "AP"]])
