"""JSON lines in the form that `datasets.json_lines` describes."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from maskrcnn_benchmark.data.writers.output_file import write_bytes, write_json
from maskrcnn_benchmark.data.writers.sample import Sample, SampleWriter
from maskrcnn_benchmark.grounding.od_to_grounding import BACKGROUND_NAME


class JsonLinesWriter(SampleWriter):
    """Writes `<name>.jsonl` and, on request, the pictures below `<name>/`.

    Args:
        folder: where to.
        label_map: class name -> label from 1, for detection data; `<name>.labelmap.json` then
            numbers the classes from 0, as such files do.
        copy_pictures: without, lines name the pictures where they are.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        *,
        label_map: Mapping[str, int] | None = None,
        copy_pictures: bool = True,
    ):
        super().__init__()
        self.folder, self.name = Path(folder), name
        self.label_map = label_map
        self.copy_pictures = copy_pictures
        self._lines = self._output(self.folder / f"{name}.jsonl")
        self._copied: set[str] = set()

    def add(self, sample: Sample) -> None:
        height, width = sample.size
        line = {"filename": sample.file_name, "height": height, "width": width}
        if "id" in sample.record:
            line["id"] = sample.record["id"]
        line |= line_content(sample.record, self.label_map)
        if self.copy_pictures and sample.file_name not in self._copied:
            write_bytes(self.folder / self.name / sample.file_name, sample.load_image())
            self._copied.add(sample.file_name)
        self._lines.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")

    def close(self) -> None:
        self.written = [self._finish(self._lines)]
        if self.copy_pictures:
            self.written.append(self.folder / self.name)
        if self.label_map is not None:
            numbers = {
                str(label - 1): name
                for name, label in self.label_map.items()
                if name != BACKGROUND_NAME
            }
            labels = self.folder / f"{self.name}.labelmap.json"
            self.written.append(write_json(labels, numbers))


def line_content(record: Mapping[str, Any], label_map: Mapping[str, int] | None) -> dict[str, Any]:
    """The part of a line that says what the picture shows: `detection` or `grounding`."""
    if "caption" in record:
        return {"grounding": {"caption": record["caption"], "regions": _regions(record)}}
    instances = []
    for item in record.get("objects", []):
        if item.get("iscrowd"):
            continue  # such lines know no crowds
        instance = {"bbox": edges(item["rect"]), "category": item["class"]}
        if label_map is not None:
            instance["label"] = label_map[item["class"]] - 1
        instances.append(instance)
    return {"detection": {"instances": instances}}


def edges(box: Sequence[float]) -> list[float]:
    """Corners whose x2 and y2 are last pixels, as corners whose x2 and y2 are edges."""
    x1, y1, x2, y2 = box
    return [x1, y1, x2 + 1, y2 + 1]


def _regions(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One region per entry of a caption record: per box (v1) or per entity (v2)."""
    caption, boxes = record["caption"], record.get("bboxes", [])
    scores = record.get("scores") or [None] * len(boxes)
    regions = []
    for own, score, spans in zip(boxes, scores, record.get("tokens_positive", [])):
        nested = bool(own) and isinstance(own[0], (list, tuple))
        region = {
            "bbox": [edges(box) for box in own] if nested else edges(own),
            "phrase": " ".join(caption[begin:end] for begin, end in spans),
            "tokens_positive": spans,
        }
        regions.append(region if score is None else {**region, "score": score})
    return regions
