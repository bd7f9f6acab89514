"""JSON lines: one picture a line, annotated as OpenGroundingDino's and MM-GroundingDINO's ODVG
files are.

    {"filename": "a.jpg", "height": 480, "width": 640,
     "detection": {"instances": [{"bbox": [x1, y1, x2, y2], "label": 0, "category": "dog"}]}}
    {"filename": "a.jpg", "height": 480, "width": 640,
     "grounding": {"caption": "a dog on grass", "regions": [
         {"bbox": [x1, y1, x2, y2], "phrase": "a dog", "tokens_positive": [[0, 5]], "score": 0.9}]}}

Corners are edges there (x2 = x1 + width); records of this package name the last pixel, which is one
less. A line may also hold a bare `caption`, or the fields of a caption record (`bboxes`,
`tokens_positive`, `scores`), whose corners are taken as they are.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from maskrcnn_benchmark.data.datasets.line_index import load_line_index
from maskrcnn_benchmark.data.datasets.record_source import RecordSource, cached_sizes
from maskrcnn_benchmark.data.datasets.row_reader import RowReader
from maskrcnn_benchmark.data.image_files import BrokenRecordError
from maskrcnn_benchmark.grounding.od_to_grounding import BACKGROUND_NAME
from maskrcnn_benchmark.utils.box_values import is_box

FILE_KEYS = ("filename", "file_name", "image")
_CAPTION_KEYS = ("caption", "text")


class JsonLinesSource(RecordSource):
    """Records in a file of JSON lines, pictures in a folder.

    Args:
        path: the file; its line index is kept beside it (see `line_index`).
        img_folder: the names of pictures are relative to it.
        label_map: class name -> label from 1, for files with "detection"; a line's `label` counts
            from 0.
    """

    def __init__(
        self, path: str | Path, img_folder: str | Path, label_map: Mapping[str, int] | None = None
    ):
        self.path = Path(path)
        self.img_folder = Path(img_folder)
        self.lines = RowReader(self.path, load_line_index(self.path))
        self._names = {
            label - 1: name for name, label in (label_map or {}).items() if name != BACKGROUND_NAME
        }

    def __len__(self) -> int:
        return len(self.lines)

    def where(self, index: int) -> str:
        return f"{self.path}: row {index + 1}"

    def key(self, index: int) -> str:
        """Name of the picture, relative to the folder."""
        line = self.line(index)
        name = next((line[key] for key in FILE_KEYS if key in line), None)
        if not isinstance(name, str) or not name:
            raise BrokenRecordError(f"{self.where(index)} names no picture ('filename')")
        return name

    def line(self, index: int) -> dict[str, Any]:
        """The line as it stands.

        Raises:
            BrokenRecordError: it is no JSON object.
        """
        return _parse(self.lines.read(index), self.where(index))

    def record(self, index: int) -> dict[str, Any]:
        """The line in the form of records: {"objects": ...} or {"caption": ..., "bboxes": ...}."""
        line, where = self.line(index), self.where(index)
        if "detection" in line:
            return {**_fields(line), "objects": self._objects(line["detection"], where)}
        if "grounding" in line:
            return {**_fields(line), **_grounding(line["grounding"], where)}
        caption = next((line[key] for key in _CAPTION_KEYS if key in line), None)
        if caption is None:
            raise BrokenRecordError(
                f"{where} has neither 'grounding' nor 'detection' nor 'caption'"
            )
        return {**_fields(line), **line, "caption": caption}

    def image_data(self, index: int) -> bytes:
        path = self.img_folder / self.key(index)
        try:
            return path.read_bytes()
        except FileNotFoundError:
            raise FileNotFoundError(
                f"Image {path} of {self.where(index)} does not exist. Is the image folder right?"
            ) from None

    def sizes(self) -> np.ndarray:
        return cached_sizes(self.path, _size_of_line)

    def _objects(self, detection: Any, where: str) -> list[dict[str, Any]]:
        instances = detection.get("instances") if isinstance(detection, Mapping) else None
        if not isinstance(instances, list):
            raise BrokenRecordError(f"{where}: 'detection' has no list 'instances'")
        return [
            {"class": self._class_name(item, where), "rect": last_pixels(item.get("bbox"), where)}
            for item in _mappings(instances, where)
        ]

    def _class_name(self, item: Mapping[str, Any], where: str) -> Any:
        if self._names and "label" in item:
            name = self._names.get(item["label"])
            if name is None:
                raise BrokenRecordError(f"{where}: label {item['label']!r} is not in the label map")
            return name
        return item.get("category")


def last_pixels(box: Any, where: str) -> list[float]:
    """Corners x1, y1, x2, y2 with x2 and y2 the last pixels instead of the edges behind them."""
    if not is_box(box):
        raise BrokenRecordError(f"{where}: bbox must be four finite numbers, got {box!r}")
    x1, y1, x2, y2 = box
    return [x1, y1, max(x2 - 1, x1), max(y2 - 1, y1)]


def _grounding(content: Any, where: str) -> dict[str, Any]:
    """Caption record, one entry per box."""
    caption = content.get("caption") if isinstance(content, Mapping) else None
    if not isinstance(caption, str):
        raise BrokenRecordError(f"{where}: 'grounding' has no caption")
    boxes: list[list[float]] = []
    scores: list[float] = []
    spans: list[list[list[int]]] = []
    for region in _mappings(content.get("regions", []), where):
        own = region.get("bbox")
        own = own if isinstance(own, list) and own and isinstance(own[0], list) else [own]
        score = region.get("score", 1.0)
        own_scores = score if isinstance(score, list) else [score] * len(own)
        if len(own_scores) != len(own):
            raise BrokenRecordError(
                f"{where}: a region has {len(own)} boxes and {len(own_scores)} scores"
            )
        own_spans = _spans(region, caption, where)
        boxes += [last_pixels(box, where) for box in own]
        scores += own_scores
        spans += [own_spans] * len(own)
    return {
        "version": "v1",
        "caption": caption,
        "bboxes": boxes,
        "scores": scores,
        "tokens_positive": spans,
    }


def _spans(region: Mapping[str, Any], caption: str, where: str) -> list[list[int]]:
    """Characters of a region's words: those given, else the first place of its phrase."""
    if region.get("tokens_positive"):
        return region["tokens_positive"]
    phrases = region.get("phrase")
    phrases = phrases if isinstance(phrases, list) else [phrases]
    spans = []
    for phrase in phrases:
        begin = caption.lower().find(phrase.lower()) if isinstance(phrase, str) and phrase else -1
        if begin < 0:
            raise BrokenRecordError(f"{where}: phrase {phrase!r} does not occur in its caption")
        spans.append([begin, begin + len(phrase)])
    return spans


def _mappings(items: Any, where: str) -> list[Mapping[str, Any]]:
    if not isinstance(items, list) or not all(isinstance(item, Mapping) for item in items):
        raise BrokenRecordError(f"{where}: a list of objects is expected, got {str(items)[:80]}")
    return items


def _fields(line: Mapping[str, Any]) -> dict[str, Any]:
    """What records have beside objects and captions."""
    fields = {"img_h": line.get("height"), "img_w": line.get("width"), "id": line.get("id")}
    return {key: value for key, value in fields.items() if value is not None}


def _parse(line: bytes, where: str) -> dict[str, Any]:
    try:
        content = json.loads(line)
    except ValueError as error:
        raise BrokenRecordError(f"{where} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise BrokenRecordError(f"{where} is no JSON object")
    return content


def _size_of_line(line: bytes, where: str) -> tuple[int, int]:
    content = _parse(line, where)
    try:
        return int(content["height"]), int(content["width"])
    except (KeyError, TypeError, ValueError) as error:
        raise BrokenRecordError(f"{where} gives no height and width: {error!r}") from error
