"""The device that a configuration asks for, where it exists."""

import logging

import torch

logger = logging.getLogger(__name__)


def choose_device(name: str, local_rank: int = 0) -> torch.device:
    """Device of this process.

    Args:
        name: MODEL.DEVICE. "cuda" means the GPU of this process; without a GPU it falls back to
            the CPU with a warning.
        local_rank: number of this process on its machine.
    """
    if not name.startswith("cuda"):
        return torch.device(name)
    if not torch.cuda.is_available():
        logger.warning("MODEL.DEVICE is %s, but no CUDA device is present: using the CPU", name)
        return torch.device("cpu")
    if name != "cuda":
        return torch.device(name)
    # A job system may show every process its own GPU only, which is then number 0.
    return torch.device("cuda", local_rank % torch.cuda.device_count())
