"""A set by the name of its file."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maskrcnn_benchmark.config.file_search import find_files
from maskrcnn_benchmark.data.conversion.coco_source import CocoSource, FolderSource
from maskrcnn_benchmark.data.datasets.json_lines import JsonLinesSource
from maskrcnn_benchmark.data.datasets.label_map import read_label_map
from maskrcnn_benchmark.data.datasets.record_source import RecordSource
from maskrcnn_benchmark.data.datasets.tsv_source import TSVSource
from maskrcnn_benchmark.data.datasets.webdataset_shards import ShardSource
from maskrcnn_benchmark.errors import DataError
from maskrcnn_benchmark.utils.json_files import read_json


@dataclass(frozen=True)
class OpenedSet:
    """A set and what belongs to it.

    Attributes:
        kind: "coco", "folder", "tsv", "shards" or "json-lines".
        source: records and pictures.
        label_map: class name -> label from 1 (background, 0, may stand there); None: the set has
            captions, or its classes are not numbered.
        categories: COCO-style list of the classes where the set remembers one.
    """

    kind: str
    source: RecordSource
    label_map: dict[str, int] | None = None
    categories: list[dict[str, Any]] | None = None


def open_set(
    path: str, images: Sequence[str | Path] = (), label_map: str | Path | None = None
) -> OpenedSet:
    """Open a set by its ending.

    Args:
        path: `.json` (COCO, MDETR), `.yaml` (TSV), `.jsonl` (JSON lines), `.tar` (shards; ranges in
            braces, globs and folders of tar files as well), or a folder of pictures.
        images: folders of the pictures, for `.json` and `.jsonl`; default: the folder of the file.
        label_map: for detection data in shards and JSON lines; default: `<name>.labelmap.json`
            beside the file, where there is one.
    Raises:
        FileNotFoundError, DataError: something is missing or malformed.
    """
    suffix = Path(path).suffix.lower()
    folders = list(images) or [Path(path).parent]
    if suffix == ".json":
        source = CocoSource(path, folders)
        if source.has_captions:
            return OpenedSet("coco", source, categories=source.categories or None)
        return OpenedSet("coco", source, source.label_map(), source.categories)
    if suffix in (".yaml", ".yml"):
        tsv = TSVSource(path)
        labels = tsv.file("labelmap") or tsv.file("jsondict")
        return OpenedSet("tsv", tsv, *_classes(labels))
    if suffix == ".jsonl":
        labels = _label_file(path, label_map)
        numbers, categories = _classes(labels)
        if len(folders) > 1:
            raise DataError(f"{path}: the pictures of JSON lines lie in one folder, not {folders}")
        return OpenedSet(
            "json-lines", JsonLinesSource(path, folders[0], numbers), numbers, categories
        )
    if suffix == ".tar" or _has_shards(path):
        shards = find_files(path)
        labels = _label_file(shards[0], label_map)
        return OpenedSet("shards", ShardSource(shards), *_classes(labels))
    if Path(path).is_dir():
        return OpenedSet("folder", FolderSource(path))
    if not Path(path).exists():
        raise FileNotFoundError(f"{path} does not exist")
    raise DataError(
        f"{path} is no set: name a .json, .yaml, .jsonl or .tar file, or a folder of pictures"
    )


def _has_shards(path: str) -> bool:
    return path.endswith("}.tar") or (Path(path).is_dir() and any(Path(path).glob("*.tar")))


def _label_file(path: str, given: str | Path | None) -> Path | None:
    if given is not None:
        return Path(given)
    # Shards are called <name>-000000.tar.
    stem = Path(path).stem
    names = (stem, stem.rpartition("-")[0])
    beside = (Path(path).with_name(f"{name}.labelmap.json") for name in names if name)
    return next((file for file in beside if file.is_file()), None)


def _classes(
    labels: Path | None,
) -> tuple[dict[str, int] | None, list[dict[str, Any]] | None]:
    if labels is None:
        return None, None
    content = read_json(labels, "label map") if labels.suffix == ".json" else None
    categories = content.get("categories") if isinstance(content, dict) else None
    return read_label_map(labels), categories
