"""Where records (annotations of one picture each) and their pictures come from.

Datasets of captions and of labelled boxes read any container through this interface: TSV files,
shards, JSON lines. All containers hold the same records, described in docs/data_formats.md.
"""

import io
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from maskrcnn_benchmark.data.datasets.base import ImageDataset
from maskrcnn_benchmark.data.datasets.line_index import is_fresh, save_array
from maskrcnn_benchmark.data.image_files import BrokenRecordError, UnreadableImageError
from maskrcnn_benchmark.errors import DataError

logger = logging.getLogger(__name__)


class RecordSource(ABC):
    """Records and pictures by sample number.

    Cheap to send to loader workers: indices are memory-mapped or tiny, files are opened by each
    process for itself.
    """

    @abstractmethod
    def __len__(self) -> int:
        """Number of samples."""

    def row(self, index: int) -> int:
        """Place of a sample in its file, where a list of rows chooses or repeats some."""
        return index

    @abstractmethod
    def where(self, index: int) -> str:
        """What messages call the record: its file and place."""

    @abstractmethod
    def key(self, index: int) -> str:
        """Name of the picture."""

    @abstractmethod
    def record(self, index: int) -> Any:
        """The decoded record.

        Raises:
            BrokenRecordError: it cannot be decoded.
        """

    @abstractmethod
    def image_data(self, index: int) -> bytes:
        """The encoded picture.

        Raises:
            FileNotFoundError: it is not there.
            BrokenSampleError: it cannot be taken out of its container.
        """

    @abstractmethod
    def sizes(self) -> np.ndarray:
        """(num_samples, 2) heights and widths, without opening pictures where possible."""


class RecordDataset(ImageDataset):
    """What datasets over a `RecordSource` share.

    Args:
        name: what messages call the dataset.
        source: records and pictures.
    """

    def __init__(
        self,
        name: str,
        source: RecordSource,
        transforms: Callable | None,
        *,
        skip_broken: bool = False,
    ):
        super().__init__(name, transforms, skip_broken=skip_broken)
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    @property
    def id_to_img_map(self) -> dict[int, int]:
        """Sample number -> image id."""
        return {index: self.image_id(index) for index in range(len(self))}

    def image_id(self, index: int) -> int:
        """Number of the record's row: keys of web images are no numbers."""
        return self.source.row(index)

    def sizes(self) -> np.ndarray:
        return self.source.sizes()

    def read_image(self, index: int) -> Any:
        """The picture of a sample."""
        data = self.source.image_data(index)
        try:
            return self.read_picture(io.BytesIO(data), f"of {self.source.where(index)}")
        except UnreadableImageError as error:
            raise UnreadableImageError(f"{error} (key {self.source.key(index)!r})") from error


def cached_sizes(path: Path, size_of: Callable[[bytes, str], tuple[int, int]]) -> np.ndarray:
    """(num_rows, 2) int32 heights and widths of a file of lines, kept beside it as `.sizes.npy`.

    Rows that give no size are counted in a warning and stand as (1, 1): sizes only group pictures
    into batches, and a row that is broken is reported when it is read.

    Args:
        size_of: (height, width) of one line; the second argument is what messages call it.
    Raises:
        DataError: not one row gives a size.
    """
    cache = path.with_suffix(".sizes.npy")
    if is_fresh(cache, path):
        return np.load(cache, mmap_mode="r")
    sizes, broken = [], []
    with path.open("rb") as lines:
        for i, line in enumerate(lines):
            try:
                sizes.append(size_of(line, f"{path}: row {i + 1}"))
            except BrokenRecordError as error:
                broken.append(error)
                sizes.append((1, 1))
    if broken:
        if len(broken) == len(sizes):
            raise DataError(f"No row of {path} gives a size; the first: {broken[0]}")
        logger.warning(
            "%d of %d rows give no size of their picture (first: %s)",
            len(broken),
            len(sizes),
            broken[0],
        )
    array = np.array(sizes, dtype=np.int32).reshape(-1, 2)
    save_array(cache, array)
    return array
