"""What writers are given."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from maskrcnn_benchmark.data.writers.output_file import OutputFile


@dataclass(frozen=True)
class Sample:
    """One record and its picture.

    Attributes:
        key: unique name of the sample; a number becomes its image id.
        file_name: name of the picture file, with ending; samples may share a picture.
        size: (height, width) of the picture.
        record: `{"objects": ...}` or a caption record, see docs/data_formats.md.
        load_image: gives the encoded picture.
    """

    key: str
    file_name: str
    size: tuple[int, int]
    record: Mapping[str, Any]
    load_image: Callable[[], bytes]


class SampleWriter(ABC):
    """Writes a set. Used as a context: files get their names at its end, and none stays after an
    error.
    """

    def __init__(self) -> None:
        self.written: list[Path] = []
        self._open: list[OutputFile] = []

    @abstractmethod
    def add(self, sample: Sample) -> None:
        """Append a sample.

        Raises:
            DatasetWriteError: the disk refuses.
        """

    @abstractmethod
    def close(self) -> None:
        """Give the files their names; `written` then lists what a user names to read the set, first
        of all.
        """

    def abandon(self) -> None:
        """Remove unfinished files."""
        for file in self._open:
            file.abandon()

    def _output(self, path: Path) -> OutputFile:
        file = OutputFile(path)
        self._open.append(file)
        return file

    def _finish(self, file: OutputFile) -> Path:
        path = file.finish()
        self._open.remove(file)
        return path

    def __enter__(self) -> SampleWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None:
            self.abandon()
            return
        try:
            self.close()
        except BaseException:
            self.abandon()
            raise
