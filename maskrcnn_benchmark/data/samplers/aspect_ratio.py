"""Batches of images that are all portrait or all landscape, so that little is padded."""

from collections.abc import Sequence

import numpy as np


def aspect_groups(sizes: np.ndarray) -> np.ndarray:
    """Group of each image: 0 where height / width < 1, else 1 (a square is portrait).

    Args:
        sizes: (num_samples, 2) heights and widths.
    """
    return (sizes[:, 0] >= sizes[:, 1]).astype(np.int8)


def group_batches(
    order: np.ndarray, groups: np.ndarray | None, batch_size: int, *, drop_incomplete: bool
) -> list[np.ndarray]:
    """Cut an order of samples into batches of one group each.

    Samples keep their order within a group; batches are ordered by where their first sample stands
    in `order`.

    Args:
        order: sample numbers.
        groups: group of every sample of the dataset (indexed by sample number); None: one group.
        drop_incomplete: leave out the batch that a group does not fill.
    """
    if not len(order):
        return []
    positions = np.arange(len(order))
    if groups is None:
        members: Sequence[np.ndarray] = [positions]
    else:
        group_of_position = groups[order]
        members = [positions[group_of_position == group] for group in np.unique(group_of_position)]
    full = [member[: len(member) - len(member) % batch_size] for member in members]
    batches = list(np.concatenate([part.reshape(-1, batch_size) for part in full]))
    if not drop_incomplete:
        rests = [member[len(part) :] for member, part in zip(members, full)]
        batches += [rest for rest in rests if len(rest)]
    batches.sort(key=lambda batch: batch[0])
    return [order[batch] for batch in batches]
