"""Files that number classes, and files that number pictures."""

import json

import pytest

from maskrcnn_benchmark.data.datasets.id_index import IdIndex
from maskrcnn_benchmark.data.datasets.label_map import read_label_map


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("map.json", '{"dog": 1, "cat": 2}'),
        ("map.json", '{"label_to_idx": {"__background__": 0, "dog": 1, "cat": 2}}'),
        ("map.json", '{"0": "dog", "1": "cat"}'),
        ("map.json", '["dog", "cat"]'),
        ("map.tsv", "dog\tn01\ncat\tn02\n"),
        ("map.txt", "dog\ncat\n"),
    ],
)
def test_every_form_gives_labels_from_one_and_the_background_last(tmp_path, name, text):
    (tmp_path / name).write_text(text)

    labels = read_label_map(tmp_path / name)

    assert list(labels.items()) == [("dog", 1), ("cat", 2), ("__background__", 0)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"dog": 0}', "labels count from 1"),
        ("{", "no label map"),
        ('{"dog": [1]}', "no label map"),
    ],
)
def test_what_is_no_label_map_is_named(tmp_path, text, message):
    (tmp_path / "map.json").write_text(text)

    with pytest.raises(ValueError, match=message):
        read_label_map(tmp_path / "map.json")


def test_a_missing_label_map_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"map\.json"):
        read_label_map(tmp_path / "map.json")


def test_names_of_pictures_are_found_and_the_table_is_kept(tmp_path):
    path = tmp_path / "ids.json"
    path.write_text(json.dumps({f"picture {n}": n for n in range(50)}))

    first, second = IdIndex(path), IdIndex(path)

    assert len(second) == 50
    assert [second.get(f"picture {n}") for n in (0, 17, 49)] == [0, 17, 49]
    assert first.get("picture 50") is None
    assert (tmp_path / "ids.ids.npy").is_file()


def test_what_maps_no_names_to_rows_is_refused(tmp_path):
    (tmp_path / "ids.json").write_text("[1, 2]")

    with pytest.raises(ValueError, match="must map names of images to rows"):
        IdIndex(tmp_path / "ids.json")
