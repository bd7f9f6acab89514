"""What one process does for all: files that are written once, a folder that is taken once."""

import contextlib
import fcntl
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from maskrcnn_benchmark.errors import ConfigError, UserError
from maskrcnn_benchmark.utils import comm

logger = logging.getLogger(__name__)

TRAINING_LOCK = ".lock"
# Another one: a run that trains may be evaluated in the meantime.
EVALUATION_LOCK = ".evaluation_lock"

Result = TypeVar("Result")


def on_main_process(action: Callable[[], Result]) -> Result:
    """Do something on rank 0 only; its result, or its error, is that of every process."""
    value, error = None, None
    if comm.is_main_process():
        try:
            value = action()
        except (UserError, OSError, ValueError) as failure:
            error = failure
    value, error = comm.broadcast((value, error))
    if error is not None:
        raise error
    return value


@contextlib.contextmanager
def locked_folder(folder: str | Path, name: str = TRAINING_LOCK) -> Iterator[None]:
    """Have a folder to oneself; called by all processes together.

    The lock goes with the process, however that ends.

    Raises:
        ConfigError: a command that is running has the folder.
    """
    with contextlib.ExitStack() as stack:
        on_main_process(lambda: _lock(Path(folder), name, stack))
        yield


def _lock(folder: Path, name: str, stack: contextlib.ExitStack) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    lock = stack.enter_context((folder / name).open("w"))
    # A loader worker outlives a main process that is killed; a restart must not wait for it.
    os.register_at_fork(after_in_child=lock.close)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ConfigError(
            f"another command is at work in {folder}: wait for it, or choose another OUTPUT_DIR"
        ) from None
    except OSError as error:  # a file system of a cluster may know no locks
        logger.warning("%s cannot be locked (%s): start no second command there", folder, error)
