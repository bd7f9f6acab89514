"""Boxes as annotation files write them."""

from typing import Any

import numpy as np

_LARGEST = float(np.finfo(np.float32).max)


def is_box(value: Any) -> bool:
    """Whether a decoded value is a list of four finite numbers that single precision can hold."""
    return (
        isinstance(value, (list, tuple))
        and len(value) == 4
        and all(isinstance(x, (int, float)) and abs(x) <= _LARGEST for x in value)
    )
