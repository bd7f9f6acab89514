"""A set written again in another container."""

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from maskrcnn_benchmark.data.conversion.coco_source import FileSource
from maskrcnn_benchmark.data.conversion.open_set import OpenedSet
from maskrcnn_benchmark.data.datasets.json_lines import JsonLinesSource
from maskrcnn_benchmark.data.datasets.record_source import RecordSource
from maskrcnn_benchmark.data.datasets.tar_index import PICTURE_ENDINGS, picture_size
from maskrcnn_benchmark.data.image_files import BrokenSampleError, UnreadableImageError
from maskrcnn_benchmark.data.writers import (
    CocoWriter,
    JsonLinesWriter,
    Sample,
    SampleWriter,
    ShardWriter,
    TSVWriter,
)
from maskrcnn_benchmark.data.writers.coco_writer import categories_of
from maskrcnn_benchmark.errors import DataError
from maskrcnn_benchmark.grounding.od_to_grounding import BACKGROUND_NAME

logger = logging.getLogger(__name__)

TARGETS = ("tsv", "shards", "json-lines", "coco")
_ENDINGS = {b"\xff\xd8\xff": ".jpg", b"\x89PNG": ".png", b"RIFF": ".webp", b"BM": ".bmp"}


@dataclass
class Converted:
    """What a conversion did.

    Attributes:
        written: files to name when reading the set, the main one first.
        samples: how many were written.
        left_out: one text for each that was not, saying why.
    """

    written: list[Path] = field(default_factory=list)
    samples: int = 0
    left_out: list[str] = field(default_factory=list)


def convert_set(
    opened: OpenedSet,
    target: str,
    folder: Path,
    name: str,
    *,
    shard_samples: int = 10_000,
    copy_pictures: bool = True,
    strict: bool = False,
    on_sample: Callable[[int], None] = lambda done: None,
) -> Converted:
    """Write a set in another container.

    Samples whose record is broken or whose picture is missing or no picture are named in a warning,
    counted and left out.

    Args:
        target: one of `TARGETS`.
        folder, name: where to, and what the files are called.
        shard_samples: samples of one shard.
        copy_pictures: "json-lines" and "coco" write the pictures too; without, they name them where
            they are, which needs pictures that are files.
        strict: stop at the first broken sample instead.
        on_sample: called with the number of samples that are done.
    Raises:
        BrokenSampleError, FileNotFoundError: a broken sample, when `strict`.
        DatasetWriteError: the disk refuses; unfinished files are removed.
        ValueError: the target is unknown.
        DataError: this set cannot be written so.
    """
    if not copy_pictures and not isinstance(opened.source, (FileSource, JsonLinesSource)):
        raise DataError(f"the pictures of {opened.kind} are no files: they must be copied")
    result = Converted()
    with make_writer(
        opened, target, Path(folder), name, shard_samples=shard_samples, copy_pictures=copy_pictures
    ) as writer:
        for index in range(len(opened.source)):
            try:
                writer.add(read_sample(opened.source, index))
                result.samples += 1
            except (BrokenSampleError, FileNotFoundError) as error:
                if strict:
                    raise
                logger.warning("Left out: %s", error)
                result.left_out.append(str(error))
            on_sample(index + 1)
    result.written = writer.written
    return result


def make_writer(
    opened: OpenedSet,
    target: str,
    folder: Path,
    name: str,
    *,
    shard_samples: int = 10_000,
    copy_pictures: bool = True,
) -> SampleWriter:
    """The writer for a set of this kind; see `convert_set`."""
    if target == "tsv":
        return TSVWriter(
            folder,
            name,
            label_map=_numbered(opened),
            shared_pictures=has_captions(opened.source),
        )
    if target == "shards":
        return ShardWriter(folder, name, label_map=_numbered(opened), max_samples=shard_samples)
    if target == "json-lines":
        label_map = None if has_captions(opened.source) else opened.label_map
        return JsonLinesWriter(folder, name, label_map=label_map, copy_pictures=copy_pictures)
    if target == "coco":
        categories = opened.categories
        if categories is None and opened.label_map is not None:
            categories = categories_of(opened.label_map)
        if categories is None and not has_captions(opened.source):
            raise DataError("detection data become COCO JSON only with a label map (--label-map)")
        return CocoWriter(folder, name, categories=categories, copy_pictures=copy_pictures)
    raise ValueError(f"unknown container {target!r}; there are {', '.join(TARGETS)}")


def has_captions(source: RecordSource) -> bool:
    """Whether the records of a set are captions, judged by the first that can be read."""
    for record in _readable_records(source):
        return isinstance(record, dict) and "caption" in record
    return False


def read_sample(source: RecordSource, index: int) -> Sample:
    """One sample of a set, its picture checked as far as its head shows.

    Raises:
        BrokenSampleError, FileNotFoundError: it cannot be used.
    """
    record = source.record(index)
    if isinstance(record, list):
        record = {"objects": record}
    data = source.image_data(index)
    size = picture_size(data)
    if min(size) < 1:
        raise UnreadableImageError(f"Image of {source.where(index)} is no picture")
    file_name = _file_name(source, index, record, data)
    if "caption" in record:
        record = _in_pixels(record, size)
    else:
        record = {key: value for key, value in record.items() if key not in ("img_h", "img_w")}
    key = str(record["id"]) if "id" in record else source.key(index)
    return Sample(key, file_name, size, record, lambda: data)


def _in_pixels(record: Mapping[str, Any], size: tuple[int, int]) -> dict[str, Any]:
    """A caption record whose boxes are in pixels of a picture of (height, width)."""
    stated = record.get("img_h"), record.get("img_w")
    scaled = {**record, "img_h": size[0], "img_w": size[1]}
    if stated == size or not all(isinstance(side, int) and side > 0 for side in stated):
        return scaled
    ratios = size[1] / stated[1], size[0] / stated[0]

    def scale(box: Any) -> Any:
        if box and isinstance(box[0], (list, tuple)):
            return [scale(one) for one in box]
        return [round(value * ratio, 4) for value, ratio in zip(box, ratios * 2)]

    return {**scaled, "bboxes": [scale(box) for box in record.get("bboxes", [])]}


def _readable_records(source: RecordSource) -> Iterator[Any]:
    for index in range(len(source)):
        try:
            yield source.record(index)
        except BrokenSampleError:
            continue


def _file_name(source: RecordSource, index: int, record: Mapping[str, Any], data: bytes) -> str:
    if isinstance(source, FileSource):
        return source.file_name(index)
    name = str(record.get("file_name", record.get("img_id", source.key(index))))
    if Path(name).suffix.lower().removeprefix(".") in PICTURE_ENDINGS:
        return name
    ending = next((end for start, end in _ENDINGS.items() if data.startswith(start)), ".jpg")
    return f"{name}{ending}"


def _numbered(opened: OpenedSet) -> dict[str, Any] | None:
    """Content of a label map file that remembers the original categories."""
    label_map, categories = opened.label_map, opened.categories
    if label_map is None and categories is None:
        return None
    if label_map is None:  # captions: the categories are only remembered
        label_map = {category["name"]: n for n, category in enumerate(categories, start=1)}
    numbers = {name: n for name, n in label_map.items() if name != BACKGROUND_NAME}
    return {"label_to_idx": numbers} | ({"categories": categories} if categories else {})
