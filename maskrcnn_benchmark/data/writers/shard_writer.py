"""WebDataset shards with the index that the datasets read them by."""

import json
import tarfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from maskrcnn_benchmark.data.datasets.tar_index import (
    HEADER_BYTES,
    PICTURE_ENDINGS,
    SamplePlace,
    write_index,
)
from maskrcnn_benchmark.data.writers.output_file import OutputFile, write_json
from maskrcnn_benchmark.data.writers.sample import Sample, SampleWriter

_END = b"\0" * (2 * HEADER_BYTES)


class ShardWriter(SampleWriter):
    """Writes `<name>-000000.tar`, `<name>-000001.tar`, ... and their indices.

    Shards that are finished stay when a later one fails.

    Args:
        folder: where to.
        label_map: content of `<name>.labelmap.json`, for detection data.
        max_samples, max_bytes: a shard ends when it holds so much.
        first: number of the first shard.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        *,
        label_map: Mapping[str, Any] | None = None,
        max_samples: int = 10_000,
        max_bytes: int = 1 << 30,
        first: int = 0,
    ):
        super().__init__()
        self.folder, self.name = Path(folder), name
        self.label_map = label_map
        self.max_samples, self.max_bytes = max_samples, max_bytes
        self._number = first
        self._tar: OutputFile | None = None
        self._places: list[SamplePlace] = []
        self._keys: set[str] = set()

    def add(self, sample: Sample) -> None:
        if self._tar is None:
            self._tar = self._output(self.folder / f"{self.name}-{self._number:06d}.tar")
        key = self._member_key(sample.key)
        ending = PurePosixPath(sample.file_name).suffix.lower().removeprefix(".")
        picture = sample.load_image()
        record = json.dumps(dict(sample.record), ensure_ascii=False).encode()
        image_at = self._member(f"{key}.{ending if ending in PICTURE_ENDINGS else 'jpg'}", picture)
        record_at = self._member(f"{key}.json", record)
        height, width = sample.size
        self._places.append(
            SamplePlace(image_at, len(picture), record_at, len(record), height=height, width=width)
        )
        if len(self._places) >= self.max_samples or self._tar.position >= self.max_bytes:
            self._finish_shard()

    def close(self) -> None:
        if self._tar is not None:
            self._finish_shard()
        if self.label_map is not None:
            labels = self.folder / f"{self.name}.labelmap.json"
            self.written.append(write_json(labels, self.label_map))

    def _member_key(self, key: str) -> str:
        # The first dot would end the key, and equal keys in a row are one sample.
        key = key.replace(".", "_")
        number = 1
        while (unique := key if number == 1 else f"{key}-{number}") in self._keys:
            number += 1
        self._keys.add(unique)
        return unique

    def _member(self, name: str, data: bytes) -> int:
        """Append a member; returns where its content begins."""
        info = tarfile.TarInfo(name)
        info.size = len(data)
        self._tar.write(info.tobuf(format=tarfile.PAX_FORMAT))
        begin = self._tar.write(data)
        self._tar.write(b"\0" * (-len(data) % HEADER_BYTES))
        return begin

    def _finish_shard(self) -> None:
        self._tar.write(_END)
        path = self._finish(self._tar)
        write_index(path, self._places)
        self.written.append(path)
        self._tar, self._places, self._keys = None, [], set()
        self._number += 1
