"""What a fine-tuning run costs: images per second of pure training, and peak memory."""

import logging
import time
from typing import TYPE_CHECKING

from .hooks import Hook, LossRows, peak_memory

if TYPE_CHECKING:
    from .training_loop import Trainer

logger = logging.getLogger(__name__)


class CostReport:
    """Measures training without the time of validations and checkpoints.

    The first iteration of a process is left out: it starts loader workers and fills caches.

    Args:
        images_per_iteration: over all processes.
    """

    def __init__(self, images_per_iteration: int) -> None:
        self.images_per_iteration = images_per_iteration
        self.seconds = 0.0
        self.iterations = 0
        self.peak_memory_mib = 0.0
        self._begin: float | None = None
        self._warm = False

    def attach(self, trainer: "Trainer") -> None:
        """Clock on before all other hooks, and off after them."""
        trainer.hooks = [_EndOfStep(self), *trainer.hooks, _BeginOfStep(self)]

    @property
    def images_per_second(self) -> float | None:
        """None before anything was measured."""
        if not self.seconds:
            return None
        return self.iterations * self.images_per_iteration / self.seconds

    def end_step(self) -> None:
        """An iteration has just ended."""
        if self._begin is not None and self._warm:
            self.seconds += time.perf_counter() - self._begin
            self.iterations += 1
        self._warm = True

    def begin_step(self) -> None:
        """The next iteration begins."""
        self._begin = time.perf_counter()


class _EndOfStep(Hook):
    def __init__(self, report: CostReport) -> None:
        self.report = report

    def after_iteration(self, trainer: "Trainer", losses: LossRows) -> None:
        self.report.end_step()


class _BeginOfStep(Hook):
    def __init__(self, report: CostReport) -> None:
        self.report = report

    def after_iteration(self, trainer: "Trainer", losses: LossRows) -> None:
        self.report.begin_step()

    def after_train(self, trainer: "Trainer") -> None:
        report = self.report
        report.peak_memory_mib = peak_memory(trainer.step.device)
        if report.images_per_second is not None:
            logger.info(
                "training cost: %.2f images / s, peak memory %.0f MiB",
                report.images_per_second,
                report.peak_memory_mib,
            )
