"""Lines of a file by number."""

import os
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from maskrcnn_benchmark.data.image_files import BrokenRecordError


class RowReader:
    """Random access to lines. Cheap to share among processes: each opens the file for itself.

    Args:
        path: the file.
        offsets: where its lines begin, see `line_index`.
    """

    def __init__(self, path: Path, offsets: np.ndarray):
        self.path = path
        self.offsets = offsets
        self._file: BinaryIO | None = None
        self._owner = -1

    def __len__(self) -> int:
        return len(self.offsets)

    def read(self, row: int) -> bytes:
        """One line, its end included.

        Raises:
            BrokenRecordError: the index does not point at the beginning of a line.
        """
        begin = int(self.offsets[row])
        file = self._opened()
        # One byte earlier: it must be the end of the line before.
        file.seek(max(begin - 1, 0))
        if begin and file.read(1) != b"\n":
            raise BrokenRecordError(
                f"{self.path}: line {row + 1} of its index points into the middle of a row; delete "
                "the index files to rebuild them"
            )
        return file.readline()

    def _opened(self) -> BinaryIO:
        # A file position shared with a forked process would be moved by it.
        if self._file is None or self._owner != os.getpid():
            self._file = self.path.open("rb")
            self._owner = os.getpid()
        return self._file

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None, "_owner": -1}
