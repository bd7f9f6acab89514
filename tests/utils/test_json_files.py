"""JSON files that are there, missing and broken."""

import pytest

from maskrcnn_benchmark.utils.json_files import list_of_entries, read_json


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


def test_a_list_of_entries_is_returned_as_it_is():
    rows = [{"id": 1}, {"id": 2}]

    assert list_of_entries({"images": rows}, "images", "a.json") is rows


@pytest.mark.parametrize("content", [None, [], {}, {"images": None}, {"images": {"1": {}}}])
def test_anything_but_a_list_of_entries_is_the_error_asked_for(content):
    with pytest.raises(LookupError, match=r"a\.json has no list 'images'"):
        list_of_entries(content, "images", "a.json", LookupError)


def test_an_entry_that_is_no_object_is_named_by_its_place():
    with pytest.raises(LookupError, match=r"a\.json: entry 1 of 'images' is 'x'"):
        list_of_entries({"images": [{}, "x"]}, "images", "a.json", LookupError)
