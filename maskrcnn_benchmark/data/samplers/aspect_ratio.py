"""Batches of images that are all portrait or all landscape, so that little is padded."""

import numpy as np


def aspect_groups(sizes: np.ndarray) -> np.ndarray:
    """Group of each image: 0 where height / width < 1, else 1 (a square is portrait).

    Args:
        sizes: (num_samples, 2) heights and widths.
    """
    return (sizes[:, 0] >= sizes[:, 1]).astype(np.int8)


def full_batches(order: np.ndarray, groups: np.ndarray | None, batch_size: int) -> np.ndarray:
    """Cut an order of samples into full batches of one group each.

    Samples keep their order within a group; batches are ordered by where their first sample stands
    in `order`. What does not fill a batch is left out.

    Args:
        order: sample numbers.
        groups: group of every sample of the dataset (indexed by sample number); None: one group.
    Returns:
        (num_batches, batch_size) sample numbers.
    """
    members = _positions_by_group(order, groups)
    full = [part[: len(part) - len(part) % batch_size].reshape(-1, batch_size) for part in members]
    batches = np.concatenate(full)
    return order[batches[np.argsort(batches[:, 0])]]


def group_batches(
    order: np.ndarray, groups: np.ndarray | None, batch_size: int
) -> list[np.ndarray]:
    """As `full_batches`, but with the smaller batch that is left of each group."""
    members = _positions_by_group(order, groups)
    batches = [
        part[begin : begin + batch_size]
        for part in members
        for begin in range(0, len(part), batch_size)
    ]
    batches.sort(key=lambda batch: batch[0])
    return [order[batch] for batch in batches]


def _positions_by_group(order: np.ndarray, groups: np.ndarray | None) -> list[np.ndarray]:
    """Places in `order` of the samples of each group, ascending."""
    positions = np.arange(len(order))
    if groups is None or not len(order):
        return [positions]
    group_of_position = groups[order]
    return [positions[group_of_position == group] for group in np.unique(group_of_position)]
