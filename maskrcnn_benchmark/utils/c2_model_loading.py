"""Caffe2 weights (Detectron ``.pkl``) of ResNet backbones.

These files are pickles of NumPy arrays. They are read by an unpickler that knows arrays and
nothing else, so a file cannot run code.
"""

import io
import logging
import os
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch

from maskrcnn_benchmark.errors import DataError

logger = logging.getLogger(__name__)

_RENAMES = (
    (r"^conv1_", "conv1."),
    (r"^res_conv1_bn_", "bn1."),
    (r"^res([2-5])_(\d+)_", lambda m: f"layer{int(m[1]) - 1}.{m[2]}."),
    (r"branch1_bn_", "downsample.1."),
    (r"branch1_", "downsample.0."),
    (r"branch2a_bn_", "bn1."),
    (r"branch2b_bn_", "bn2."),
    (r"branch2c_bn_", "bn3."),
    (r"branch2a_", "conv1."),
    (r"branch2b_", "conv2."),
    (r"branch2c_", "conv3."),
)
_LEAVES = {"w": "weight", "b": "bias", "s": "weight", "rm": "running_mean", "riv": "running_var"}


_ALLOWED_GLOBALS = {
    ("numpy.core.multiarray", "_reconstruct"): np.zeros(0).__reduce__()[0],
    ("numpy._core.multiarray", "_reconstruct"): np.zeros(0).__reduce__()[0],
    ("numpy.core.multiarray", "scalar"): np.float64(0).__reduce__()[0],
    ("numpy._core.multiarray", "scalar"): np.float64(0).__reduce__()[0],
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    # How Python 3 writes the bytes of an array in old pickle protocols.
    ("_codecs", "encode"): lambda text, encoding: text.encode("latin1"),
}


class _ArraysOnly(pickle.Unpickler):
    """An unpickler for dictionaries, numbers, strings and NumPy arrays."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED_GLOBALS:
            raise pickle.UnpicklingError(f"it refers to {module}.{name}")
        return _ALLOWED_GLOBALS[(module, name)]


def read_caffe2_pickle(path: str | os.PathLike) -> dict[str, Any]:
    """Read a Caffe2 pickle into ``{"model": {torchvision-style name: tensor}}``.

    Raises:
        DataError: the pickle holds anything but arrays, or no arrays at all.
    """
    try:
        contents = _ArraysOnly(io.BytesIO(Path(path).read_bytes()), encoding="latin1").load()
    except (pickle.UnpicklingError, EOFError, KeyError, IndexError, UnicodeError) as error:
        raise DataError(
            f"{path} is not a checkpoint: it is a pickle of other things than arrays ({error})"
        ) from error
    blobs = contents.get("blobs", contents) if isinstance(contents, dict) else {}
    weights = {
        rename_blob(name): torch.from_numpy(np.array(value))
        for name, value in blobs.items()
        if isinstance(value, np.ndarray)
        and value.dtype.kind in "fiu"
        and not name.endswith("_momentum")
    }
    if not weights:
        raise DataError(f"{path} is not a checkpoint: it is a pickle without arrays")
    return {"model": weights}


def rename_blob(name: str) -> str:
    """Torchvision-style name of a ResNet blob, ``res2_0_branch2a_w`` to ``layer1.0.conv1.weight``."""
    for pattern, replacement in _RENAMES:
        name = re.sub(pattern, replacement, name)
    stem, _, leaf = name.rpartition(".")
    return f"{stem}.{_LEAVES.get(leaf, leaf)}" if stem else name
