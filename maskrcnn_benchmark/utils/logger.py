"""Where log lines go: the terminal and ``log.txt`` of the main process, a file for each other."""

import logging
import os
import sys
from pathlib import Path

PACKAGE = "maskrcnn_benchmark"
_FORMAT = "%(asctime)s %(name)s %(levelname)s: %(message)s"
# What is longer (the whole configuration) stands in the file alone.
TERMINAL_LINES = 40


def setup_logger(folder: str | os.PathLike | None = None, rank: int = 0) -> logging.Logger:
    """Send the package's log lines to their places; a second call replaces the first.

    Args:
        folder: the main process appends to ``<folder>/log.txt``, process k to ``log_rank<k>.txt``,
            debugging lines and long texts included. None keeps no file.
        rank: only the main process, rank 0, writes to the terminal. Debugging lines stay out of it,
            and of texts of more than `TERMINAL_LINES` lines all but the first.
    Returns:
        the logger of the package.
    """
    logger = logging.getLogger(PACKAGE)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    path = None
    if folder:
        path = Path(folder) / ("log.txt" if rank == 0 else f"log_rank{rank}.txt")
        path.parent.mkdir(parents=True, exist_ok=True)
        file = logging.FileHandler(path, mode="a", encoding="utf-8")
        file.setFormatter(logging.Formatter(_FORMAT))
        logger.addHandler(file)
    if rank == 0:
        terminal = logging.StreamHandler(sys.stdout)
        terminal.setLevel(logging.INFO)
        terminal.setFormatter(_TerminalFormatter(path))
        logger.addHandler(terminal)
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())
    return logger


class _TerminalFormatter(logging.Formatter):
    """Cuts long texts, which the log file has whole.

    Args:
        path: the log file; None leaves every text as it is.
    """

    def __init__(self, path: Path | None) -> None:
        super().__init__(_FORMAT)
        self.path = path

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        first, *rest = text.splitlines()
        if self.path is None or len(rest) < TERMINAL_LINES:
            return text
        return f"{first} ({len(rest)} lines, in {self.path})"
