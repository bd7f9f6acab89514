"""Checkpoint files on disk: read whatever users have, safely; write so that nothing half-done stays.

Reading knows torch files (zip and the older stream), safetensors and Caffe2 pickles, and says of
anything else what it seems to be. Code inside a pickle is never run unless the caller trusts the
file explicitly.
"""

import argparse
import collections
import contextlib
import logging
import os
import pickle
import re
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import safetensors
import safetensors.torch
import torch

from maskrcnn_benchmark.errors import UserError

from .c2_model_loading import read_caffe2_pickle

logger = logging.getLogger(__name__)

ZIP_START = b"PK\x03\x04"
TORCH_STREAM_START = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
PICKLE_START = b"\x80"
_TEMPORARY = re.compile(r"\..+\.\d+\.tmp")

# What files turn out to be that users mistake for weights.
_STARTS_OF_OTHER_FILES = {
    b"<!doctype": "a web page (a download that did not reach the file itself)",
    b"<html": "a web page (a download that did not reach the file itself)",
    b"version https://git-lfs": "a Git LFS pointer (fetch the file behind it with `git lfs pull`)",
    b"\x89png": "a PNG picture",
    b"\xff\xd8\xff": "a JPEG picture",
    b"\x1f\x8b": "a gzip archive (unpack it first)",
    b"\x93numpy": "a NumPy array",
}


class CheckpointError(UserError, RuntimeError):
    """A file cannot be used as a checkpoint; the message says why and what to do."""


def read_checkpoint(path: str | os.PathLike, *, trust: bool = False) -> dict[str, Any]:
    """Read a checkpoint of any supported kind into CPU memory.

    Args:
        path: a torch file with or without extension, ``.safetensors``, or a Caffe2 ``.pkl``.
        trust: run the code that an old pickle may carry. Only for files of known origin.
    Returns:
        what the file holds; a safetensors file gives ``{"model": tensors}``.
    Raises:
        FileNotFoundError: no such file.
        CheckpointError: not a checkpoint, cut short, or in need of trust.
    """
    path = Path(path)
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder; name the checkpoint file in it")
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint {path} does not exist")
    with path.open("rb") as file:
        start = file.read(64)
    if start.startswith(ZIP_START):
        contents = _read_torch_zip(path, trust)
    elif start.startswith(TORCH_STREAM_START):
        contents = _load(path, trust, mmap=False)
    elif _is_safetensors(path, start):
        contents = _read_safetensors(path)
    elif start.startswith(PICKLE_START):
        contents = _read_caffe2(path)
    else:
        raise CheckpointError(f"{path} is not a checkpoint: it is {_describe(start)}")
    if not isinstance(contents, dict):
        raise CheckpointError(
            f"{path} is not a checkpoint: it holds a {type(contents).__name__} "
            "where a dictionary of weights is expected"
        )
    return contents


def _describe(start: bytes) -> str:
    if not start:
        return "empty"
    head = start.lstrip().lower()
    for other, name in _STARTS_OF_OTHER_FILES.items():
        if head.startswith(other):
            return name
    return f"of no known format (it starts with {start[:8]!r})"


def _read_torch_zip(path: Path, trust: bool) -> Any:
    if not zipfile.is_zipfile(path):
        raise CheckpointError(
            f"{path} is cut short ({path.stat().st_size} bytes): its end is missing. "
            "Download or write it again."
        )
    with zipfile.ZipFile(path) as archive:
        if not any(name.endswith("/data.pkl") for name in archive.namelist()):
            raise CheckpointError(f"{path} is not a checkpoint: it is a plain zip archive")
    return _load(path, trust, mmap=True)


def _load(path: Path, trust: bool, mmap: bool) -> Any:
    if trust:
        logger.warning("running the code inside %s, as --trust-checkpoint asks", path)
        return torch.load(path, map_location="cpu", weights_only=False)
    try:
        with torch.serialization.safe_globals(_harmless_globals()):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} carries Python objects beside its weights{_names_of_objects(path)}, and "
            "reading them would run code. If you know where the file comes from, load it once "
            "with --trust-checkpoint (tools/convert_checkpoint.py then writes a plain copy)."
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged or cut short: {error}") from error


def _names_of_objects(path: Path) -> str:
    with contextlib.suppress(Exception):  # only decorates the error that follows
        harmless = {
            f"{g.__module__}.{g.__qualname__}" for g in _harmless_globals() if isinstance(g, type)
        }
        names = set(torch.serialization.get_unsafe_globals_in_checkpoint(path)) - harmless
        if names:
            return f" ({', '.join(sorted(names))})"
    return ""


def _harmless_globals() -> list[Any]:
    """Plain data that training scripts leave in checkpoints: NumPy numbers, counters, options."""
    scalar = np.float64(0).__reduce__()[0]
    array = np.zeros(0).__reduce__()[0]
    dtypes = {
        type(np.dtype(kind)) for kind in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "?")
    }
    return [
        scalar,
        _under_older_name(scalar, "scalar"),
        array,
        _under_older_name(array, "_reconstruct"),
        np.ndarray,
        np.dtype,
        *dtypes,
        collections.Counter,
        collections.defaultdict,
        argparse.Namespace,
    ]


def _under_older_name(function: Callable, name: str) -> Callable:
    """A function as NumPy 1 calls it in files; not every PyTorch takes pairs with a name."""

    def call(*arguments: Any) -> Any:
        return function(*arguments)

    call.__module__, call.__qualname__ = "numpy.core.multiarray", name
    return call


def _is_safetensors(path: Path, start: bytes) -> bool:
    if path.suffix == ".safetensors":
        return True
    if len(start) < 9:
        return False
    (header_length,) = struct.unpack("<Q", start[:8])
    return start[8:9] == b"{" and header_length + 8 <= path.stat().st_size


def _read_safetensors(path: Path) -> dict[str, Any]:
    try:
        return {"model": safetensors.torch.load_file(path)}
    except safetensors.SafetensorError as error:
        raise CheckpointError(f"{path} is damaged or cut short: {error}") from error


def _read_caffe2(path: Path) -> dict[str, Any]:
    try:
        return read_caffe2_pickle(path)
    except ValueError as error:
        raise CheckpointError(str(error)) from error


def write_checkpoint(path: str | os.PathLike, contents: dict[str, Any]) -> None:
    """Write a torch checkpoint; under its name there is never anything but a whole file.

    Raises:
        CheckpointError: the disk did not take it; an older file of that name is untouched.
    """
    write_atomically(path, lambda file: torch.save(contents, file))


def write_safetensors(
    path: str | os.PathLike,
    tensors: dict[str, torch.Tensor],
    metadata: dict[str, str] | None = None,
) -> None:
    """Write weights as safetensors, with strings about them; whole or not at all."""
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    data = safetensors.torch.save(plain, metadata={"format": "pt", **(metadata or {})})
    write_atomically(path, lambda file: file.write(data))


def write_atomically(path: str | os.PathLike, write: Callable[[BinaryIO], Any]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, force it to disk, then rename it.

    Raises:
        CheckpointError: writing failed, with the room left on the disk; nothing is left behind.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _force_folder_to_disk(path.parent)
    except (OSError, RuntimeError) as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise CheckpointError(
            f"could not write {path}: {error}{_room_left(path.parent)}"
        ) from error


def remove_stale_temporaries(folder: Path) -> None:
    """Remove what killed processes left of unfinished writes."""
    for path in folder.glob(".*.tmp"):
        if not _TEMPORARY.fullmatch(path.name):
            continue
        logger.info("removing %s, left by a write that was interrupted", path)
        path.unlink(missing_ok=True)


def _force_folder_to_disk(folder: Path) -> None:
    """Make the rename itself durable, where the system lets folders be opened."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _room_left(folder: Path) -> str:
    with contextlib.suppress(OSError):
        free = os.statvfs(folder)
        return f" ({free.f_bavail * free.f_frsize / 2**20:.0f} MiB free on this disk)"
    return ""
