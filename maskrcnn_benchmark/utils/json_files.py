"""JSON files that users name, read with errors that say which file and what is wrong."""

import json
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
