"""Rows of a TSV file by number."""

import base64
import binascii
import io
import json
from pathlib import Path
from typing import Any

from PIL import Image

from maskrcnn_benchmark.data.datasets.line_index import load_line_index
from maskrcnn_benchmark.data.datasets.row_reader import RowReader
from maskrcnn_benchmark.data.image_files import (
    BrokenRecordError,
    UnreadableImageError,
    read_rgb,
)


class TSVFile(RowReader):
    """Random access to the rows of a TSV file.

    Args:
        path: the file; see `line_index` for its index.
    """

    def __init__(self, path: str | Path):
        super().__init__(Path(path), load_line_index(Path(path)))

    def columns(self, row: int) -> list[bytes]:
        """Columns of a row, surrounding blanks stripped.

        Raises:
            BrokenRecordError: the index does not point at the beginning of a row, or there are
                fewer than two columns.
        """
        columns = [column.strip() for column in self.read(row).split(b"\t")]
        if len(columns) < 2:
            raise BrokenRecordError(f"{self.path}: row {row + 1} has one column only")
        return columns

    def key(self, row: int) -> str:
        """First column of a row."""
        return self.columns(row)[0].decode("utf-8", errors="replace")

    def json(self, row: int) -> Any:
        """Second column of a row, decoded."""
        value = self.columns(row)[1]
        try:
            return json.loads(value)
        except ValueError as error:
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
