"""Large files written bit by bit, that have their name only once they are whole."""

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from maskrcnn_benchmark.errors import UserError

PART_SUFFIX = ".part"


class DatasetWriteError(UserError, OSError):
    """A file cannot be written; the message names it and the room left."""


class OutputFile:
    """A file that grows as `<name>.part` and gets its name from `finish`.

    Raises:
        DatasetWriteError: from every method, when the disk refuses.
    """

    def __init__(self, path: Path):
        self.path = path
        self.part = path.with_name(path.name + PART_SUFFIX)
        self.position = 0
        with self._named_errors():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.part.open("wb")

    def write(self, data: bytes) -> int:
        """Append bytes; returns where they begin."""
        begin = self.position
        with self._named_errors():
            self._file.write(data)
        self.position += len(data)
        return begin

    def finish(self) -> Path:
        """Force the content to disk and give the file its name."""
        with self._named_errors():
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self.part.replace(self.path)
        return self.path

    def abandon(self) -> None:
        """Remove what was written."""
        # Closing flushes, which fails again on a full disk.
        with contextlib.suppress(OSError):
            self._file.close()
        with contextlib.suppress(OSError):
            self.part.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _named_errors(self):
        try:
            yield
        except OSError as error:
            raise DatasetWriteError(
                f"could not write {self.path}: {error}{room_left(self.path.parent)}"
            ) from error


def room_left(folder: Path) -> str:
    """Free space of the disk that a folder lies on, for messages; empty where that is unknown."""
    with contextlib.suppress(OSError):
        free = os.statvfs(folder)
        return f" ({free.f_bavail * free.f_frsize / 2**20:.0f} MiB free on this disk)"
    return ""


def write_bytes(path: Path, data: bytes) -> Path:
    """Write a whole file."""
    file = OutputFile(path)
    try:
        file.write(data)
        return file.finish()
    except DatasetWriteError:
        file.abandon()
        raise


def write_json(path: Path, content: Any, indent: int | None = None) -> Path:
    """Write JSON, UTF-8."""
    return write_bytes(path, json.dumps(content, indent=indent, ensure_ascii=False).encode())
