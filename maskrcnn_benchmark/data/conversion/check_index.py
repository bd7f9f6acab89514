"""Indices against the files that they belong to."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from maskrcnn_benchmark.data.datasets.json_lines import JsonLinesSource
from maskrcnn_benchmark.data.datasets.line_index import scan_lines
from maskrcnn_benchmark.data.datasets.record_source import RecordSource
from maskrcnn_benchmark.data.datasets.row_reader import RowReader
from maskrcnn_benchmark.data.datasets.tar_index import build_index, index_path
from maskrcnn_benchmark.data.datasets.tsv_source import TSVSource
from maskrcnn_benchmark.data.datasets.webdataset_shards import ShardSource


def index_problems(source: RecordSource) -> Iterator[str]:
    """One text for each index that disagrees with its file, naming the first wrong entry."""
    if isinstance(source, ShardSource):
        for number, shard in enumerate(source.shards):
            yield from _compare(
                source.places(number)[:, :6], build_index(shard)[:, :6], index_path(shard)
            )
        return
    readers: list[RowReader] = []
    if isinstance(source, TSVSource):
        readers = [file for file in (source.images, source.labels, source.hw) if file is not None]
    elif isinstance(source, JsonLinesSource):
        readers = [source.lines]
    for reader in readers:
        index = reader.path.with_suffix(".lineidx")
        yield from _compare(np.asarray(reader.offsets), scan_lines(reader.path), index)


def _compare(kept: np.ndarray, right: np.ndarray, index: Path) -> Iterator[str]:
    if len(kept) != len(right):
        yield f"{index} has {len(kept)} entries, its file {len(right)}; delete it to rebuild it"
        return
    wrong = np.flatnonzero((kept != right).reshape(len(kept), -1).any(axis=1))
    if len(wrong):
        yield (
            f"{index}: {len(wrong)} of {len(kept)} entries are wrong (first: line {wrong[0] + 1}); "
            "delete it and its .npy copy to rebuild them"
        )
