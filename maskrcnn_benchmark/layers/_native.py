"""The compiled operators: where their libraries are, whether they are loaded, and for which devices.

Two libraries may lie beside the package: ``_ops_cpu`` (operator schemas and CPU kernels) and
``_ops_cuda`` (CUDA kernels). Both are built by ``setup.py`` against PyTorch's stable ABI, so one
build serves every PyTorch from 2.10 on. Without them every operator of ``maskrcnn_benchmark.layers``
runs on torchvision or plain PyTorch instead, and one log line at first use says so.

Set the environment variable ``MASKRCNN_NATIVE_OPS=0`` to leave the libraries alone.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path

import torch

logger = logging.getLogger(__name__)

MINIMUM_TORCH = (2, 10)
SWITCH = "MASKRCNN_NATIVE_OPS"
PACKAGE = Path(__file__).resolve().parent.parent


class _State:
    """What was loaded. `devices` are the device types with native kernels; `reason` says why not all."""

    def __init__(self) -> None:
        self.devices: tuple[str, ...] = ()
        self.reasons: dict[str, str] = {}
        self.enabled = True
        self.told: set[str] = set()


_state = _State()


def torch_version() -> tuple[int, int]:
    """Major and minor version of the running PyTorch."""
    match = re.match(r"(\d+)\.(\d+)", torch.__version__)
    if match is None:
        raise RuntimeError(
            f"cannot read a version number from torch.__version__ = {torch.__version__!r}"
        )
    return int(match[1]), int(match[2])


def library_path(name: str) -> Path | None:
    """Path of the built library `name` (``_ops_cpu`` or ``_ops_cuda``), None if it was not built."""
    candidates = sorted(PACKAGE.glob(f"{name}*.so"))
    return candidates[0] if candidates else None


def _load(name: str) -> str | None:
    """Load one library; returns why it could not be loaded, None on success."""
    path = library_path(name)
    if path is None:
        return f"{name} was not built"
    try:
        torch.ops.load_library(str(path))
    except (OSError, RuntimeError) as error:
        return f"{path.name} does not load: {error}"
    return None


def load() -> None:
    """Load what can be loaded. Called once, when ``maskrcnn_benchmark.layers`` is imported."""
    if _state.devices or _state.reasons:
        return
    if os.environ.get(SWITCH, "1") == "0":
        _state.reasons = dict.fromkeys(("cpu", "cuda"), f"{SWITCH}=0")
        return
    if torch_version() < MINIMUM_TORCH:
        needed = ".".join(map(str, MINIMUM_TORCH))
        reason = f"they need PyTorch {needed} or newer, this is {torch.__version__}"
        _state.reasons = dict.fromkeys(("cpu", "cuda"), reason)
        return
    if (problem := _load("_ops_cpu")) is not None:
        _state.reasons = dict.fromkeys(("cpu", "cuda"), problem)
        return
    try:
        importlib.import_module("maskrcnn_benchmark.layers._registrations")
    except RuntimeError as error:
        reason = f"_ops_cpu was built from other sources ({error}); build it again"
        _state.reasons = dict.fromkeys(("cpu", "cuda"), reason)
        return
    devices = ["cpu", "meta"]
    if torch.version.cuda is None:
        _state.reasons["cuda"] = "this PyTorch is built without CUDA"
    elif (problem := _load("_ops_cuda")) is not None:
        _state.reasons["cuda"] = problem
    else:
        devices.append("cuda")
    _state.devices = tuple(devices)


def loaded() -> bool:
    """True if the operator schemas (and so at least the CPU kernels) are registered."""
    return "cpu" in _state.devices


def usable(tensor: torch.Tensor) -> bool:
    """True if the native operator serves the device of `tensor`; says once per device if not."""
    device = tensor.device.type
    if _state.enabled and device in _state.devices:
        return True
    if _state.enabled and not torch.compiler.is_compiling():
        _tell_once(device)
    return False


def _tell_once(device: str) -> None:
    if device in _state.told:
        return
    _state.told.add(device)
    reason = _state.reasons.get(device, "no kernels for this device")
    logger.warning("Operators on %s run on torchvision and plain PyTorch: %s.", device, reason)


@contextlib.contextmanager
def disabled() -> Iterator[None]:
    """Inside this context the operators run on torchvision and plain PyTorch (for comparisons)."""
    before = _state.enabled
    _state.enabled = False
    try:
        yield
    finally:
        _state.enabled = before


def describe() -> dict[str, str]:
    """Device type -> which backend serves its operators, in words."""
    words = {}
    for device in ("cpu", "cuda"):
        if device in _state.devices:
            words[device] = f"native ({cpu_capability()})" if device == "cpu" else "native"
        else:
            reason = _state.reasons.get(device, "not loaded")
            words[device] = f"torchvision and plain PyTorch ({reason})"
    return words


def cpu_capability() -> str:
    """Instruction set of the CPU kernels in use: default, avx2, avx512 or avx512_bf16."""
    function = ctypes.CDLL(str(library_path("_ops_cpu"))).glip_cpu_capability
    function.restype = ctypes.c_char_p
    return function().decode()


load()
