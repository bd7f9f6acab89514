"""Names of pictures to rows, for millions of them."""

import hashlib
import json
from pathlib import Path

import numpy as np

from maskrcnn_benchmark.data.datasets.line_index import is_fresh, save_array
from maskrcnn_benchmark.errors import DataError


class IdIndex:
    """A JSON file {name: row}, kept as sorted 64-bit hashes beside it and memory-mapped.

    A dictionary of two million names costs every process 300 MB and seconds; this costs nothing.

    Args:
        path: the JSON file; `<path>.ids.npy` is written beside it.
    Raises:
        DataError: the file is no mapping of names to rows.
    """

    def __init__(self, path: Path):
        cache = path.with_suffix(".ids.npy")
        if is_fresh(cache, path):
            self._table = np.load(cache, mmap_mode="r")
            return
        self._table = _build(path)
        if save_array(cache, self._table):
            self._table = np.load(cache, mmap_mode="r")

    def get(self, name: str) -> int | None:
        """Row of a name; None where it is unknown."""
        hashes, rows = self._table
        wanted = _hash(name)
        place = int(np.searchsorted(hashes, wanted))
        return int(rows[place]) if place < len(hashes) and hashes[place] == wanted else None

    def __len__(self) -> int:
        return self._table.shape[1]


def _build(path: Path) -> np.ndarray:
    try:
        content = json.loads(path.read_bytes())
        hashes = np.array([_hash(name) for name in content], dtype=np.int64)
        rows = np.array([int(row) for row in content.values()], dtype=np.int64)
    except (ValueError, TypeError, AttributeError) as error:
        raise DataError(f"{path} must map names of images to rows: {error!r}") from error
    order = np.argsort(hashes)
    table = np.stack([hashes[order], rows[order]])
    if (np.diff(table[0]) == 0).any():
        raise DataError(f"{path}: two names share a hash; rename one of the images")
    return table


def _hash(name: str) -> int:
    return int.from_bytes(
        hashlib.blake2b(name.encode(), digest_size=8).digest(), "little", signed=True
    )
