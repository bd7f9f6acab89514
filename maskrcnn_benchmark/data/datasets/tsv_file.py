"""Rows of a TSV file by number."""

import base64
import binascii
import io
import json
import os
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from maskrcnn_benchmark.data.datasets.line_index import load_line_index
from maskrcnn_benchmark.data.image_files import (
    BrokenRecordError,
    UnreadableImageError,
    read_rgb,
)


class TSVFile:
    """Random access to the rows of a TSV file. Cheap to share among processes: each opens the file
    for itself.

    Args:
        path: the file; see `line_index` for its index.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.offsets: np.ndarray = load_line_index(self.path)
        self._file: BinaryIO | None = None
        self._owner = -1

    def __len__(self) -> int:
        return len(self.offsets)

    def columns(self, row: int) -> list[bytes]:
        """Columns of a row, surrounding blanks stripped.

        Raises:
            BrokenRecordError: the index does not point at the beginning of a row, or there are
                fewer than two columns.
        """
        begin = int(self.offsets[row])
        file = self._opened()
        # One byte earlier: it must be the end of the row before.
        file.seek(max(begin - 1, 0))
        if begin and file.read(1) != b"\n":
            raise BrokenRecordError(
                f"{self.path}: line {row + 1} of its index points into the middle of a row; delete "
                "the index files "
                "to rebuild them"
            )
        columns = [column.strip() for column in file.readline().split(b"\t")]
        if len(columns) < 2:
            raise BrokenRecordError(f"{self.path}: row {row + 1} has one column only")
        return columns

    def key(self, row: int) -> str:
        """First column of a row."""
        return self.columns(row)[0].decode("utf-8", errors="replace")

    def json(self, row: int) -> Any:
        """Second column of a row, decoded."""
        try:
            return json.loads(self.columns(row)[1])
        except ValueError as error:
            if isinstance(error, BrokenRecordError):
                raise
            raise BrokenRecordError(f"{self.path}: row {row + 1} is not JSON: {error}") from error

    def image_data(self, row: int) -> tuple[str, bytes]:
        """First column of a row, and its last one, an encoded picture, decoded from base64.

        Raises:
            UnreadableImageError: it is not base64.
        """
        columns = self.columns(row)
        try:
            data = base64.b64decode(columns[-1])
        except binascii.Error as error:
            raise UnreadableImageError(
                f"Image in row {row + 1} of {self.path} is not base64: {error}"
            ) from error
        return columns[0].decode("utf-8", errors="replace"), data

    def image(self, row: int) -> Image.Image:
        """The picture of a row as RGB."""
        return read_rgb(io.BytesIO(self.image_data(row)[1]), f"in row {row + 1} of {self.path}")

    def _opened(self) -> BinaryIO:
        # A file position shared with a forked process would be moved by it.
        if self._file is None or self._owner != os.getpid():
            self._file = self.path.open("rb")
            self._owner = os.getpid()
        return self._file

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None, "_owner": -1}
