"""Argument checks of the operators: every message names the argument and what it should be."""

from __future__ import annotations

import torch

REDUCED = (torch.float16, torch.bfloat16)


def check_rank(name: str, tensor: torch.Tensor, rank: int, layout: str) -> None:
    """Raise ValueError unless `tensor` has `rank` dimensions (`layout` describes them)."""
    if tensor.dim() != rank:
        raise ValueError(f"{name} must have shape {layout}, got {tuple(tensor.shape)}")


def check_shape(name: str, tensor: torch.Tensor, expected: tuple[int, ...], why: str) -> None:
    """Raise ValueError unless `tensor` has exactly the shape `expected`."""
    if tuple(tensor.shape) != tuple(expected):
        raise ValueError(
            f"{name} must have shape {tuple(expected)} ({why}), got {tuple(tensor.shape)}"
        )


def check_floating(name: str, tensor: torch.Tensor) -> None:
    """Raise TypeError unless `tensor` holds floating-point numbers."""
    if not tensor.is_floating_point():
        raise TypeError(f"{name} must be floating point, got {tensor.dtype}")


def check_integer(name: str, tensor: torch.Tensor) -> None:
    """Raise TypeError unless `tensor` holds integers."""
    if tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool:
        raise TypeError(f"{name} must hold integers, got {tensor.dtype}")


def check_same(first: str, reference: torch.Tensor, **others: torch.Tensor | None) -> None:
    """Raise unless all `others` have the device (ValueError) and dtype (TypeError) of `reference`."""
    check_device(first, reference, **others)
    for name, tensor in others.items():
        if tensor is not None and tensor.dtype != reference.dtype:
            raise TypeError(
                f"{name} must have the dtype of {first} ({reference.dtype}), got {tensor.dtype}"
            )


def check_device(first: str, reference: torch.Tensor, **others: torch.Tensor | None) -> None:
    """Raise ValueError unless all `others` are on the device of `reference`."""
    for name, tensor in others.items():
        if tensor is not None and tensor.device != reference.device:
            raise ValueError(
                f"{name} must be on the device of {first} ({reference.device}), got {tensor.device}"
            )


def at_least_single(tensor: torch.Tensor) -> torch.Tensor:
    """Half and bfloat16 as float32; float32 and float64 as they are."""
    return tensor.float() if tensor.dtype in REDUCED else tensor
