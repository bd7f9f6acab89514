"""The shape of a COCO-style file: checked once, before anything relies on it."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from maskrcnn_benchmark.errors import DataError
from maskrcnn_benchmark.utils.json_files import list_of_entries

_SINGULAR = {"images": "image", "annotations": "annotation", "categories": "category"}
_IDS = {"images": ("id",), "annotations": ("image_id", "category_id"), "categories": ("id",)}
_LARGEST_ID = 2**63 - 1

Entries = list[Mapping[str, Any]]


def checked_content(
    content: Any, source: str, picture_fields: Sequence[str] = ()
) -> dict[str, Any]:
    """Content whose lists hold objects with ids, names and sizes of the right types.

    Two spellings become one: a whole number written as 3.0 or, for sizes, "3" is 3; a class named
    by a number is named by its digits. What annotations must have is left to their readers.

    Args:
        content: of the whole file; not changed.
        source: what messages call it.
        picture_fields: the first of them that an image has names its picture; empty: none is needed.
    Raises:
        DataError: naming the file and the entry.
    """
    lists: dict[str, Entries] = {"images": list_of_entries(content, "images", source)}
    for name in ("annotations", "categories"):
        if name in content:
            lists[name] = list_of_entries(content, name, source)
    for name, entries in lists.items():
        where = f"{source}: {_SINGULAR[name]}"
        if name != "annotations":
            _require(entries, "id", where)
        for key in _IDS[name]:
            entries = _whole_numbers(entries, key, where)
        if name != "annotations":
            _refuse_repeated_ids(entries, where)
        lists[name] = entries
    _check_pictures(lists["images"], picture_fields, f"{source}: image")
    for key in ("width", "height"):
        lists["images"] = _sizes(lists["images"], key, f"{source}: image")
    if "categories" in lists:
        lists["categories"] = _named(lists["categories"], f"{source}: category")
    _check_areas(lists.get("annotations", []), f"{source}: annotation")
    return {**content, **lists}


def shortened(entry: Any, limit: int = 120) -> str:
    """An entry as messages show it."""
    text = json.dumps(entry, default=str)
    return text if len(text) <= limit else text[:limit] + "..."


def _require(entries: Entries, key: str, where: str) -> None:
    for entry in entries:
        if key not in entry:
            raise DataError(f"{where} {shortened(entry)} lacks {key!r}")


def _whole_numbers(entries: Entries, key: str, where: str) -> Entries:
    # Files of millions of annotations are copied only if one of them needs a change.
    if all(
        type(entry[key]) is int and abs(entry[key]) <= _LARGEST_ID
        for entry in entries
        if key in entry
    ):
        return entries
    return [
        {**entry, key: _whole_number(entry, key, where)} if key in entry else entry
        for entry in entries
    ]


def _whole_number(entry: Mapping[str, Any], key: str, where: str) -> int:
    value = entry[key]
    whole = type(value) is int or (isinstance(value, float) and value.is_integer())
    if not whole or abs(value) > _LARGEST_ID:
        raise DataError(
            f"{where} {shortened(entry)}: {key!r} must be a whole number, got {value!r:.80}"
        )
    return int(value)


def _refuse_repeated_ids(entries: Entries, where: str) -> None:
    counts = Counter(entry["id"] for entry in entries)
    if len(counts) < len(entries):
        repeated, times = counts.most_common(1)[0]
        raise DataError(f"{where} id {repeated} occurs {times} times; ids must be unique")


def _check_pictures(images: Entries, fields: Sequence[str], where: str) -> None:
    for image in images if fields else ():
        field = next((field for field in fields if field in image), None)
        if field is None:
            raise DataError(f"{where} {shortened(image)} lacks {' and '.join(map(repr, fields))}")
        if not isinstance(image[field], str) or not image[field]:
            raise DataError(
                f"{where} {shortened(image)}: {field!r} must be a text, got {image[field]!r:.80}"
            )


def _sizes(images: Entries, key: str, where: str) -> Entries:
    # Flickr's files write sizes as texts.
    as_numbers = [
        {**image, key: int(image[key])} if _is_decimal(image.get(key)) else image
        for image in images
    ]
    return _whole_numbers(as_numbers, key, where)


def _is_decimal(value: Any) -> bool:
    return isinstance(value, str) and value.isascii() and value.isdigit()


def _named(categories: Entries, where: str) -> Entries:
    _require(categories, "name", where)
    for category in categories:
        name = category["name"]
        if isinstance(name, bool) or not isinstance(name, (str, int, float)):
            raise DataError(f"{where} {category['id']} needs a text as its name, got {name!r:.80}")
    return [{**category, "name": str(category["name"])} for category in categories]


def _check_areas(annotations: Entries, where: str) -> None:
    for annotation in annotations:
        if not isinstance(annotation.get("area"), (int, float, type(None))):
            raise DataError(
                f"{where} {shortened(annotation)}: 'area' must be a number, got "
                f"{annotation['area']!r:.80}"
            )
