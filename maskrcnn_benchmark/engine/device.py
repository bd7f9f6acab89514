"""The device that a configuration asks for, where it exists."""

import logging

import torch

from maskrcnn_benchmark.utils.memory import keep_freed_memory

logger = logging.getLogger(__name__)


def choose_device(name: str, local_rank: int = 0) -> torch.device:
    """Device of this process. Where it is a CPU, its allocator keeps freed memory from now on.

    Args:
        name: MODEL.DEVICE. "cuda" means the GPU of this process; without a GPU it falls back to
            the CPU with a warning.
        local_rank: number of this process on its machine.
    """
    device = _existing_device(name, local_rank)
    if device.type == "cpu":
        keep_freed_memory()
    return device


def _existing_device(name: str, local_rank: int) -> torch.device:
    if not name.startswith("cuda"):
        return torch.device(name)
    if not torch.cuda.is_available():
        logger.warning("MODEL.DEVICE is %s, but no CUDA device is present: using the CPU", name)
        return torch.device("cpu")
    if name != "cuda":
        return torch.device(name)
    # A job system may show every process its own GPU only, which is then number 0.
    return torch.device("cuda", local_rank % torch.cuda.device_count())
