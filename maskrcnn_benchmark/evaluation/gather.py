"""Detections of all processes, brought together as plain tensors."""

from __future__ import annotations

import numpy as np
import torch
import torch.distributed as dist

from maskrcnn_benchmark.evaluation.detections import Detections, join
from maskrcnn_benchmark.utils import comm

COLUMNS = ("image_ids", "counts", "boxes", "scores", "labels")


def gather_detections(detections: Detections) -> Detections | None:
    """Bring every process's detections to rank 0; an image that several have counts once.

    The arrays travel as CPU tensors over gloo, one process after the other, so rank 0 holds the
    numbers themselves and never a pickled copy of them.

    Returns:
        all detections on rank 0, None on the other processes.
    """
    if comm.get_world_size() == 1:
        return detections
    columns = [np.ascontiguousarray(getattr(detections, name)) for name in COLUMNS]
    layouts = comm.all_gather([(column.shape, column.dtype.str) for column in columns])
    if not comm.is_main_process():
        for column in columns:
            if column.size:
                dist.send(torch.from_numpy(column), dst=0)
        return None
    parts = [detections]
    for rank in range(1, comm.get_world_size()):
        received = [_receive(shape, dtype, rank) for shape, dtype in layouts[rank]]
        parts.append(Detections(*received))
    return join(parts)


def _receive(shape: tuple[int, ...], dtype: str, rank: int) -> np.ndarray:
    array = np.empty(shape, np.dtype(dtype))
    if array.size:
        dist.recv(torch.from_numpy(array), src=rank)
    return array
