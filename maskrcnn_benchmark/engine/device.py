"""The device that a configuration asks for, where it exists."""

import logging
import re

import torch

from maskrcnn_benchmark.errors import ConfigError
from maskrcnn_benchmark.utils.memory import keep_freed_memory

logger = logging.getLogger(__name__)

_KNOWN = re.compile(r"cpu|cuda(:\d{1,3})?", re.ASCII)


def choose_device(name: str, local_rank: int = 0) -> torch.device:
    """Device of this process. Where it is a CPU, its allocator keeps freed memory from now on.

    Args:
        name: MODEL.DEVICE. "cuda" means the GPU of this process; without a GPU it falls back to
            the CPU with a warning.
        local_rank: number of this process on its machine.
    Raises:
        ConfigError: another name, or a GPU that this machine does not have.
    """
    device = _existing_device(name, local_rank)
    if device.type == "cpu":
        keep_freed_memory()
    return device


def _existing_device(name: str, local_rank: int) -> torch.device:
    if not _KNOWN.fullmatch(name):
        raise ConfigError(f"MODEL.DEVICE must be cpu, cuda or cuda:N, not {name!r}")
    if name == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        logger.warning("MODEL.DEVICE is %s, but no CUDA device is present: using the CPU", name)
        return torch.device("cpu")
    num_gpus = torch.cuda.device_count()
    if name == "cuda":
        # A job system may show every process its own GPU only, which is then number 0.
        return torch.device("cuda", local_rank % num_gpus)
    device = torch.device(name)
    if device.index >= num_gpus:
        raise ConfigError(f"MODEL.DEVICE is {name}, but there are {num_gpus} GPUs, from cuda:0 on")
    return device
