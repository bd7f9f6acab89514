"""Where the rows of a TSV or JSON-lines file begin.

The index of `X.tsv` (and of `X.jsonl`) is `X.lineidx`: the byte offset of every row, one decimal
number per line. Reading millions of them as text takes seconds and their Python objects hundreds of
megabytes in every process, so a binary copy `X.lineidx.npy` is kept beside it and memory-mapped.
"""

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np

from maskrcnn_benchmark.errors import DataError

logger = logging.getLogger(__name__)

_SCAN_BYTES = 1 << 26


def load_line_index(tsv: Path) -> np.ndarray:
    """Offsets of the rows, int64, memory-mapped where the binary copy can be kept.

    The index is built by scanning the file when there is none.

    Raises:
        FileNotFoundError: there is no such TSV file.
        DataError: the index does not belong to the file.
    """
    if not tsv.is_file():
        raise FileNotFoundError(f"{tsv} does not exist")
    text, binary = tsv.with_suffix(".lineidx"), tsv.with_suffix(".lineidx.npy")
    if is_fresh(binary, tsv, text):
        offsets = np.load(binary, mmap_mode="r")
    else:
        offsets = _read_text(text) if text.is_file() else _build(tsv, text)
        if not (np.diff(offsets) > 0).all():
            raise DataError(
                f"{text}: offsets do not rise from line to line; delete it to rebuild it"
            )
        if save_array(binary, offsets):
            offsets = np.load(binary, mmap_mode="r")
    size = tsv.stat().st_size
    if len(offsets) and (offsets[0] != 0 or offsets[-1] >= size):
        raise DataError(
            f"{text} does not belong to {tsv} ({size} bytes; offsets {offsets[0]} to "
            f"{offsets[-1]}): delete it and {binary.name} to rebuild them"
        )
    return offsets


def save_array(path: Path, array: np.ndarray) -> bool:
    """Write an array beside the data, whole or not at all; False where the folder cannot be
    written.
    """
    return write_whole(path, lambda file: np.save(file, array))


def write_whole(path: Path, write: Callable[[BinaryIO], None]) -> bool:
    """Write a file beside the data, whole or not at all; False where that is impossible."""
    # Processes that start together may all write: each to a file of its own, the last one stays.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            write(file)
        temporary.replace(path)
    except OSError as error:
        logger.info("%s cannot be written (%s); the index stays in memory", path, error)
        temporary.unlink(missing_ok=True)
        return False
    return True


def is_fresh(file: Path, *sources: Path) -> bool:
    """Whether a file derived from others exists and is not older than those of them that exist."""
    if not file.is_file():
        return False
    made = file.stat().st_mtime_ns
    return all(source.stat().st_mtime_ns <= made for source in sources if source.is_file())


def _read_text(path: Path) -> np.ndarray:
    try:
        return np.array(path.read_bytes().split(), dtype=np.int64)
    except ValueError as error:
        raise DataError(f"{path} must hold one byte offset per line: {error}") from error


def scan_lines(path: Path) -> np.ndarray:
    """Byte offsets of all lines of a file, int64."""
    starts, position = [np.zeros(1, dtype=np.int64)], 0
    with path.open("rb") as file:
        while chunk := file.read(_SCAN_BYTES):
            ends = np.flatnonzero(np.frombuffer(chunk, dtype=np.uint8) == ord("\n"))
            starts.append(ends + position + 1)
            position += len(chunk)
    offsets = np.concatenate(starts)
    return offsets[offsets < position]


def _build(tsv: Path, text: Path) -> np.ndarray:
    logger.info("Building the line index %s", text)
    offsets = scan_lines(tsv)
    content = "".join(f"{offset}\n" for offset in offsets.tolist()).encode()
    write_whole(text, lambda file: file.write(content))
    return offsets
