"""JSON files that users name, read with errors that say which file and what is wrong."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from maskrcnn_benchmark.errors import DataError


def read_json(
    path: str | Path, what: str = "annotation file", error: type[Exception] = DataError
) -> Any:
    """Content of a JSON file.

    Args:
        what: what messages call it.
        error: raised if it is no JSON.

    Raises:
        FileNotFoundError: if it is not there.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{what} {path} does not exist")
    try:
        return json.loads(path.read_bytes())
    except ValueError as problem:
        raise error(f"{what} {path} is not valid JSON: {problem}") from problem


def list_of_entries(
    content: Any, key: str, source: str, error: type[Exception] = DataError
) -> list[Mapping[str, Any]]:
    """The list of objects that stands under a key of an annotation file.

    Args:
        content: of the whole file.
        source: what messages call it.
        error: raised if there is none.
    """
    rows = content.get(key) if isinstance(content, Mapping) else None
    if not isinstance(rows, list):
        raise error(f"{source} has no list {key!r}; is it an annotation file?")
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise error(f"{source}: entry {number} of {key!r} is {row!r:.80}; an object is needed")
    return rows
