"""Errors of loader processes, told as if they had happened in the process that waits for them."""

import re
from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader

from maskrcnn_benchmark.errors import UserError

# PyTorch puts the whole traceback of the other process into the message.
_REPORT = re.compile(r"Caught \w+ in DataLoader worker process \d+\.\nOriginal Traceback")


class PlainErrorLoader(DataLoader):
    """A loader that reports data that cannot be used by what is wrong with them, in any process.

    The traceback of the loader process stays with the error as its cause.
    """

    def __iter__(self) -> Iterator[Any]:
        # Made here and not when the first batch is asked for: it draws from the global random
        # generator, whose state a resumed run restores in between.
        return _with_plain_errors(super().__iter__())


def _with_plain_errors(batches: Iterator[Any]) -> Iterator[Any]:
    try:
        yield from batches
    except (UserError, FileNotFoundError) as error:
        message = original_message(error)
        if message is None:
            raise
        raise type(error)(message) from error


def original_message(error: Exception) -> str | None:
    """What an error said in the loader process; None if it comes from none."""
    report = str(error)
    if not _REPORT.match(report):
        return None
    _, _, message = report.rpartition(f"{type(error).__name__}: ")
    return message.strip() or None
