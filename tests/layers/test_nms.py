"""Suppression: golden values, agreement of the backends, order, ties, degenerate boxes."""

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from maskrcnn_benchmark.layers import _native, ml_nms, nms, soft_nms


def random_boxes(generator: torch.Generator, count: int, size: float = 500.0) -> Tensor:
    corners = torch.rand(count, 2, generator=generator) * size
    sides = torch.rand(count, 2, generator=generator) * size / 4
    return torch.cat((corners, corners + sides), 1)


@pytest.fixture(scope="module")
def golden(golden_dir) -> dict[str, Tensor]:
    with np.load(golden_dir / "glip" / "units" / "nms.npz") as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


def ml_nms_by_the_book(boxes: Tensor, scores: Tensor, labels: Tensor, threshold: float) -> Tensor:
    """The definition as a double loop, in the precision of the boxes."""
    boxes_, kept = boxes.numpy(), []
    one = boxes_.dtype.type(1)
    area = (boxes_[:, 2] - boxes_[:, 0] + one) * (boxes_[:, 3] - boxes_[:, 1] + one)
    for i in scores.argsort(descending=True, stable=True).tolist():
        for k in kept:
            width = min(boxes_[i, 2], boxes_[k, 2]) - max(boxes_[i, 0], boxes_[k, 0]) + one
            height = min(boxes_[i, 3], boxes_[k, 3]) - max(boxes_[i, 1], boxes_[k, 1]) + one
            if labels[i] != labels[k] or width <= 0 or height <= 0:
                continue
            if width * height / (area[i] + area[k] - width * height) > boxes_.dtype.type(threshold):
                break
        else:
            kept.append(i)
    return torch.tensor(sorted(kept), dtype=torch.int64)


@pytest.mark.parametrize("threshold", ["0.3", "0.5", "0.6"])
def test_ml_nms_gives_the_recorded_rows(golden, backend, threshold):
    kept = ml_nms(golden["boxes"], golden["scores"], golden["labels"], float(threshold))

    assert torch.equal(kept, golden[f"ml_nms.{threshold}"])


def test_nms_gives_the_recorded_rows(golden, backend):
    assert torch.equal(nms(golden["boxes"], golden["scores"], 0.5), golden["plain_nms.0.5"])


@pytest.mark.parametrize("threshold", ["0.05", "0.3", "0.6"])
def test_soft_nms_gives_the_recorded_order_and_scores(golden, backend, threshold):
    kept, scores = soft_nms(golden["boxes"], golden["scores"], float(threshold), 0.95)

    assert torch.equal(kept, golden[f"soft_nms.{threshold}.keep"])
    torch.testing.assert_close(scores, golden[f"soft_nms.{threshold}.scores"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("count", [1, 7, 33, 700, 3000])
def test_nms_is_torchvisions(native, generator, count, dtype):
    boxes = random_boxes(generator, count).to(dtype)
    scores = torch.rand(count, generator=generator).to(dtype)

    for threshold in (0.0, 0.3, 0.6, 1.0):
        expected = torchvision.ops.nms(boxes, scores, threshold)
        assert torch.equal(nms(boxes, scores, threshold), expected)


def test_nms_of_integer_boxes_at_the_exact_threshold_is_torchvisions(native, generator):
    # Small integer boxes overlap by simple fractions, which rounding could put on either side.
    corners = torch.randint(0, 12, (400, 2), generator=generator)
    boxes = torch.cat((corners, corners + torch.randint(1, 9, (400, 2), generator=generator)), 1)
    scores = torch.rand(400, generator=generator)

    for dtype in (torch.float32, torch.float64):
        for threshold in (0.2, 0.25, 1 / 3, 0.4, 0.5, 0.6, 0.75, 0.8):
            expected = torchvision.ops.nms(boxes.to(dtype), scores.to(dtype), threshold)
            assert torch.equal(nms(boxes.to(dtype), scores.to(dtype), threshold), expected)


@pytest.mark.parametrize("count", [1, 60, 400])
def test_ml_nms_is_the_greedy_loop_within_labels(backend, generator, count):
    boxes = random_boxes(generator, count, 120.0)
    scores = torch.rand(count, generator=generator)
    labels = torch.randint(0, 4, (count,), generator=generator)

    kept = ml_nms(boxes, scores, labels, 0.4)

    assert torch.equal(kept, ml_nms_by_the_book(boxes, scores, labels, 0.4))


def test_ml_nms_keeps_a_box_whose_overlap_equals_the_threshold(backend):
    # Inclusive pixels: 10 x 10 and 6 x 10, overlap 60 / 100.
    boxes = torch.tensor([[0.0, 0, 9, 9], [0, 0, 5, 9]])
    scores = torch.tensor([0.9, 0.8])
    labels = torch.tensor([1, 1])

    assert ml_nms(boxes, scores, labels, 0.6).tolist() == [0, 1]
    assert ml_nms(boxes, scores, labels, 0.59).tolist() == [0]


def test_ml_nms_returns_rows_in_the_order_of_the_input(backend):
    boxes = torch.tensor([[0.0, 0, 5, 5], [20, 20, 30, 30], [50, 50, 60, 60]])
    scores = torch.tensor([0.1, 0.5, 0.9])

    assert ml_nms(boxes, scores, torch.tensor([7, 7, 7]), 0.5).tolist() == [0, 1, 2]


def test_ml_nms_never_mixes_labels_however_many_and_however_far_apart(backend, generator):
    boxes = torch.tensor([[10.0, 10, 1300, 1300]]).repeat(3000, 1)
    labels = torch.randperm(3000, generator=generator) * 7919 - 10**9
    scores = torch.rand(3000, generator=generator)

    assert len(ml_nms(boxes, scores, labels, 0.1)) == 3000


def test_ml_nms_accepts_labels_stored_as_floats(backend, golden):
    arguments = golden["boxes"], golden["scores"]

    kept = ml_nms(*arguments, golden["labels"].float(), 0.5)

    assert torch.equal(kept, ml_nms(*arguments, golden["labels"], 0.5))


def test_one_long_label_beside_short_ones_agrees_with_torchvision(native, generator):
    boxes = random_boxes(generator, 6000, 3000.0).double()
    scores = torch.rand(6000, generator=generator).double()
    labels = torch.cat((torch.zeros(5000), torch.arange(1000) % 7 + 1)).long()

    with _native.disabled():
        expected = ml_nms(boxes, scores, labels, 0.3)

    assert torch.equal(ml_nms(boxes, scores, labels, 0.3), expected)


def test_equal_scores_are_taken_in_the_order_of_the_input(backend):
    boxes = torch.tensor([[0.0, 0, 10, 10], [1, 1, 11, 11], [0, 0, 10, 10]])
    scores = torch.tensor([0.5, 0.5, 0.5])

    assert nms(boxes, scores, 0.5).tolist() == [0]
    assert ml_nms(boxes, scores, torch.zeros(3), 0.5).tolist() == [0]


def test_no_boxes_give_no_rows(backend):
    boxes, scores = torch.zeros(0, 4), torch.zeros(0)

    assert nms(boxes, scores, 0.5).shape == (0,)
    assert ml_nms(boxes, scores, torch.zeros(0, dtype=torch.int64), 0.5).dtype == torch.int64
    kept, decayed = soft_nms(boxes, scores, 0.1, 0.5)
    assert kept.shape == decayed.shape == (0,)
    assert kept.dtype == torch.int64


def test_a_box_that_is_not_a_number_suppresses_nothing_and_stays(backend):
    boxes = torch.tensor([[0.0, 0, 10, 10], [torch.nan, 0, 10, 10], [0, 0, 10, 10]])
    scores = torch.tensor([0.5, 0.9, 0.4])

    assert nms(boxes, scores, 0.5).tolist() == [1, 0]
    assert ml_nms(boxes, scores, torch.ones(3), 0.5).tolist() == [0, 1]


def test_a_score_that_is_not_a_number_goes_first(native):
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 10]])
    scores = torch.tensor([0.9, torch.nan])

    assert torch.equal(nms(boxes, scores, 0.5), torchvision.ops.nms(boxes, scores, 0.5))


def test_views_and_strides_do_not_matter(backend, generator):
    wide = torch.rand(64, 8, generator=generator) * 100
    boxes = torch.cat((wide[:, ::4], wide[:, ::4] + 30), 1).t().contiguous().t()
    scores = torch.rand(128, generator=generator)[::2]

    assert not boxes.is_contiguous()
    assert torch.equal(nms(boxes, scores, 0.4), nms(boxes.contiguous(), scores.clone(), 0.4))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_scores_are_accepted(backend, golden, dtype):
    scores = golden["scores"].to(dtype)

    kept = ml_nms(golden["boxes"], scores, golden["labels"], 0.5)

    expected = ml_nms(golden["boxes"], scores.float(), golden["labels"], 0.5)
    assert torch.equal(kept, expected)


def test_the_number_of_threads_does_not_change_the_result(native, generator, with_threads):
    boxes = random_boxes(generator, 6000, 2000.0)
    scores = torch.rand(6000, generator=generator)
    labels = (torch.rand(6000, generator=generator) ** 3 * 20).long()

    one = with_threads(1, lambda: (nms(boxes, scores, 0.4), ml_nms(boxes, scores, labels, 0.4)))
    three = with_threads(3, lambda: (nms(boxes, scores, 0.4), ml_nms(boxes, scores, labels, 0.4)))

    assert torch.equal(one[0], three[0])
    assert torch.equal(one[1], three[1])


coordinate = st.floats(-50, 50, width=32)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(coordinate, coordinate, coordinate, coordinate, st.floats(0, 1, width=32)),
        max_size=40,
    ),
    st.floats(0, 1),
)
def test_any_boxes_even_inverted_ones_give_torchvisions_rows(rows, threshold):
    if not _native.loaded():
        pytest.skip("the native operators are not loaded")
    table = torch.tensor(rows, dtype=torch.float32).reshape(-1, 5)

    kept = nms(table[:, :4], table[:, 4], threshold)

    assert torch.equal(kept, torchvision.ops.nms(table[:, :4], table[:, 4], threshold))


def test_soft_nms_backends_agree(native, generator):
    boxes = random_boxes(generator, 300, 200.0).double()
    scores = torch.rand(300, generator=generator).double()

    kept, decayed = soft_nms(boxes, scores, 0.05, 0.5)

    with _native.disabled():
        expected_kept, expected_decayed = soft_nms(boxes, scores, 0.05, 0.5)
    assert torch.equal(kept, expected_kept)
    torch.testing.assert_close(decayed, expected_decayed)


def test_soft_nms_leaves_its_arguments_alone(backend, golden):
    boxes, scores = golden["boxes"].clone(), golden["scores"].clone()

    soft_nms(boxes, scores, 0.05, 0.95)

    assert torch.equal(boxes, golden["boxes"])
    assert torch.equal(scores, golden["scores"])


BOXES = torch.zeros(3, 4)
SCORES = torch.zeros(3)
LABELS = torch.zeros(3, dtype=torch.int64)


@pytest.mark.parametrize(
    ("call", "error", "argument"),
    [
        (lambda: nms(torch.zeros(3, 5), SCORES, 0.5), ValueError, "boxes"),
        (lambda: nms(torch.zeros(4), SCORES, 0.5), ValueError, "boxes"),
        (lambda: nms(BOXES, torch.zeros(2), 0.5), ValueError, "scores"),
        (lambda: nms(BOXES.long(), SCORES, 0.5), TypeError, "boxes"),
        (lambda: nms(BOXES, SCORES.to("meta"), 0.5), ValueError, "scores"),
        (lambda: ml_nms(BOXES, SCORES, torch.zeros(4), 0.5), ValueError, "labels"),
        (lambda: ml_nms(BOXES, SCORES, LABELS.to("meta"), 0.5), ValueError, "labels"),
        (lambda: soft_nms(BOXES, SCORES.long(), 0.5, 0.5), TypeError, "scores"),
        (lambda: soft_nms(BOXES, SCORES, 0.5, 0.0), ValueError, "sigma"),
    ],
)
def test_a_wrong_argument_is_named(backend, call, error, argument):
    with pytest.raises(error, match=argument):
        call()


def test_the_operators_themselves_check_their_arguments(native):
    with pytest.raises(RuntimeError, match="boxes"):
        torch.ops.glip.nms(torch.zeros(3, 5), SCORES, 0.5)
    with pytest.raises(RuntimeError, match="scores"):
        torch.ops.glip.nms(BOXES, SCORES.double(), 0.5)
    with pytest.raises(RuntimeError, match="labels"):
        torch.ops.glip.ml_nms(BOXES, SCORES, LABELS.int(), 0.5)


def test_opcheck(native, golden):
    boxes, scores = golden["boxes"], golden["scores"]

    torch.library.opcheck(torch.ops.glip.nms.default, (boxes, scores, 0.5))
    torch.library.opcheck(torch.ops.glip.ml_nms.default, (boxes, scores, golden["labels"], 0.5))
    torch.library.opcheck(torch.ops.glip.soft_nms.default, (boxes, scores, 0.05, 0.5))
