"""Running values for progress lines and TensorBoard."""

import math
from collections import defaultdict, deque
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any, Protocol

from maskrcnn_benchmark.errors import MissingPackageError


class SmoothedValue:
    """The last values of a series, and the mean of all; non-finite values are left out."""

    def __init__(self, window: int = 20) -> None:
        self._recent: deque[float] = deque(maxlen=window)
        self._total = 0.0
        self._count = 0

    def update(self, value: float) -> None:
        if not math.isfinite(value):
            return
        self._recent.append(value)
        self._total += value
        self._count += 1

    @property
    def median(self) -> float:
        """Median of the recent values; NaN before the first."""
        return median(self._recent) if self._recent else math.nan

    @property
    def average(self) -> float:
        """Mean of the recent values; NaN before the first."""
        return sum(self._recent) / len(self._recent) if self._recent else math.nan

    @property
    def global_average(self) -> float:
        """Mean of all values; NaN before the first."""
        return self._total / self._count if self._count else math.nan


class MetricLogger:
    """Named series; as text each reads ``name: recent median (mean of all)``."""

    def __init__(self, delimiter: str = "  ") -> None:
        self.meters: defaultdict[str, SmoothedValue] = defaultdict(SmoothedValue)
        self.delimiter = delimiter

    def update(self, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.meters[name].update(value)

    def __str__(self) -> str:
        return self.delimiter.join(
            f"{name}: {meter.median:.4f} ({meter.global_average:.4f})"
            for name, meter in self.meters.items()
        )


class ScalarWriter(Protocol):
    """What is used of a TensorBoard writer."""

    def add_scalar(self, tag: str, value: float, step: int) -> Any: ...

    def close(self) -> None: ...


def make_tensorboard_writer(folder: str | Path, first_iteration: int) -> ScalarWriter:
    """Writer of event files; what an interrupted run wrote from ``first_iteration`` on is hidden.

    Raises:
        MissingPackageError: neither ``tensorboard`` nor ``tensorboardX`` is installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        try:
            from tensorboardX import SummaryWriter
        except ImportError:
            raise MissingPackageError(
                "--use-tensorboard needs a writer of event files: pip install tensorboard"
            ) from None
    return SummaryWriter(str(folder), purge_step=first_iteration)
