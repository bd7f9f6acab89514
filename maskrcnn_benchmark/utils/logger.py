"""Where log lines go: the terminal and ``log.txt`` of the main process, a file for each other."""

import logging
import os
import sys
from pathlib import Path

PACKAGE = "maskrcnn_benchmark"
_FORMAT = "%(asctime)s %(name)s %(levelname)s: %(message)s"


def setup_logger(folder: str | os.PathLike | None = None, rank: int = 0) -> logging.Logger:
    """Send the package's log lines to their places; a second call replaces the first.

    Args:
        folder: the main process appends to ``<folder>/log.txt``, process k to ``log_rank<k>.txt``,
            debugging lines included. None keeps no file.
        rank: only the main process, rank 0, writes to the terminal; debugging lines stay out of it.
    Returns:
        the logger of the package.
    """
    logger = logging.getLogger(PACKAGE)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    if rank == 0:
        terminal = logging.StreamHandler(sys.stdout)
        terminal.setLevel(logging.INFO)
        logger.addHandler(terminal)
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        name = "log.txt" if rank == 0 else f"log_rank{rank}.txt"
        logger.addHandler(logging.FileHandler(Path(folder) / name, mode="a", encoding="utf-8"))
    for handler in logger.handlers:
        handler.setFormatter(logging.Formatter(_FORMAT))
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())
    return logger
