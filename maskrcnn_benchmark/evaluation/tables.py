"""Results of several tasks side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def task_table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """A Markdown table of the primary metric of every task, with the mean at the end.

    Args:
        results: name of the task to what its evaluator's ``summarize`` gave.
    Returns:
        metrics in percent; a task without annotations shows a dash and stays out of the mean. The
        mean is shown where there are several numbers of the same metric.
    """
    lines = ["| task | metric | value |", "|---|---|---|"]
    for name, result in results.items():
        lines.append(f"| {name} | {result['primary']} | {_percent(result['value'])} |")
    known = [result for result in results.values() if not math.isnan(result["value"])]
    metrics = {result["primary"] for result in known}
    if len(known) > 1 and len(metrics) == 1:
        mean = sum(result["value"] for result in known) / len(known)
        lines.append(f"| mean of {len(known)} | {metrics.pop()} | {_percent(mean)} |")
    return "\n".join(lines)


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.1f}"
