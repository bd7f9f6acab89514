"""COCO JSON for detection data, MDETR-style JSON for captions, and a folder of pictures."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from maskrcnn_benchmark.data.writers.output_file import write_bytes, write_json
from maskrcnn_benchmark.data.writers.sample import Sample, SampleWriter
from maskrcnn_benchmark.grounding.od_to_grounding import BACKGROUND_NAME


class CocoWriter(SampleWriter):
    """Writes `<name>.json` and, on request, the pictures below `<name>/`. Entries are kept in
    memory until the end.

    Args:
        folder: where to.
        categories: the file's list of {"id", "name"}; None: `object` (1), as captions have it.
        copy_pictures: without, entries name the pictures where they are.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        *,
        categories: Sequence[Mapping[str, Any]] | None = None,
        copy_pictures: bool = True,
    ):
        super().__init__()
        self.folder, self.name = Path(folder), name
        chosen = [{"id": 1, "name": "object"}] if categories is None else categories
        self.categories = [dict(category) for category in chosen]
        self._category_ids = {category["name"]: category["id"] for category in self.categories}
        self.copy_pictures = copy_pictures
        self._images: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []
        self._ids: set[int] = set()
        self._copied: set[str] = set()

    def add(self, sample: Sample) -> None:
        height, width = sample.size
        image_id = self._new_id(sample.key)
        entry = {"id": image_id, "file_name": sample.file_name, "height": height, "width": width}
        record = sample.record
        if "caption" in record:
            entry |= {**record.get("entry", {}), "caption": record["caption"]}
            self._annotations += self._phrases(record, image_id)
        else:
            self._annotations += self._objects(record.get("objects", []), image_id)
        self._images.append(entry)
        if self.copy_pictures and sample.file_name not in self._copied:
            write_bytes(self.folder / self.name / sample.file_name, sample.load_image())
            self._copied.add(sample.file_name)

    def close(self) -> None:
        for number, annotation in enumerate(self._annotations, start=1):
            annotation["id"] = number
        content = {
            "images": self._images,
            "annotations": self._annotations,
            "categories": self.categories,
        }
        self.written.append(write_json(self.folder / f"{self.name}.json", content))
        if self.copy_pictures:
            self.written.append(self.folder / self.name)

    def _new_id(self, key: str) -> int:
        image_id = int(key) if key.isdecimal() else len(self._ids) + 1
        while image_id in self._ids:
            image_id += 1
        self._ids.add(image_id)
        return image_id

    def _objects(self, objects: Sequence[Mapping[str, Any]], image_id: int) -> list[dict[str, Any]]:
        return [
            {
                **annotation(item["rect"], image_id, self._category_ids[item["class"]]),
                **{key: item[key] for key in ("area", "iscrowd", "segmentation") if key in item},
            }
            for item in objects
        ]

    def _phrases(self, record: Mapping[str, Any], image_id: int) -> list[dict[str, Any]]:
        boxes, spans = record.get("bboxes", []), record.get("tokens_positive", [])
        scores = record.get("scores") or [None] * len(boxes)
        category_ids = record.get("category_ids") or [1] * len(boxes)
        annotations = []
        for own, own_spans, score, category in zip(boxes, spans, scores, category_ids):
            nested = bool(own) and isinstance(own[0], (list, tuple))
            for number, box in enumerate(own if nested else [own]):
                entry = annotation(box, image_id, category) | {"tokens_positive": own_spans}
                if score is not None:
                    entry["score"] = score[number] if nested else score
                annotations.append(entry)
        return annotations


def annotation(rect: Sequence[float], image_id: int, category_id: int) -> dict[str, Any]:
    """A COCO annotation (without id) of a box given by its corners, the last pixels included."""
    x1, y1, x2, y2 = rect
    width, height = round(x2 - x1 + 1, 4), round(y2 - y1 + 1, 4)
    return {
        "image_id": image_id,
        "category_id": category_id,
        "bbox": [x1, y1, width, height],
        "area": round(width * height, 4),
        "iscrowd": 0,
    }


def categories_of(label_map: Mapping[str, int]) -> list[dict[str, Any]]:
    """Categories of a label map, ids being the labels."""
    return [
        {"id": label, "name": name} for name, label in label_map.items() if name != BACKGROUND_NAME
    ]
