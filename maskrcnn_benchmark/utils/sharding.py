"""Tensors of which every process holds a part (FSDP2), and how they meet ordinary ones.

A sharded parameter is a ``DTensor``. Files always hold whole tensors under the same names, however
many processes wrote them.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch.distributed.tensor import DTensor, Replicate


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """The full tensor; all processes together where it is sharded. Others are returned as is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def local(tensor: torch.Tensor) -> torch.Tensor:
    """The part that this process holds, sharing memory; a tensor that is not sharded itself."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def like(value: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """A whole tensor that every process holds, on the device of ``target`` and sharded as it is."""
    value = value.to(target.device)
    if not isinstance(target, DTensor) or isinstance(value, DTensor):
        return value
    mesh = target.device_mesh
    everywhere = DTensor.from_local(value, mesh, [Replicate()] * mesh.ndim, run_check=False)
    return everywhere.redistribute(placements=target.placements)


def gathered(contents: Any, keep: bool) -> Any:
    """A nested structure with its sharded tensors made whole in CPU memory, one after the other.

    Everything else is left as it is, on its device.

    Args:
        contents: dicts, lists and tuples of anything, equally ordered on all processes.
        keep: False drops the whole tensors, on processes that only help to gather.
    """
    if isinstance(contents, DTensor):
        full = contents.detach().full_tensor()
        return full.cpu() if keep else None
    if isinstance(contents, Mapping):
        return {key: gathered(value, keep) for key, value in contents.items()}
    if isinstance(contents, (list, tuple)):
        return type(contents)(gathered(value, keep) for value in contents)
    return contents


def is_sharded(tensors: Iterable[torch.Tensor]) -> bool:
    """True if one of them is."""
    return any(isinstance(tensor, DTensor) for tensor in tensors)
