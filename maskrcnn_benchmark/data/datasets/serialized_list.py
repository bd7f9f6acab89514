"""A long list of small records that loader workers can share."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np


class SerializedList(Sequence):
    """Immutable list of JSON-able items kept as one array of bytes.

    A list of Python objects is copied page by page into every worker as soon as reference counts
    are touched; one array is not, and needs a fraction of the memory.
    """

    def __init__(self, items: Iterable[Any]):
        pieces = [json.dumps(item, separators=(",", ":")).encode() for item in items]
        self._ends = np.cumsum([len(piece) for piece in pieces], dtype=np.int64)
        self._bytes = np.frombuffer(b"".join(pieces), dtype=np.uint8)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> Any:
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} of a list of {len(self)}")
        index %= len(self)
        begin = int(self._ends[index - 1]) if index else 0
        return json.loads(self._bytes[begin : int(self._ends[index])].tobytes())
