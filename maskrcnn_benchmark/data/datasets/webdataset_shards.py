"""WebDataset shards: tar files of pictures with their records, read in any order."""

import json
import logging
import os
from collections import OrderedDict
from collections.abc import Sequence
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np

from maskrcnn_benchmark.data.datasets.record_source import RecordSource
from maskrcnn_benchmark.data.datasets.tar_index import (
    HEADER_BYTES,
    ROW_BYTES,
    SamplePlace,
    build_index,
    index_is_fresh,
    index_path,
    read_index,
    size_in_record,
    write_index,
)
from maskrcnn_benchmark.data.image_files import BrokenRecordError
from maskrcnn_benchmark.errors import DataError

logger = logging.getLogger(__name__)

_OPEN_FILES = 32


class ShardSource(RecordSource):
    """Samples of several tar files, in the order of the files.

    Every sample can be read by its number, so the order of training is drawn over all shards, and a
    resumed run continues with exactly the samples that were left. Of the indices nothing stays in
    memory but their lengths: one sample costs one read of 64 bytes there.

    Args:
        shards: the files. An index is built beside each where there is none (see `tar_index`).
    Raises:
        FileNotFoundError: a shard is not there.
        DataError: a shard is no plain tar file, or there is not one sample.
    """

    def __init__(self, shards: Sequence[str | Path]):
        self.shards = [Path(shard) for shard in shards]
        self._in_memory: dict[int, np.ndarray] = {}
        self._files = FilePool()
        counts = [self._count(number) for number in range(len(self.shards))]
        empty = [shard for shard, count in zip(self.shards, counts) if not count]
        if len(empty) == len(self.shards):
            raise DataError(f"No sample in {len(empty)} shards ({', '.join(map(str, empty[:3]))})")
        if empty:
            logger.warning(
                "%d of %d shards hold no sample and are skipped (first: %s)",
                len(empty),
                len(counts),
                empty[0],
            )
        self._ends = np.cumsum(counts, dtype=np.int64)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def where(self, index: int) -> str:
        shard, place = self.locate(index)
        return f"{self.shards[shard]}: sample {place + 1}"

    def locate(self, index: int) -> tuple[int, int]:
        """(number of the shard, number of the sample in it)."""
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        shard = int(np.searchsorted(self._ends, index, side="right"))
        return shard, index - (int(self._ends[shard - 1]) if shard else 0)

    def key(self, index: int) -> str:
        """Name of the picture's member up to the first dot of its last part."""
        shard, place = self._place(index)
        header = self._files.read(self.shards[shard], place.image_offset - HEADER_BYTES, 500)
        name, prefix = header[:100].split(b"\0")[0], header[345:].split(b"\0")[0]
        if header[257:263] == b"ustar\0" and prefix:
            name = prefix + b"/" + name
        folder, slash, last = name.decode("utf-8", errors="replace").rpartition("/")
        return f"{folder}{slash}{last.partition('.')[0]}"

    def record(self, index: int) -> Any:
        """The `.json` member, with the caption of the `.txt` member where it has none."""
        shard, place = self._place(index)
        where = self.where(index)
        record: Any = {}
        if place.record_size:
            data = self._files.read(self.shards[shard], place.record_offset, place.record_size)
            try:
                record = json.loads(data)
            except ValueError as error:
                raise BrokenRecordError(f"{where} is not JSON: {error}") from error
        if not isinstance(record, dict):
            return record
        if place.text_size and not record.get("caption"):
            text = self._files.read(self.shards[shard], place.text_offset, place.text_size)
            record = {**record, "caption": text.decode("utf-8", errors="replace").strip()}
        # What states no size is about the picture as it is stored.
        height, width = size_in_record(record) or (place.height, place.width)
        return {"img_h": height, "img_w": width, **record}

    def image_data(self, index: int) -> bytes:
        shard, place = self._place(index)
        begin, size = place.image_offset - HEADER_BYTES, place.image_size + HEADER_BYTES
        data = self._files.read(self.shards[shard], begin, size)
        if data[257:262] != b"ustar" or _octal(data[124:136]) != place.image_size:
            raise BrokenRecordError(
                f"{self.where(index)}: its index points into the middle of a member; delete "
                f"{index_path(self.shards[shard])} to rebuild it"
            )
        return data[HEADER_BYTES:]

    def sizes(self) -> np.ndarray:
        """(num_samples, 2) heights and widths; (1, 1) for pictures that show none."""
        parts = [self.places(number)[:, 6:8] for number in range(len(self.shards))]
        sizes = np.concatenate(parts, dtype=np.int32, casting="same_kind")
        return np.where(sizes > 0, sizes, 1)

    def _place(self, index: int) -> tuple[int, SamplePlace]:
        shard, number = self.locate(index)
        if shard in self._in_memory:
            return shard, SamplePlace(*self._in_memory[shard][number].tolist())
        path = index_path(self.shards[shard])
        row = self._files.read(path, ROW_BYTES * (number + 1), ROW_BYTES)
        return shard, SamplePlace(*np.frombuffer(row, dtype="<i8").tolist())

    def _count(self, number: int) -> int:
        shard = self.shards[number]
        if not shard.is_file():
            raise FileNotFoundError(f"Shard {shard} does not exist")
        if not index_is_fresh(shard):
            places = build_index(shard)
            if not write_index(shard, places):
                self._in_memory[number] = places
                return len(places)
        return index_path(shard).stat().st_size // ROW_BYTES - 1

    def places(self, number: int) -> np.ndarray:
        """Index of one shard: (num_samples, 8) int64, columns as in `SamplePlace`."""
        if number in self._in_memory:
            return self._in_memory[number]
        rows = read_index(self.shards[number])
        if rows is None:
            raise BrokenRecordError(f"{self.shards[number]} has changed since it was opened")
        return rows


class FilePool:
    """Reads at given places of many files, of which the last used ones stay open.

    Reads name their place, so a pool may be shared with forked processes.
    """

    def __init__(self, most: int = _OPEN_FILES):
        self.most = most
        self._files: OrderedDict[Path, FileIO] = OrderedDict()

    def read(self, path: Path, offset: int, size: int) -> bytes:
        """So many bytes from there.

        Raises:
            BrokenRecordError: the file ends before.
        """
        if path not in self._files:
            self._files[path] = FileIO(path)
            if len(self._files) > self.most:
                self._files.popitem(last=False)[1].close()
        self._files.move_to_end(path)
        data = os.pread(self._files[path].fileno(), size, max(offset, 0))
        if len(data) < size:
            raise BrokenRecordError(f"{path} ends before byte {offset + size}; was it cut short?")
        return data

    def __getstate__(self) -> dict[str, Any]:
        return {"most": self.most, "_files": OrderedDict()}


def _octal(field: bytes) -> int:
    digits = field.rstrip(b"\0 ")
    return int(digits, 8) if digits.isdigit() else -1
