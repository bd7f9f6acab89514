"""Indices built ahead of training, by several processes."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from maskrcnn_benchmark.data.datasets.line_index import load_line_index
from maskrcnn_benchmark.data.datasets.webdataset_shards import ShardSource
from maskrcnn_benchmark.errors import DataError

_LINE_FILES = (".tsv", ".jsonl")


def build_indices(files: Sequence[str], workers: int) -> Iterator[int]:
    """Build the index of every file that has none; yields the number of samples of each, in order.

    Args:
        files: `.tar`, `.tsv` and `.jsonl` files.
        workers: processes.
    Raises:
        DataError: another kind of file, or a broken one.
    """
    if workers < 2:
        yield from map(_index, files)
        return
    with ProcessPoolExecutor(workers) as pool:
        yield from pool.map(_index, files)


def _index(path: str) -> int:
    if path.endswith(_LINE_FILES):
        return len(load_line_index(Path(path)))
    if not path.endswith(".tar"):
        raise DataError(f"{path} is neither .tar nor .tsv nor .jsonl")
    return len(ShardSource([path]))
