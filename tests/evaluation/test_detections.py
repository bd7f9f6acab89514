"""Detections as flat arrays: order, limits, duplicates."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskrcnn_benchmark.evaluation.detections import Detections, ImageDetections, join


def table(*rows, looked_at=()):
    """Rows of (image id, score, label); the box repeats the row number."""
    image_ids, scores, labels = zip(*rows) if rows else ((), (), ())
    boxes = np.arange(len(rows), dtype=np.float64)[:, None].repeat(4, axis=1)
    return Detections.from_rows(
        np.array(image_ids, np.int64),
        boxes,
        np.array(scores, np.float64),
        np.array(labels, np.int64),
        looked_at=np.array(looked_at, np.int64),
    )


def row_numbers(detections):
    return detections.boxes[:, 0].astype(int).tolist()


def test_rows_are_grouped_by_image_and_keep_their_order_within_it():
    detections = table((8, 0.1, 1), (2, 0.9, 1), (8, 0.7, 2), (2, 0.3, 1))

    assert detections.image_ids.tolist() == [2, 8]
    assert detections.counts.tolist() == [2, 2]
    assert row_numbers(detections) == [1, 3, 0, 2]
    assert detections.row_image_ids.tolist() == [2, 2, 8, 8]


def test_an_image_in_which_nothing_was_found_stays_listed():
    detections = table((4, 0.5, 1), looked_at=[2, 4])

    assert detections.image_ids.tolist() == [2, 4]
    assert detections.select(np.array([False])).counts.tolist() == [0, 0]


def test_the_best_of_an_image_are_kept_and_of_equal_scores_the_earlier():
    detections = table((1, 0.5, 1), (1, 0.7, 2), (1, 0.5, 3), (2, 0.1, 1))

    assert row_numbers(detections.best_per_image(2)) == [0, 1, 3]


def test_the_best_of_a_label_are_kept_over_all_images_and_of_equal_scores_the_smaller_image_id():
    detections = join([table((5, 0.5, 1), (5, 0.9, 2)), table((3, 0.5, 1), (3, 0.4, 1))])

    kept = detections.best_per_label(1)

    assert list(zip(kept.row_image_ids.tolist(), kept.labels.tolist())) == [(5, 2), (3, 1)]


def test_the_best_of_an_image_and_label_are_kept():
    detections = table((1, 0.2, 7), (1, 0.9, 7), (1, 0.1, 8), (2, 0.3, 7))

    assert row_numbers(detections.best_per_image_and_label(1)) == [1, 2, 3]


def test_an_image_that_comes_again_counts_once():
    first = ImageDetections(np.ones((1, 4)), np.array([0.9]), np.array([1]))
    again = ImageDetections(np.ones((2, 4)), np.array([0.8, 0.7]), np.array([1, 1]))

    within = Detections.from_images([(6, first), (6, again)])
    across = join([within, Detections.from_images([(6, again), (7, again)])])

    assert within.counts.tolist() == [1]
    assert across.image_ids.tolist() == [6, 7]
    assert across.scores.tolist() == [0.9, 0.8, 0.7]


def test_nothing_at_all_is_handled():
    for empty in (Detections.empty(), Detections.from_images([]), join([]), table()):
        assert len(empty) == 0
        assert len(empty.by_image_id().best_per_label(3).best_per_image(3)) == 0


@given(
    rows=st.lists(
        st.tuples(st.integers(1, 6), st.sampled_from([0.1, 0.2, 0.3]), st.integers(1, 2)),
        max_size=40,
    ),
    limit=st.integers(1, 4),
)
def test_cutting_parts_and_then_their_union_gives_what_one_cut_gives(rows, limit):
    whole = table(*rows)
    parts = [
        whole.select(np.isin(whole.row_image_ids, ids)).best_per_label(limit)
        for ids in ([1, 4], [2, 6], [3, 5])
    ]
    rejoined = Detections.from_rows(
        *(
            np.concatenate([getattr(part, name) for part in parts])
            for name in ("row_image_ids", "boxes", "scores", "labels")
        )
    )

    once = whole.best_per_label(limit)
    assert row_numbers(rejoined.best_per_label(limit)) == row_numbers(once)


@given(
    st.lists(st.tuples(st.integers(1, 4), st.sampled_from([0.1, 0.5])), min_size=1, max_size=30),
    st.integers(1, 5),
)
def test_a_limit_per_image_agrees_with_sorting_each_image(rows, limit):
    detections = table(*((image, score, 1) for image, score in rows))

    kept = set(row_numbers(detections.best_per_image(limit)))

    for image in {image for image, _ in rows}:
        of_image = [n for n, (i, _) in enumerate(rows) if i == image]
        best = sorted(of_image, key=lambda n: -rows[n][1])[:limit]
        assert kept & set(of_image) == set(best)


def test_images_come_out_one_by_one():
    images = dict(table((1, 0.2, 7), (3, 0.9, 7), looked_at=[2]).image_rows())

    assert list(images) == [1, 2, 3]
    assert images[2].scores.shape == (0,)
    assert images[3].scores.tolist() == [pytest.approx(0.9)]
