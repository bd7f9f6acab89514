"""Losses of recent iterations, kept on the device until somebody reads them."""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from maskrcnn_benchmark.errors import UserError
from maskrcnn_benchmark.utils import comm

from .step import StepResult

logger = logging.getLogger(__name__)

# The loss scale, 2 ** 16 at first, halves with each: so many in a row are not of its making.
MOST_OVERFLOWS = 24


class NonFiniteLossError(UserError, RuntimeError):
    """Too many updates in a row had to be left out because losses or gradients were not finite."""


@dataclass
class _Entry:
    iteration: int
    images: Sequence[str]
    result: StepResult


class LossHistory:
    """Collects step results and turns them into numbers in one transfer.

    Also keeps the rule for bad numbers: an update with a non-finite loss or gradient is left out
    and reported with the terms, the iteration and the images; ``patience`` of them in a row end
    the training. Under float16 an overflow of the gradients alone is ordinary (the loss scale
    adapts), so there non-finite losses count, and overflows from the ``MOST_OVERFLOWS``-th in a
    row on.

    Args:
        patience: number of left-out updates in a row that ends the training.
        overflow_is_ordinary: True under float16.
    """

    def __init__(self, patience: int, overflow_is_ordinary: bool = False) -> None:
        self.patience = patience
        self.overflow_is_ordinary = overflow_is_ordinary
        self.bad_in_a_row = 0
        self.num_skipped = 0
        self.overflows_in_a_row = 0
        self._entries: list[_Entry] = []

    def add(self, iteration: int, images: Sequence[str], result: StepResult) -> None:
        """Remember the result of a step; does not wait for the device."""
        self._entries.append(_Entry(iteration, images, result))

    def read(self) -> list[tuple[int, dict[str, float]]]:
        """Take out everything collected, as (iteration, values) in order.

        To be called by all processes together. The values are means over the processes: every
        loss term, ``loss`` (their sum) and ``grad_norm``.

        Raises:
            NonFiniteLossError: the last ``patience`` updates were left out, on every process.
        """
        entries, self._entries = self._entries, []
        if not entries:
            return []
        rows = []
        for entry, numbers in zip(entries, _to_host(entries)):
            norm, skipped, *losses = numbers
            terms = dict(zip(entry.result.losses, losses))
            rows.append((entry.iteration, {"loss": sum(losses), **terms, "grad_norm": norm}))
            if skipped:
                self._report(entry, terms, norm)
            else:
                self.bad_in_a_row = self.overflows_in_a_row = 0
        return _mean_over_processes(rows)

    def _report(self, entry: _Entry, terms: dict[str, float], norm: float) -> None:
        images = "; ".join(entry.images)
        bad = ", ".join(f"{n} is {v}" for n, v in terms.items() if not math.isfinite(v))
        found = [
            f"process {rank}: {text}"
            for rank, text in enumerate(comm.all_gather(f"{bad} ({images})" if bad else ""))
            if text
        ]
        self.overflows_in_a_row += not found
        ordinary = self.overflow_is_ordinary and self.overflows_in_a_row < MOST_OVERFLOWS
        if not found and ordinary:
            logger.debug(
                "iteration %d: gradients overflowed, the loss scale drops", entry.iteration
            )
            return
        self.num_skipped += 1
        self.bad_in_a_row += 1
        what = "; ".join(found) or f"gradient norm is {norm} ({images})"
        logger.warning(
            "iteration %d: update left out (%d in a row, %d in all): %s",
            entry.iteration,
            self.bad_in_a_row,
            self.num_skipped,
            what,
        )
        if self.bad_in_a_row >= self.patience:
            raise NonFiniteLossError(
                f"{self.bad_in_a_row} updates in a row were not finite, the last at iteration "
                f"{entry.iteration}: {what}. Lower SOLVER.BASE_LR, turn on "
                "SOLVER.CLIP_GRADIENTS, or train with SOLVER.AMP_DTYPE bfloat16."
            )

    def state_dict(self) -> dict[str, int]:
        return {
            "bad_in_a_row": self.bad_in_a_row,
            "num_skipped": self.num_skipped,
            "overflows_in_a_row": self.overflows_in_a_row,
        }

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.bad_in_a_row = state["bad_in_a_row"]
        self.num_skipped = state["num_skipped"]
        self.overflows_in_a_row = state.get("overflows_in_a_row", 0)


def _to_host(entries: list[_Entry]) -> list[list[float]]:
    """Gradient norm, skipped flag and losses of every entry, in one copy from the device."""
    flat = [
        value.detach().float().reshape(())
        for entry in entries
        for value in (
            entry.result.gradient_norm,
            entry.result.skipped,
            *entry.result.losses.values(),
        )
    ]
    numbers = torch.stack(flat).tolist()
    rows = []
    for entry in entries:
        length = 2 + len(entry.result.losses)
        rows.append(numbers[:length])
        numbers = numbers[length:]
    return rows


def _mean_over_processes(
    rows: list[tuple[int, dict[str, float]]],
) -> list[tuple[int, dict[str, float]]]:
    """Means of what the processes saw; a term that a process lacks does not count there."""
    per_process = comm.all_gather(rows)
    means = []
    for same_iteration in zip(*per_process):
        names = dict.fromkeys(name for _, values in same_iteration for name in values)
        mean = {}
        for name in names:
            present = [values[name] for _, values in same_iteration if name in values]
            mean[name] = sum(present) / len(present)
        means.append((same_iteration[0][0], mean))
    return means
