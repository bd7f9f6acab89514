"""Progress of long work, for tools: how much is done, how fast, how long it will take."""

import sys
import time
from typing import TextIO


class ProgressLine:
    """One line on a terminal, a line now and then elsewhere.

    Args:
        title: what is being done.
        total: how much there is; None where that is unknown.
        unit: what is counted.
        stream: where it is shown.
        every: seconds between two lines; default: 0.2 on a terminal, 30 elsewhere.
    """

    def __init__(
        self,
        title: str,
        total: int | None,
        unit: str = "samples",
        *,
        stream: TextIO | None = None,
        every: float | None = None,
    ):
        self.title, self.total, self.unit = title, total, unit
        self.stream = sys.stderr if stream is None else stream
        self._terminal = self.stream.isatty()
        self._every = every if every is not None else (0.2 if self._terminal else 30.0)
        self._begin = self._shown = time.monotonic()
        self._first: int | None = None

    def update(self, done: int) -> None:
        """Say how much is done; what was done before the first call does not count for the speed."""
        if self._first is None:
            self._first = done
        now = time.monotonic()
        if now - self._shown >= self._every or done == self.total:
            self._shown = now
            self._show(done, now - self._begin)

    def close(self) -> None:
        """End the line."""
        if self._terminal:
            self.stream.write("\n")

    def _show(self, done: int, elapsed: float) -> None:
        speed = (done - (self._first or 0)) / elapsed if elapsed > 0 else 0.0
        text = f"{self.title}: {done}"
        if self.total is not None:
            text += f"/{self.total}"
        text += f" {self.unit}, {speed:.3g}/s"
        if self.total is not None and speed > 0:
            text += f", {duration((self.total - done) / speed)} left"
        # \x1b[K clears what a longer line left behind.
        self.stream.write(f"\r{text}\x1b[K" if self._terminal else f"{text}\n")
        self.stream.flush()


def duration(seconds: float) -> str:
    """Seconds as h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"
