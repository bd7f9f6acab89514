"""Predictions on disk: exact, resumable, safe against cut and spoiled files."""

import json
import logging

import numpy as np
import pytest
import torch

from maskrcnn_benchmark.evaluation.prediction_store import (
    PredictionStore,
    file_identity,
    fingerprint,
)
from maskrcnn_benchmark.structures.bounding_box import BoxList
from tests.evaluation.box_sets import prediction

RUN = fingerprint("weights", {"TEST": 1})
FIRST = prediction((3, 0.1, [1 / 3, 2 / 3, 50.1, 60.7]), (7, 0.123456789, [0.0, 0.0, 5.0, 5.0]))


def store_three(folder, rank=0):
    with PredictionStore(folder, RUN, rank) as store:
        store.add(11, FIRST)
        store.add(12, prediction())
        store.add(13, prediction((9, 0.5, [1.0, 2.0, 3.0, 4.0])))
    return folder / f"unfinished.rank{rank}.jsonl"


def assert_same(boxes, other):
    assert (boxes.size, boxes.mode) == (other.size, other.mode)
    assert torch.equal(boxes.bbox, other.bbox)
    assert boxes.fields() == other.fields()
    for name in boxes.fields():
        assert torch.equal(boxes.get_field(name), other.get_field(name))
        assert boxes.get_field(name).dtype == other.get_field(name).dtype


def test_predictions_come_back_bit_for_bit(tmp_path):
    store_three(tmp_path)

    with PredictionStore(tmp_path, RUN) as store:
        assert store.finished == {11, 12, 13}
        assert len(store) == 3
        assert_same(store.get(11), FIRST)
        assert len(store.get(12)) == 0
        assert list(store.items([13, 99])) == [13]


def test_a_resumed_run_appends(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    store_three(tmp_path)

    with PredictionStore(tmp_path, RUN) as store:
        assert 14 not in store
        store.add(14, FIRST)
        assert_same(store.get(14), FIRST)
    with PredictionStore(tmp_path, RUN) as store:
        assert store.finished == {11, 12, 13, 14}
    assert "3 images are predicted already" in caplog.text


def test_what_was_added_is_on_disk_without_closing(tmp_path):
    store = PredictionStore(tmp_path, RUN)
    store.add(11, FIRST)

    with PredictionStore(tmp_path, RUN, rank=1) as other:
        assert_same(other.get(11), FIRST)
    store.close()


def test_a_file_cut_anywhere_loses_only_the_last_line(tmp_path):
    whole = store_three(tmp_path / "whole").read_bytes()
    lines = whole.splitlines(keepends=True)
    ends = np.cumsum([len(line) for line in lines])
    (tmp_path / "cut").mkdir()
    path = tmp_path / "cut" / "unfinished.rank0.jsonl"
    for length in [*range(0, len(whole), 7), *(ends - 1), *ends]:
        path.write_bytes(whole[:length])

        with PredictionStore(path.parent, RUN) as store:
            whole_lines = int((ends <= length).sum())
            assert store.finished == set([11, 12, 13][: max(whole_lines - 1, 0)])
            store.add(50, FIRST)
        with PredictionStore(path.parent, RUN) as store:
            assert 50 in store
            assert_same(store.get(50), FIRST)


def test_a_spoiled_line_is_predicted_again_and_those_after_it_are_kept(tmp_path, caplog):
    path = store_three(tmp_path)
    content = bytearray(path.read_bytes())
    content[content.index(b'"image_id":12') + 11] ^= 1
    path.write_bytes(content)

    with PredictionStore(tmp_path, RUN) as store:
        assert store.finished == {11, 13}
        store.add(12, prediction())
    assert "1 unreadable lines" in caplog.text
    with PredictionStore(tmp_path, RUN) as store:
        assert store.finished == {11, 12, 13}


def test_predictions_of_another_run_are_not_used(tmp_path, caplog):
    store_three(tmp_path)
    store_three(tmp_path, rank=1)

    with PredictionStore(tmp_path, fingerprint("other weights")) as store:
        assert len(store) == 0
        store.add(11, FIRST)
    assert "belongs to a run with other weights, settings or queries" in caplog.text
    with PredictionStore(tmp_path, fingerprint("other weights")) as store:
        assert store.finished == {11}


def test_another_number_of_processes_may_go_on(tmp_path):
    with PredictionStore(tmp_path, RUN, rank=0) as store:
        store.add(1, FIRST)
    with PredictionStore(tmp_path, RUN, rank=2) as store:
        store.add(3, prediction())

    with PredictionStore(tmp_path, RUN, rank=1) as store:
        assert store.finished == {1, 3}
        assert_same(store.get(1), FIRST)
        assert [path.name for path in sorted(tmp_path.iterdir())] == [
            f"unfinished.rank{rank}.jsonl" for rank in range(3)
        ]


def test_a_complete_evaluation_removes_the_files(tmp_path):
    store_three(tmp_path)
    (tmp_path / "bbox.json").write_text("[]")

    PredictionStore.remove(tmp_path)

    assert [path.name for path in tmp_path.iterdir()] == ["bbox.json"]


def test_half_precision_fields_and_other_modes_are_kept(tmp_path):
    boxes = BoxList(torch.ones(2, 4), (30, 20), mode="xywh")
    boxes.add_field("scores", torch.tensor([0.1, 0.2], dtype=torch.bfloat16))
    boxes.add_field("logits", torch.ones(2, 5, dtype=torch.float16))
    boxes.add_field("phrases", ["a", "b"])
    with PredictionStore(tmp_path, RUN) as store:
        store.add(1, boxes)
        back = store.get(1)

    assert back.mode == "xywh"
    assert torch.equal(back.get_field("scores"), boxes.get_field("scores").float())
    assert torch.equal(back.get_field("logits"), boxes.get_field("logits"))
    assert not back.has_field("phrases"), "only tensors are kept"


def test_an_image_without_prediction_is_a_key_error(tmp_path):
    with PredictionStore(tmp_path, RUN) as store, pytest.raises(KeyError):
        store.get(1)


def test_what_another_run_has_written_is_not_taken_for_this_ones(tmp_path):
    with PredictionStore(tmp_path, RUN) as store, PredictionStore(tmp_path, RUN) as other:
        store.add(1, prediction())
        other.add(2, prediction())
        other.add(3, prediction())
        store.add(4, prediction())  # where it believes its own file to end
        with pytest.raises(OSError, match="another run has written"):
            [store.get(image_id) for image_id in (1, 4)]


def test_a_fingerprint_changes_with_anything_it_is_told():
    weights = {"a.weight": torch.arange(4.0), "b.bias": torch.zeros(2, dtype=torch.int64)}
    base = fingerprint(weights, {"TEST": {"TH": 0.5}}, ["person. dog"])

    changed = [
        fingerprint({**weights, "a.weight": torch.arange(4.0) + 1e-6}, {"TEST": {"TH": 0.5}}, ["person. dog"]),
        fingerprint({**weights, "b.bias": torch.zeros(2)}, {"TEST": {"TH": 0.5}}, ["person. dog"]),
        fingerprint(weights, {"TEST": {"TH": 0.6}}, ["person. dog"]),
        fingerprint(weights, {"TEST": {"TH": 0.5}}, ["person", "dog"]),
        fingerprint(weights, {"TEST": {"TH": 0.5}}, "person. dog"),
    ]  # fmt: skip
    assert len({base, *changed}) == 6
    reordered = fingerprint(dict(reversed(weights.items())), {"TEST": {"TH": 0.5}}, ["person. dog"])
    assert reordered == base
    assert fingerprint(["ab"], ["c"]) != fingerprint(["a"], ["bc"])
    assert fingerprint(weights["a.weight"].bfloat16()) != fingerprint(weights["a.weight"])
    with pytest.raises(TypeError, match="cannot take a fingerprint of object"):
        fingerprint(object())


def test_a_file_is_told_by_place_size_and_time(tmp_path):
    path = tmp_path / "gt.json"
    path.write_text("[]")
    before = fingerprint(file_identity(path))

    path.write_text(json.dumps([1]))

    assert fingerprint(file_identity(path)) != before
