"""Files that number the classes of a detection set."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from maskrcnn_benchmark.errors import DataError
from maskrcnn_benchmark.grounding.od_to_grounding import BACKGROUND_NAME


def read_label_map(path: str | Path) -> dict[str, int]:
    """Class name -> label in the order of the file, background (0) last.

    Known forms: JSON `{"dog": 1, ...}`, labels from 1, or the same below "label_to_idx"; JSON
    `{"0": "dog", ...}` or `["dog", ...]`, numbers from 0 (label map of JSON lines: label = number +
    1); text with one name per line, a further column ignored.

    Raises:
        FileNotFoundError: there is no such file.
        DataError: it has another form, or gives label 0 to a class.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"Label map {path} does not exist")
    named = {
        name: label for name, label in _read(path).items() if name not in (BACKGROUND_NAME, "")
    }
    if 0 in named.values():
        raise DataError(f"{path}: label 0 stands for the background; labels count from 1")
    return {**named, BACKGROUND_NAME: 0}


def _read(path: Path) -> dict[str, int]:
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".json":
        lines = text.splitlines()
        return {line.split("\t")[0].strip(): i + 1 for i, line in enumerate(lines)}
    try:
        content = json.loads(text)
        if isinstance(content, list):
            return {str(name): i + 1 for i, name in enumerate(content)}
        content = content.get("label_to_idx", content)
        if _is_number_to_name(content):
            return {name: int(number) + 1 for number, name in content.items()}
        return {name: int(label) for name, label in content.items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise DataError(
            f'{path} is no label map: it must be JSON such as {{"dog": 1, "cat": 2}} or '
            f'{{"0": "dog", "1": "cat"}} ({error})'
        ) from error


def _is_number_to_name(content: Mapping[str, Any]) -> bool:
    return bool(content) and all(
        key.isdecimal() and isinstance(value, str) and not value.isdecimal()
        for key, value in content.items()
    )
