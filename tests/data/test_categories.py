"""Class ids of files and labels."""

import logging

import pytest

from maskrcnn_benchmark.data.datasets.categories import read_categories


def categories(**names):
    return [{"id": int(i[1:]), "name": name} for i, name in names.items()]


def test_labels_follow_ascending_ids_whatever_the_order_of_the_file(caplog):
    with caplog.at_level(logging.WARNING):
        shuffled = read_categories(categories(_9="cow", _2="dog"), {2, 9}, "my.json")
    in_order = read_categories(categories(_2="dog", _9="cow"), {2, 9}, "my.json")

    assert shuffled == in_order
    assert in_order.names == {1: "dog", 2: "cow"}
    assert in_order.json_to_label == {2: 1, 9: 2}
    assert in_order.label_to_json == {1: 2, 2: 9}
    assert "my.json does not list its categories by ascending id" in caplog.text


def test_an_unused_id_zero_is_background_and_a_used_one_is_a_class():
    roboflow = categories(_0="pieces", _1="pawn")

    assert read_categories(roboflow, {1}, "f").foreground == {2: "pawn"}
    assert read_categories(roboflow, {0, 1}, "f").foreground == {1: "pieces", 2: "pawn"}


def test_background_by_name_is_never_asked_for():
    table = read_categories(categories(_0="__background__", _1="pawn"), {0, 1}, "f")

    assert table.foreground == {2: "pawn"}
    assert table.names == {1: "__background__", 2: "pawn"}


def test_an_override_gives_the_names():
    table = read_categories(
        categories(_1="Cottontail-Rabbit"), {1}, "f", override=categories(_1="rabbit")
    )

    assert table.names == {1: "rabbit"}


def test_an_override_with_an_unknown_id_is_refused():
    with pytest.raises(ValueError, match=r"names .*'id': 3.* f has no category"):
        read_categories(categories(_1="a"), {1}, "f", override=categories(_1="a", _3="b"))


def test_an_override_that_lacks_a_used_class_is_refused():
    with pytest.raises(ValueError, match=r"category id 2, which DATASETS\.OVERRIDE_CATEGORY lack"):
        read_categories(categories(_1="a", _2="b"), {1, 2}, "f", override=categories(_1="a"))


def test_annotations_of_an_unlisted_class_are_refused():
    with pytest.raises(ValueError, match="category id 5, which its categories lack"):
        read_categories(categories(_1="a"), {1, 5}, "f")


def test_equal_names_are_reported(caplog):
    with caplog.at_level(logging.WARNING):
        read_categories(categories(_1="raccoon", _2="raccoon"), {1}, "f")

    assert "labels 1 and 2 have the same name 'raccoon'" in caplog.text
