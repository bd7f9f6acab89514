"""Where the samples of a tar file lie, so that any of them can be read at once.

Members that follow each other and share their name up to the first dot form a sample (the
WebDataset convention): a picture, and a record (`.json`), a caption (`.txt`) or both. The index of
`X.tar` is `X.tar.idx`: rows of eight little-endian 64-bit numbers, the first row being a header
that names the size of the tar file.
"""

import io
import json
import logging
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from PIL import Image

from maskrcnn_benchmark.data.datasets.line_index import is_fresh, write_whole
from maskrcnn_benchmark.errors import DataError

logger = logging.getLogger(__name__)

PICTURE_ENDINGS = frozenset({"jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff"})
RECORD_ENDING = "json"
TEXT_ENDING = "txt"
HEADER_BYTES = 512
_MAGIC = int.from_bytes(b"GLIPTAR1", "little")
_SIZE_KEYS = (("img_h", "img_w"), ("height", "width"))
_PICTURE_HEAD = 1 << 16


class SamplePlace(NamedTuple):
    """Bytes of one sample's parts in the tar file (size 0: it has none), and its picture's size;
    0 where that is unknown.
    """

    image_offset: int
    image_size: int
    record_offset: int = 0
    record_size: int = 0
    text_offset: int = 0
    text_size: int = 0
    height: int = 0
    width: int = 0


ROW_BYTES = 8 * len(SamplePlace._fields)


@dataclass
class _Parts:
    key: str
    members: dict[str, tarfile.TarInfo] = field(default_factory=dict)


def index_path(shard: Path) -> Path:
    """Where the index of a shard is kept."""
    return shard.with_name(f"{shard.name}.idx")


def read_index(shard: Path) -> np.ndarray | None:
    """The index kept beside a shard, or None where there is none that belongs to it.

    Returns:
        (num_samples, 8) int64, columns as in `SamplePlace`.
    """
    path = index_path(shard)
    if not index_is_fresh(shard):
        return None
    return np.fromfile(path, dtype="<i8").reshape(-1, len(SamplePlace._fields))[1:]


def index_is_fresh(shard: Path) -> bool:
    """Whether an index lies beside a shard, is not older and names the shard's size."""
    path = index_path(shard)
    if not is_fresh(path, shard) or path.stat().st_size % ROW_BYTES:
        return False
    header = np.fromfile(path, dtype="<i8", count=2)
    return len(header) == 2 and header.tolist() == [_MAGIC, shard.stat().st_size]


def write_index(shard: Path, places: list[SamplePlace] | np.ndarray) -> bool:
    """Keep an index beside its shard; False where the folder cannot be written."""
    rows = np.array(places, dtype="<i8").reshape(-1, len(SamplePlace._fields))
    header = np.zeros((1, len(SamplePlace._fields)), dtype="<i8")
    header[0, :2] = _MAGIC, shard.stat().st_size
    content = np.concatenate([header, rows]).tobytes()
    return write_whole(index_path(shard), lambda file: file.write(content))


def build_index(shard: Path) -> np.ndarray:
    """Scan a tar file.

    Samples without a picture, or with neither record nor caption, are counted in a warning and left
    out.

    Returns:
        (num_samples, 8) int64, columns as in `SamplePlace`.
    Raises:
        DataError: it is compressed, cut short or no tar file.
    """
    logger.info("Building the index of %s", shard)
    places, incomplete = [], []
    with shard.open("rb") as file:
        for parts in _samples(shard):
            place = _place(parts, file)
            if place is None:
                incomplete.append(parts.key)
            else:
                places.append(place)
    if incomplete:
        logger.warning(
            "%s: %d of %d samples lack a picture, or both record (.json) and caption (.txt), and "
            "are left out (first: %s)",
            shard,
            len(incomplete),
            len(incomplete) + len(places),
            incomplete[0],
        )
    return np.array(places, dtype=np.int64).reshape(-1, len(SamplePlace._fields))


def picture_size(data: bytes) -> tuple[int, int]:
    """(height, width) that the head of an encoded picture gives; (0, 0) where it gives none."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            return image.height, image.width
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return 0, 0


def _samples(shard: Path) -> Iterator[_Parts]:
    current: _Parts | None = None
    for member in _members(shard):
        folder, _, name = member.name.rpartition("/")
        stem, _, ending = name.partition(".")
        key = f"{folder}/{stem}" if folder else stem
        if current is None or current.key != key:
            if current is not None:
                yield current
            current = _Parts(key)
        current.members.setdefault(_kind(ending.lower()), member)
    if current is not None:
        yield current


def _kind(ending: str) -> str:
    return "picture" if ending in PICTURE_ENDINGS else ending


def _members(shard: Path) -> Iterator[tarfile.TarInfo]:
    length = shard.stat().st_size
    try:
        with tarfile.open(shard, "r:") as archive:
            for member in archive:
                if member.offset_data + member.size > length:
                    raise DataError(f"{shard} is cut short: {member.name} is not whole")
                if member.isfile():
                    yield member
                # Otherwise it would keep every member of the file.
                archive.members.clear()
    except tarfile.ReadError as error:
        raise DataError(
            f"{shard} is no plain tar file ({error}); a compressed one must be unpacked, a broken "
            "one downloaded again"
        ) from error


def _place(parts: _Parts, file: BinaryIO) -> SamplePlace | None:
    picture = parts.members.get("picture")
    record, text = parts.members.get(RECORD_ENDING), parts.members.get(TEXT_ENDING)
    if picture is None or not picture.size or (record is None and text is None):
        return None
    height, width = _size_of(picture, record, file)
    return SamplePlace(
        picture.offset_data, picture.size, *_span(record), *_span(text), height, width
    )


def _span(member: tarfile.TarInfo | None) -> tuple[int, int]:
    return (0, 0) if member is None else (member.offset_data, member.size)


def _size_of(
    picture: tarfile.TarInfo, record: tarfile.TarInfo | None, file: BinaryIO
) -> tuple[int, int]:
    if record is not None:
        file.seek(record.offset_data)
        size = size_in_record(_decoded(file.read(record.size)))
        if size is not None:
            return size
    file.seek(picture.offset_data)
    return picture_size(file.read(min(picture.size, _PICTURE_HEAD)))


def _decoded(data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError:
        return None  # reported when the sample is read


def size_in_record(record: Any) -> tuple[int, int] | None:
    """(height, width) that a record states."""
    if not isinstance(record, dict):
        return None
    for height, width in _SIZE_KEYS:
        if isinstance(record.get(height), int) and isinstance(record.get(width), int):
            return record[height], record[width]
    return None
