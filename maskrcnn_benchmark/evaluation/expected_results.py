"""Do the numbers of a run agree with those written down for it (``TEST.EXPECTED_RESULTS``)?"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from maskrcnn_benchmark.errors import ConfigError

logger = logging.getLogger(__name__)

# What task names of older configs mean beside the evaluator's own kind.
_BOX_TASKS = ("coco", "lvis", "lvis-fixed")
ALIASES = {"bbox": _BOX_TASKS, "box": _BOX_TASKS, "box_proposal": ("box_proposals",)}


def check_expected_results(
    result: Mapping[str, Any], expected: Sequence[Sequence[Any]], sigma_tolerance: float = 4.0
) -> bool:
    """Compare metrics with expected means; log PASS, or FAIL as an error, for each.

    Args:
        result: what an evaluator's ``summarize`` gave.
        expected: ``[task, metric, [mean, standard deviation]]`` each, or the four values in a
            row; task is the evaluator's kind, or "bbox" for one of boxes. Entries of other tasks
            are passed over.
        sigma_tolerance: standard deviations that a value may lie from its mean.
    Returns:
        True if all that apply agree.
    Raises:
        ConfigError: an entry is malformed or names a metric that the evaluator does not give.
    """
    passed = True
    for entry in expected:
        task, metric, mean, deviation = _read(entry)
        kind = result["kind"]
        if task != kind and kind not in ALIASES.get(task, ()):
            continue
        if metric not in result["metrics"]:
            raise ConfigError(
                f"TEST.EXPECTED_RESULTS names metric {metric!r} of {task}; there are "
                f"{', '.join(result['metrics'])}"
            )
        value = result["metrics"][metric]
        low, high = mean - sigma_tolerance * deviation, mean + sigma_tolerance * deviation
        agrees = low < value < high
        passed = passed and agrees
        logger.log(
            logging.INFO if agrees else logging.ERROR,
            "%s: %s > %s sanity check (actual vs. expected): %.3f vs. mean=%.4f, std=%.4f, "
            "range=(%.4f, %.4f)",
            "PASS" if agrees else "FAIL",
            task,
            metric,
            value,
            mean,
            deviation,
            low,
            high,
        )
    return passed


def _read(entry: Sequence[Any]) -> tuple[str, str, float, float]:
    try:
        task, metric, *numbers = entry
        mean, deviation = numbers[0] if len(numbers) == 1 else numbers
        return str(task), str(metric), float(mean), float(deviation)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"TEST.EXPECTED_RESULTS needs [task, metric, [mean, standard deviation]], got {entry!r}"
        ) from error
