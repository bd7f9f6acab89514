"""JSON files that are there, missing and broken."""

import pytest

from maskrcnn_benchmark.utils.json_files import read_json


def test_content_is_returned(tmp_path):
    (tmp_path / "a.json").write_text('{"images": []}')

    assert read_json(tmp_path / "a.json") == {"images": []}
    assert read_json(str(tmp_path / "a.json")) == {"images": []}


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"result file .*gone\.json does not exist"):
        read_json(tmp_path / "gone.json", "result file")


def test_broken_content_is_the_error_asked_for(tmp_path):
    (tmp_path / "cut.json").write_text('{"images": [')

    with pytest.raises(LookupError, match=r"annotation file .*cut\.json is not valid JSON"):
        read_json(tmp_path / "cut.json", error=LookupError)
