"""The YAML file that ties the TSV files of a dataset together."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from maskrcnn_benchmark.data.datasets.line_index import is_fresh, save_array
from maskrcnn_benchmark.data.datasets.tsv_file import BrokenRecordError, TSVFile
from maskrcnn_benchmark.grounding.od_to_grounding import BACKGROUND_NAME

_HEIGHT = re.compile(rb'"height"\s*:\s*"?(\d+)')
_WIDTH = re.compile(rb'"width"\s*:\s*"?(\d+)')
_PAIR = re.compile(rb"(\d+)[\s,]+(\d+)")


class TSVSource:
    """Pictures, labels and sizes of a dataset in TSV files.

    Keys of the YAML file: `img` (needed), `label`, `hw`, `linelist` (which rows to use, possibly
        repeated), `labelmap` or
    `jsondict`, `imageid2idx` (then labels name their picture, instead of standing in the same row).
    A value is a path as it stands, or relative to the YAML file.

    Args:
        yaml_file: that file.
        clean_labels: read "clean_label" where the label path says "raw_label"
            (DATASETS.REPLACE_CLEAN_LABEL).
    Raises:
        FileNotFoundError, ValueError: a file is missing or does not fit.
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
        self.image_row_of_id = self._read_json("imageid2idx")
        self.rows = self._read_linelist()
        self._check_lengths()

    def __len__(self) -> int:
        if self.rows is not None:
            return len(self.rows)
        return len(self.labels if self.labels is not None else self.images)

    def row(self, index: int) -> int:
        """Row of the label file (and, without `imageid2idx`, of all files) of a sample."""
        return index if self.rows is None else int(self.rows[index])

    def file(self, key: str, *, needed: bool = False) -> Path | None:
        """Path that the YAML file gives for a key, or None."""
        value = self._settings.get(key)
        if value is None:
            if needed:
                raise ValueError(f"{self.path} lacks the key {key!r}")
            return None
        for candidate in (Path(value), self.path.parent / value):
            if candidate.is_file():
                return candidate
        raise FileNotFoundError(f"{self.path}: {key} is {value}, which does not exist")

    def label_map(self) -> dict[str, int]:
        """Class name -> label in the order of the map file, background (0) last.

        Raises:
            ValueError: the YAML file names no label map.
        """
        path = self.file("labelmap") or self.file("jsondict")
        if path is None:
            raise ValueError(f"{self.path} lacks the key 'labelmap'")
        if path.suffix == ".json":
            content = json.loads(path.read_text(encoding="utf-8"))
            names = content.get("label_to_idx", content)
        else:
            lines = path.read_text(encoding="utf-8").splitlines()
            names = {line.split("\t")[0].strip(): i + 1 for i, line in enumerate(lines)}
        named = {name: int(label) for name, label in names.items() if name != BACKGROUND_NAME}
        if 0 in named.values():
            raise ValueError(f"{path}: label 0 stands for the background; labels count from 1")
        return {**named, BACKGROUND_NAME: 0}

    def sizes(self) -> np.ndarray:
        """(num_samples, 2) heights and widths.

        Raises:
            ValueError: the set does not say how large its pictures are.
        """
        if self.image_row_of_id is not None:
            sizes = self._cached_sizes(self.labels, _size_of_caption_record)
        elif self.hw is not None:
            sizes = self._cached_sizes(self.hw, _size_of_hw_record)
        else:
            raise ValueError(
                f"{self.path} has no 'hw' file, so the sizes of its pictures are unknown: set "
                "DATALOADER.ASPECT_RATIO_GROUPING False"
            )
        return sizes if self.rows is None else sizes[self.rows]

    def _cached_sizes(self, file: TSVFile, size_of) -> np.ndarray:
        cache = file.path.with_suffix(".sizes.npy")
        if is_fresh(cache, file.path):
            return np.load(cache, mmap_mode="r")
        with file.path.open("rb") as rows:
            sizes = [size_of(line, f"{file.path}: row {i + 1}") for i, line in enumerate(rows)]
        array = np.array(sizes, dtype=np.int32).reshape(-1, 2)
        save_array(cache, array)
        return array

    def _read_yaml(self) -> dict[str, Any]:
        if not self.path.is_file():
            raise FileNotFoundError(f"Dataset file {self.path} does not exist")
        settings = yaml.safe_load(self.path.read_text(encoding="utf-8"))
        if not isinstance(settings, dict):
            raise ValueError(f"{self.path} must be a mapping with the key 'img'")
        return settings

    def _tsv(self, key: str) -> TSVFile | None:
        path = self.file(key)
        return None if path is None else TSVFile(path)

    def _read_json(self, key: str) -> dict[str, int] | None:
        path = self.file(key)
        return None if path is None else json.loads(path.read_text(encoding="utf-8"))

    def _read_linelist(self) -> np.ndarray | None:
        path = self.file("linelist")
        if path is None:
            return None
        try:
            return np.array(path.read_bytes().split(), dtype=np.int64)
        except ValueError as error:
            raise ValueError(f"{path} must hold one row number per line: {error}") from error

    def _check_lengths(self) -> None:
        if self.image_row_of_id is not None:
            if self.labels is None:
                raise ValueError(f"{self.path}: 'imageid2idx' needs 'label'")
        else:
            for key, file in (("label", self.labels), ("hw", self.hw)):
                if file is not None and len(file) != len(self.images):
                    raise ValueError(
                        f"{self.path}: {key} file {file.path} has {len(file)} rows, the images "
                        f"{self.images.path} have {len(self.images)}; rows must correspond"
                    )
        last = len(self.labels if self.labels is not None else self.images) - 1
        if (
            self.rows is not None
            and len(self.rows)
            and not 0 <= self.rows.min() <= self.rows.max() <= last
        ):
            raise ValueError(f"{self.path}: 'linelist' names rows outside 0 to {last}")


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
