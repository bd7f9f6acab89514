"""Processes that train or evaluate together: who am I, wait for the others, exchange values.

Every function also works without a process group, where it describes a world of one process;
callers need no branch of their own. Collectives run on CPU tensors over gloo and on CUDA tensors
over nccl. Python objects travel over gloo, so nothing here makes the GPU wait.
"""

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from maskrcnn_benchmark.errors import ConfigError

logger = logging.getLogger(__name__)

COLLECTIVE_TIMEOUT = timedelta(hours=2)
BEFORE_2_8 = torch.__version__ < (2, 8)


@dataclass(frozen=True)
class LaunchSettings:
    """Place of this process among those that a launcher started.

    Attributes:
        rank: number of the process, 0 to ``world_size - 1``.
        world_size: number of processes.
        local_rank: number of the process on its machine; it chooses the CUDA device.
    """

    rank: int
    world_size: int
    local_rank: int


def read_launch_settings(local_rank_flag: int | None = None) -> LaunchSettings:
    """Find out from the environment how this process was launched.

    ``torchrun`` and ``python -m torch.distributed.launch`` set RANK, WORLD_SIZE and LOCAL_RANK;
    ``srun`` sets SLURM_PROCID, SLURM_NTASKS and SLURM_LOCALID, which are read only when
    MASTER_ADDR tells that the tasks belong together. Nothing set means one process.

    Args:
        local_rank_flag: value of the ``--local_rank`` option that old launchers append, used
            where the environment does not name a local rank.
    Raises:
        ConfigError: a variable is not a whole number, or the rank lies outside the world.
    """
    under_slurm = "SLURM_PROCID" in os.environ and "MASTER_ADDR" in os.environ
    if "WORLD_SIZE" in os.environ or not under_slurm:
        world_size = _environment_number("WORLD_SIZE", 1)
        rank = _environment_number("RANK", 0)
        local_rank = _environment_number("LOCAL_RANK", local_rank_flag or 0)
    else:
        world_size = _environment_number("SLURM_NTASKS", 1)
        rank = _environment_number("SLURM_PROCID", 0)
        local_rank = _environment_number("SLURM_LOCALID", local_rank_flag or 0)
    if not 0 <= rank < world_size:
        raise ConfigError(f"rank {rank} lies outside the world of {world_size} processes")
    return LaunchSettings(rank=rank, world_size=world_size, local_rank=local_rank)


def _environment_number(name: str, default: int) -> int:
    text = os.environ.get(name)
    if text is None:
        return default
    try:
        return int(text)
    except ValueError:
        raise ConfigError(
            f"environment variable {name} must be a whole number, not {text!r}"
        ) from None


def setup(device_type: str = "cpu", local_rank: int | None = None) -> LaunchSettings:
    """Join the process group that the launcher describes; a lone process needs none.

    Args:
        device_type: "cuda" selects nccl for CUDA tensors beside gloo for CPU tensors (where CUDA
            is present) and makes ``cuda:<local rank>`` the current device; else gloo alone.
        local_rank: value of the ``--local_rank`` option, if there was one.
    """
    settings = read_launch_settings(local_rank)
    use_cuda = device_type == "cuda" and torch.cuda.is_available()
    if use_cuda:
        torch.cuda.set_device(settings.local_rank % torch.cuda.device_count())
    if settings.world_size == 1 or dist.is_initialized():
        return settings
    dist.init_process_group(
        backend="cpu:gloo,cuda:nccl" if use_cuda else "gloo",
        store=_meeting_place(settings),
        rank=settings.rank,
        world_size=settings.world_size,
        timeout=COLLECTIVE_TIMEOUT,
    )
    synchronize()
    return settings


def _meeting_place(settings: LaunchSettings) -> dist.Store:
    """The store at MASTER_ADDR and MASTER_PORT through which the processes find each other.

    torchrun keeps one store over all restarts of a job, and with it the addresses of processes that
    died. On one machine the number of the restart, which is the same for all, keeps them apart; for
    several machines set TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1, which makes a new store each time.
    """
    store, _, _ = next(
        rendezvous("env://", settings.rank, settings.world_size, timeout=COLLECTIVE_TIMEOUT)
    )
    store.set_timeout(COLLECTIVE_TIMEOUT)
    on_one_machine = os.environ.get("LOCAL_WORLD_SIZE") == str(settings.world_size)
    if not on_one_machine:
        return store
    return dist.PrefixStore(f"restart_{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)


def cleanup() -> None:
    """Leave the process group; harmless when there is none."""
    if not is_distributed():
        return
    # Ending a gloo group waits for its threads, and one that still holds a tensor of the last
    # exchange waits for the interpreter lock. Before PyTorch 2.8 a process group keeps that lock
    # while it ends (pytorch/pytorch#154976), its backend gives it up: so the backend goes last.
    gloo = dist.group.WORLD._get_backend(torch.device("cpu")) if BEFORE_2_8 else None
    dist.destroy_process_group()
    del gloo


@contextmanager
def process_group(
    device_type: str = "cpu", local_rank: int | None = None
) -> Iterator[LaunchSettings]:
    """Join on entry, leave on exit, also when the body raises."""
    settings = setup(device_type, local_rank)
    try:
        yield settings
    finally:
        cleanup()


def is_distributed() -> bool:
    """True inside a process group."""
    return dist.is_available() and dist.is_initialized()


def get_rank() -> int:
    """Number of this process, 0 without a process group."""
    return dist.get_rank() if is_distributed() else 0


def get_world_size() -> int:
    """Number of processes, 1 without a process group."""
    return dist.get_world_size() if is_distributed() else 1


def is_main_process() -> bool:
    """True on the one process that writes files and reports progress."""
    return get_rank() == 0


def synchronize() -> None:
    """Wait until every process has arrived here."""
    if get_world_size() > 1:
        # A one-number reduction over gloo: unlike nccl's barrier it does not touch the GPU.
        dist.all_reduce(torch.zeros(1))


def all_gather(value: Any) -> list[Any]:
    """Collect one picklable value per process, in rank order, on every process."""
    if get_world_size() == 1:
        return [value]
    values: list[Any] = [None] * get_world_size()
    dist.all_gather_object(values, value)
    return values


def gather(value: Any) -> list[Any] | None:
    """Collect one picklable value per process on rank 0; the others get None."""
    if get_world_size() == 1:
        return [value]
    values: list[Any] | None = [None] * get_world_size() if is_main_process() else None
    dist.gather_object(value, values, dst=0)
    return values


def broadcast(value: Any) -> Any:
    """Give rank 0's picklable value to every process."""
    if get_world_size() == 1:
        return value
    carrier = [value]
    dist.broadcast_object_list(carrier, src=0)
    return carrier[0]


def all_reduce_sum(tensor: torch.Tensor) -> torch.Tensor:
    """Sum a tensor over all processes.

    Args:
        tensor: any shape and device, the same on every process; left as it is.
    Returns:
        a new tensor, outside autograd.
    """
    total = tensor.detach().clone()
    if get_world_size() > 1:
        dist.all_reduce(total)
    return total


def all_reduce_mean(tensor: torch.Tensor) -> torch.Tensor:
    """Mean of a floating-point tensor over all processes, outside autograd."""
    return all_reduce_sum(tensor) / get_world_size()


def any_process(flag: bool) -> bool:
    """True on every process if the flag is set on at least one of them."""
    if get_world_size() == 1:
        return flag
    return bool(all_reduce_sum(torch.tensor([int(flag)]))[0])


def reduce_dict(
    values: Mapping[str, torch.Tensor], average: bool = True
) -> dict[str, torch.Tensor]:
    """Sum or average scalars of the same names over all processes, in one collective.

    Args:
        values: name to zero-dimensional tensor, all on one device, names equal everywhere.
        average: divide by the number of processes.
    Returns:
        name to reduced scalar, on every process, outside autograd.
    """
    if not values:
        return {}
    names = sorted(values)
    stacked = all_reduce_sum(torch.stack([values[name].detach().float() for name in names]))
    if average:
        stacked = stacked / get_world_size()
    return dict(zip(names, stacked.unbind()))
