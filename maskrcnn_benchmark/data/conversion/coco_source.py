"""COCO JSON (MDETR-style captions included) and folders of pictures, read as records."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from maskrcnn_benchmark.data.datasets.annotation_file import load_coco_json
from maskrcnn_benchmark.data.datasets.record_source import RecordSource
from maskrcnn_benchmark.data.datasets.tar_index import PICTURE_ENDINGS, picture_size
from maskrcnn_benchmark.data.image_files import BrokenRecordError
from maskrcnn_benchmark.utils.box_values import is_box

_OWN_KEYS = frozenset({"id", "file_name", "height", "width", "caption"})


class FileSource(RecordSource):
    """Pictures that are files.

    Args:
        folders: where they are looked for, in this order.
    """

    def __init__(self, folders: Sequence[str | Path]):
        self.folders = [Path(folder) for folder in folders]

    def file_name(self, index: int) -> str:
        """Name of the picture, relative to a folder."""
        raise NotImplementedError

    def key(self, index: int) -> str:
        return self.file_name(index)

    def image_path(self, index: int) -> Path:
        """The picture's file.

        Raises:
            FileNotFoundError: no folder has it.
        """
        name = self.file_name(index)
        for folder in self.folders:
            if (folder / name).is_file():
                return folder / name
        raise FileNotFoundError(
            f"Image {name} of {self.where(index)} is in none of {', '.join(map(str, self.folders))}"
        )

    def image_data(self, index: int) -> bytes:
        return self.image_path(index).read_bytes()


class CocoSource(FileSource):
    """A COCO-style file as records, losslessly but for what stands outside of images, annotations
    and categories.

    Args:
        ann_file: the file. Entries with `caption` are captions, the others detection data.
        folders: where its pictures lie.

    Attributes:
        problems: what is wrong with the file as a whole, one text each.
    Raises:
        FileNotFoundError, DataError: it is missing or no such file.
    """

    def __init__(self, ann_file: str | Path, folders: Sequence[str | Path]):
        super().__init__(folders)
        self.path = Path(ann_file)
        content = load_coco_json(self.path)
        self.images = [image for image in content["images"] if isinstance(image, dict)]
        self.categories = [c for c in content.get("categories", []) if isinstance(c, dict)]
        self.has_captions = any("caption" in image for image in self.images)
        self._names = {c.get("id"): c.get("name") for c in self.categories}
        self.problems: list[str] = []
        self._annotations = self._group(content.get("annotations", []))
        self._check_ids()

    def __len__(self) -> int:
        return len(self.images)

    def where(self, index: int) -> str:
        return f"{self.path}: image {self.images[index].get('id')}"

    def file_name(self, index: int) -> str:
        name = self.images[index].get("file_name")
        if not isinstance(name, str) or not name:
            raise BrokenRecordError(f"{self.where(index)} has no file_name")
        return name

    def key(self, index: int) -> str:
        """The image id."""
        return str(self.images[index].get("id", index))

    def record(self, index: int) -> dict[str, Any]:
        entry, where = self.images[index], self.where(index)
        annotations = self._annotations.get(entry.get("id"), [])
        named = {key: entry[key] for key in ("id", "file_name") if key in entry}
        if not self.has_captions:
            return {**named, "objects": [self._object(a, where) for a in annotations]}
        if not isinstance(entry.get("caption"), str):
            raise BrokenRecordError(f"{where} has no caption")
        height, width = self.sizes_of(index)
        shown = [a for a in annotations if not a.get("iscrowd")]
        record = {
            **named,
            "version": "v1",
            "img_h": height,
            "img_w": width,
            "caption": entry["caption"],
            "bboxes": [_corners(a, where) for a in shown],
            "tokens_positive": [a.get("tokens_positive", a.get("tokens", [])) for a in shown],
            "category_ids": [a.get("category_id", 1) for a in shown],
            "entry": {key: value for key, value in entry.items() if key not in _OWN_KEYS},
        }
        if any("score" in a for a in shown):
            record["scores"] = [a.get("score", 1.0) for a in shown]
        return record

    def sizes_of(self, index: int) -> tuple[int, int]:
        """(height, width) that the file gives, else the picture itself; (0, 0) where neither."""
        entry = self.images[index]
        try:
            # Flickr's files write them as strings.
            return int(entry["height"]), int(entry["width"])
        except (KeyError, TypeError, ValueError):
            try:
                return picture_size(self.image_data(index))
            except FileNotFoundError:
                return 0, 0

    def sizes(self) -> np.ndarray:
        sizes = [self.sizes_of(index) for index in range(len(self))]
        return np.array(sizes, dtype=np.int32).reshape(-1, 2)

    def label_map(self) -> dict[str, int]:
        """Class name -> label: 1 + place among the classes sorted by id."""
        by_id = sorted(self.categories, key=lambda category: category["id"])
        return {category["name"]: place + 1 for place, category in enumerate(by_id)}

    def _object(self, annotation: dict[str, Any], where: str) -> dict[str, Any]:
        category = annotation.get("category_id")
        if category not in self._names:
            raise BrokenRecordError(f"{where}: category id {category!r} is not in the file")
        item = {"class": self._names[category], "rect": _corners(annotation, where)}
        item |= {key: annotation[key] for key in ("area", "segmentation") if annotation.get(key)}
        return {**item, "iscrowd": 1} if annotation.get("iscrowd") else item

    def _group(self, annotations: list[Any]) -> dict[Any, list[dict[str, Any]]]:
        groups: dict[Any, list[dict[str, Any]]] = defaultdict(list)
        known = {image.get("id") for image in self.images}
        lost = []
        for annotation in annotations:
            image_id = annotation.get("image_id")
            groups[image_id].append(annotation)
            if image_id not in known:
                lost.append(annotation.get("id"))
        if lost:
            self.problems.append(
                f"{len(lost)} annotations name an image that the file lacks (first: {lost[0]})"
            )
        return groups

    def _check_ids(self) -> None:
        for what, entries in (("image", self.images), ("category", self.categories)):
            counts = Counter(entry.get("id") for entry in entries)
            self.problems += [
                f"{what} id {entry_id!r} occurs {count} times"
                for entry_id, count in counts.items()
                if count > 1 or entry_id is None
            ]


class FolderSource(FileSource):
    """The pictures of a folder and its folders, sorted by name. `<picture>.txt` beside one, without
    the picture's ending, is its caption.

    Raises:
        FileNotFoundError: there is none.
    """

    def __init__(self, folder: str | Path):
        super().__init__([folder])
        self.path = Path(folder)
        self.names = sorted(
            str(path.relative_to(folder))
            for path in self.path.rglob("*")
            if path.suffix.lower().removeprefix(".") in PICTURE_ENDINGS
        )
        if not self.names:
            raise FileNotFoundError(f"{folder} holds no picture")
        self.has_captions = any(self._text(index).is_file() for index in range(len(self)))

    def __len__(self) -> int:
        return len(self.names)

    def where(self, index: int) -> str:
        return f"{self.path}: {self.names[index]}"

    def file_name(self, index: int) -> str:
        return self.names[index]

    def key(self, index: int) -> str:
        """The name without ending, folders joined by underscores."""
        return str(Path(self.names[index]).with_suffix("")).replace("/", "_")

    def record(self, index: int) -> dict[str, Any]:
        if not self.has_captions:
            return {"file_name": self.names[index], "objects": []}
        if not self._text(index).is_file():
            raise BrokenRecordError(f"{self.where(index)} has no caption beside it (.txt)")
        height, width = picture_size(self.image_data(index))
        caption = self._text(index).read_text(encoding="utf-8").strip()
        size = {"img_h": height, "img_w": width}
        return {"file_name": self.names[index], "version": "v1", **size, "caption": caption}

    def sizes(self) -> np.ndarray:
        sizes = [picture_size(self.image_data(index)) for index in range(len(self))]
        return np.array(sizes, dtype=np.int32).reshape(-1, 2)

    def _text(self, index: int) -> Path:
        return (self.path / self.names[index]).with_suffix(".txt")


def _corners(annotation: dict[str, Any], where: str) -> list[float]:
    box = annotation.get("bbox")
    if not is_box(box):
        raise BrokenRecordError(
            f"{where}: bbox of annotation {annotation.get('id')} must be four finite numbers, got "
            f"{box!r}"
        )
    x, y, width, height = box
    return [x, y, round(x + width - 1, 4), round(y + height - 1, 4)]
