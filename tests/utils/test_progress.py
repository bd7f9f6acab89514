"""Progress lines."""

import io

import pytest

from maskrcnn_benchmark.utils.progress import ProgressLine, duration


def test_the_end_is_always_shown_with_count_and_speed():
    stream = io.StringIO()
    progress = ProgressLine("reading", 10, "files", stream=stream, every=3600)

    for done in range(11):
        progress.update(done)
    progress.close()

    assert stream.getvalue().count("\n") == 1
    assert stream.getvalue().startswith("reading: 10/10 files, ")


def test_the_time_left_is_shown_where_the_total_is_known():
    known, unknown = io.StringIO(), io.StringIO()
    ProgressLine("x", 3, stream=known, every=0).update(1)
    ProgressLine("x", None, stream=unknown, every=0).update(1)

    assert unknown.getvalue().startswith("x: 1 samples")
    assert "left" not in unknown.getvalue()


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00:00"), (75.4, "0:01:15"), (7322, "2:02:02")]
)
def test_durations_are_written_as_clock_times(seconds, text):
    assert duration(seconds) == text
