"""SIGTERM, SIGINT and SIGHUP as a request to stop at the next good moment."""

import logging
import signal
from collections.abc import Callable
from types import FrameType

logger = logging.getLogger(__name__)

# SIGHUP comes when a terminal or an ssh connection closes; nohup has it ignored, and so it stays.
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class EvaluationInterrupted(Exception):
    """An evaluation was asked to stop before its end, on all processes."""


class StopRequest:
    """Inside the ``with`` block the first signal only sets a flag; a second SIGINT interrupts.

    Attributes:
        received: name of the signal, None before it came.
    """

    def __init__(self) -> None:
        self.received: str | None = None
        self._previous: dict[int, Callable | int | None] = {}

    def __enter__(self) -> "StopRequest":
        for number in _SIGNALS:
            if signal.getsignal(number) != signal.SIG_IGN or number != signal.SIGHUP:
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def __bool__(self) -> bool:
        return self.received is not None

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = signal.Signals(number).name


def ignore_stop_signals(worker_id: int) -> None:
    """For loader workers: a signal to the whole process group must not take them from under the
    main process, which needs a moment to finish its iteration and ends them itself.
    """
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
