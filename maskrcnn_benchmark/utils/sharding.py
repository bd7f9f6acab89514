"""Tensors of which every process holds a part (FSDP2), and how they meet ordinary ones.

A sharded parameter is a ``DTensor``. Files always hold whole tensors under the same names, however
many processes wrote them.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch.distributed.tensor import DTensor, Replicate

from . import comm


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


def whole_on_main_process(contents: Any) -> Any:
    """A nested structure whose sharded tensors are whole, in CPU memory; what a file holds.

    One tensor is gathered at a time. On the other processes, which have to call this as well, the
    whole tensors are dropped. Everything else is left as it is, on its device.

    Args:
        contents: dicts, lists and tuples of anything, with the sharded tensors in the same order on
            all processes.
    """
    if isinstance(contents, DTensor):
        full = contents.detach().full_tensor()
        return full.cpu() if comm.is_main_process() else None
    if isinstance(contents, Mapping):
        return {key: whole_on_main_process(value) for key, value in contents.items()}
    if isinstance(contents, (list, tuple)):
        return type(contents)(whole_on_main_process(value) for value in contents)
    return contents
