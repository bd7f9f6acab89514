"""The YAML file that ties the TSV files of a dataset together."""

import json
import logging
import re
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from maskrcnn_benchmark.data.datasets.id_index import IdIndex
from maskrcnn_benchmark.data.datasets.label_map import read_label_map
from maskrcnn_benchmark.data.datasets.record_source import RecordSource, cached_sizes
from maskrcnn_benchmark.data.datasets.tsv_file import TSVFile
from maskrcnn_benchmark.data.image_files import BrokenRecordError
from maskrcnn_benchmark.errors import ConfigError, DataError

logger = logging.getLogger(__name__)

_HEIGHT = re.compile(rb'"height"\s*:\s*"?(\d+)')
_WIDTH = re.compile(rb'"width"\s*:\s*"?(\d+)')
_PAIR = re.compile(rb"(\d+)[\s,]+(\d+)")


class TSVSource(RecordSource):
    """Pictures, labels and sizes of a dataset in TSV files.

    Keys of the YAML file: `img` (needed), `label`, `hw`, `linelist` (which rows to use, possibly
    repeated), `labelmap` or `jsondict`, `imageid2idx` (then labels name their picture, instead of
    standing in the same row). A value is a path as it stands, or relative to the YAML file.

    Args:
        yaml_file: that file.
        clean_labels: read "clean_label" where the label path says "raw_label"
            (DATASETS.REPLACE_CLEAN_LABEL).
    Raises:
        FileNotFoundError, ConfigError, DataError: a file is missing or does not fit.
    """

    def __init__(self, yaml_file: str | Path, *, clean_labels: bool = False):
        self.path = Path(yaml_file)
        self._settings = self._read_yaml()
        if clean_labels and "label" in self._settings:
            label = self._settings["label"].replace("raw_label", "clean_label")
            self._settings["label"] = label
        self.images = TSVFile(self.file("img", needed=True))
        self.labels = self._tsv("label")
        self.hw = self._tsv("hw")
        self.image_row_of_id = self._id_index("imageid2idx")
        self._keys_differ = False
        self.rows = self._read_linelist()
        self._check_lengths()

    def __len__(self) -> int:
        if self.rows is not None:
            return len(self.rows)
        return len(self.labels if self.labels is not None else self.images)

    def row(self, index: int) -> int:
        """Row of the label file (and, without `imageid2idx`, of all files) of a sample."""
        return index if self.rows is None else int(self.rows[index])

    def where(self, index: int) -> str:
        return f"{self._records.path}: row {self.row(index) + 1}"

    def key(self, index: int) -> str:
        """Key of the record's row."""
        return self._records.key(self.row(index))

    def record(self, index: int) -> Any:
        """The record; an empty one where the set has pictures only."""
        return {} if self.labels is None else self.labels.json(self.row(index))

    def image_data(self, index: int) -> bytes:
        row = self.row(index)
        if self.image_row_of_id is not None:
            return self.images.image_data(self._named_row(index))[1]
        key, data = self.images.image_data(row)
        if self.labels is not None and not self._keys_differ and key != self.labels.key(row):
            self._keys_differ = True
            logger.warning(
                "%s: row %d is %r among the images and %r among the labels. Rows must correspond. "
                "This is said once.",
                self.path,
                row + 1,
                key,
                self.labels.key(row),
            )
        return data

    @property
    def _records(self) -> TSVFile:
        return self.images if self.labels is None else self.labels

    def _named_row(self, index: int) -> int:
        record = self.record(index)
        name = str(record.get("img_id")) if isinstance(record, dict) else None
        row = None if name is None else self.image_row_of_id.get(name)
        if row is None or row >= len(self.images):
            raise BrokenRecordError(
                f"{self.where(index)} names image {name!r}, which 'imageid2idx' lacks"
            )
        return row

    def file(self, key: str, *, needed: bool = False) -> Path | None:
        """Path that the YAML file gives for a key, or None."""
        value = self._settings.get(key)
        if value is None:
            if needed:
                raise DataError(f"{self.path} lacks the key {key!r}")
            return None
        for candidate in (Path(value), self.path.parent / value):
            if candidate.is_file():
                return candidate
        raise FileNotFoundError(f"{self.path}: {key} is {value}, which does not exist")

    def need_labels(self) -> None:
        """Refuse a set of pictures alone.

        Raises:
            DataError: the YAML file names no labels.
        """
        if self.labels is None:
            raise DataError(f"{self.path} lacks the key 'label'")

    def label_map(self) -> dict[str, int]:
        """Class name -> label in the order of the map file, background (0) last.

        Raises:
            DataError: the YAML file names no label map.
        """
        path = self.file("labelmap") or self.file("jsondict")
        if path is None:
            raise DataError(f"{self.path} lacks the key 'labelmap'")
        return read_label_map(path)

    def sizes(self) -> np.ndarray:
        """(num_samples, 2) heights and widths.

        Raises:
            ConfigError: the set does not say how large its pictures are.
        """
        if self.image_row_of_id is not None:
            sizes = cached_sizes(self.labels.path, _size_of_caption_record)
        elif self.hw is not None:
            sizes = cached_sizes(self.hw.path, _size_of_hw_record)
        else:
            raise ConfigError(
                f"{self.path} has no 'hw' file, so the sizes of its pictures are unknown: set "
                "DATALOADER.ASPECT_RATIO_GROUPING False"
            )
        return sizes if self.rows is None else sizes[self.rows]

    def _read_yaml(self) -> dict[str, Any]:
        if not self.path.is_file():
            raise FileNotFoundError(f"Dataset file {self.path} does not exist")
        try:
            settings = yaml.safe_load(self.path.read_text(encoding="utf-8"))
        except yaml.YAMLError as error:
            raise DataError(f"{self.path} is not valid YAML: {error}") from error
        if not isinstance(settings, dict):
            raise DataError(f"{self.path} must be a mapping with the key 'img'")
        return settings

    def _tsv(self, key: str) -> TSVFile | None:
        path = self.file(key)
        return None if path is None else TSVFile(path)

    def _id_index(self, key: str) -> IdIndex | None:
        path = self.file(key)
        return None if path is None else IdIndex(path)

    def _read_linelist(self) -> np.ndarray | None:
        path = self.file("linelist")
        if path is None:
            return None
        try:
            return np.array(path.read_bytes().split(), dtype=np.int64)
        except ValueError as error:
            raise DataError(f"{path} must hold one row number per line: {error}") from error

    def _check_lengths(self) -> None:
        if self.image_row_of_id is not None:
            if self.labels is None:
                raise DataError(f"{self.path}: 'imageid2idx' needs 'label'")
        else:
            for key, file in (("label", self.labels), ("hw", self.hw)):
                if file is not None and len(file) != len(self.images):
                    raise DataError(
                        f"{self.path}: {key} file {file.path} has {len(file)} rows, the images "
                        f"{self.images.path} have {len(self.images)}; rows must correspond"
                    )
        last = len(self.labels if self.labels is not None else self.images) - 1
        if (
            self.rows is not None
            and len(self.rows)
            and not 0 <= self.rows.min() <= self.rows.max() <= last
        ):
            raise DataError(f"{self.path}: 'linelist' names rows outside 0 to {last}")


def _size_of_hw_record(line: bytes, where: str) -> tuple[int, int]:
    value = line.split(b"\t")[-1]
    height, width = _HEIGHT.search(value), _WIDTH.search(value)
    if height and width:
        return int(height.group(1)), int(width.group(1))
    if pair := _PAIR.search(value):
        return int(pair.group(1)), int(pair.group(2))
    raise BrokenRecordError(f"{where} gives no height and width")


def _size_of_caption_record(line: bytes, where: str) -> tuple[int, int]:
    try:
        record = json.loads(line.split(b"\t")[-1])
        return int(record["img_h"]), int(record["img_w"])
    except (ValueError, KeyError, TypeError) as error:
        raise BrokenRecordError(f"{where} gives no img_h and img_w: {error!r}") from error
