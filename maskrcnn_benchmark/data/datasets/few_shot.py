"""Choosing a few images so that every class is seen."""

import random
from collections import Counter
from collections.abc import Callable, Iterable

from numpy import ndarray


def select_few_shot(
    rows: Iterable[int], categories_of: Callable[[int], set[int]], shots: int, seed: int = 0
) -> list[int]:
    """Walk the images and keep one while any of its classes has been kept fewer than `shots` times.

    Args:
        rows: images in ascending order of their ids.
        categories_of: classes on an image.
        shots: images wanted per class; an image counts for all its classes.
        seed: shuffles the walk; 0 walks in order.
    Returns:
        the kept images in walk order.
    """
    walk = rows.tolist() if isinstance(rows, ndarray) else list(rows)
    if seed != 0:
        random.Random(seed).shuffle(walk)
    kept, seen = [], Counter()
    for row in walk:
        categories = categories_of(row)
        if any(seen[category] < shots for category in categories):
            kept.append(row)
            seen.update(categories)
    return kept
