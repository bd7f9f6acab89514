"""The sets that benchmarks/data.py generates are what the datasets read."""

import numpy as np
import pytest

from benchmarks.data import (
    CAPTION,
    TEACHER,
    compare_pictures,
    generate,
    measure_labelling,
    open_plainly,
    open_source,
)
from tests.conftest import REPOSITORY


@pytest.mark.parametrize("kind", ["tsv", "json-lines", "shards"])
def test_every_generated_set_opens_with_its_records_and_sizes(tmp_path, kind):
    generate(kind, tmp_path, 30)

    source = open_source(kind, tmp_path)

    assert len(source) == 30
    assert source.record(29)["caption"] == CAPTION
    expected = np.random.default_rng(0).integers(200, 1000, (30, 2))
    assert np.array_equal(source.sizes(), expected)


def test_the_plain_way_finds_the_same_sizes(tmp_path):
    generate("tsv", tmp_path, 30)
    ours = open_source("tsv", tmp_path).sizes()

    offsets, sizes = open_plainly(tmp_path)

    assert [len(lines) for lines in offsets] == [30, 30, 30]
    assert np.array_equal(np.array(sizes), ours)


def test_pictures_of_both_ways_differ_by_rounding_only():
    rows = compare_pictures(rounds=1, repeats=1)

    assert all(row["by"] <= 1.001 and row["differ"] < 0.01 for row in rows)


def test_the_speed_of_labelling_is_that_of_a_teacher_that_runs(monkeypatch):
    monkeypatch.chdir(REPOSITORY)  # configurations name their files from there

    speed = measure_labelling(*TEACHER, pictures=2, batch=2)

    assert set(speed) == {"per_second", "per_cpu_second"}
    assert min(speed.values()) > 0
