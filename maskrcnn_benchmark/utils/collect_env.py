"""What runs here: versions, devices, and which operators are active.

Run as ``python -m maskrcnn_benchmark.utils.collect_env``; its output belongs into every bug report.
"""

import os
import platform
from importlib import metadata

import torch

from maskrcnn_benchmark.layers import _native

PACKAGES = (
    "maskrcnn-benchmark",
    "torchvision",
    "transformers",
    "timm",
    "numpy",
    "pillow",
    "yacs",
    "safetensors",
    "pycocotools",
    "faster-coco-eval",
    "lvis",
    "nltk",
)


def collect_env_info() -> str:
    """Versions, devices and active operators, one fact per line."""
    rows = [
        ("system", platform.platform()),
        ("python", platform.python_version()),
        ("torch", torch.__version__),
        *((name, _version(name)) for name in PACKAGES),
        ("CUDA of torch", torch.version.cuda or "none, built for the CPU"),
        ("processors", f"{os.cpu_count()}, torch uses {torch.get_num_threads()} threads"),
        *_devices(),
        *((f"operators on {device}", backend) for device, backend in _native.describe().items()),
    ]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _devices() -> list[tuple[str, str]]:
    if not torch.cuda.is_available():
        return [("GPU", "none available")]
    found = []
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        capability = f"{properties.major}.{properties.minor}"
        memory = f"{properties.total_memory / 2**30:.0f} GiB"
        found.append((f"GPU {index}", f"{properties.name}, capability {capability}, {memory}"))
    return found


if __name__ == "__main__":
    print(collect_env_info())
