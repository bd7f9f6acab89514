"""From a picture to a normalised tensor, boxes alongside."""

from maskrcnn_benchmark.data.transforms.build import build_normalize, build_transforms
from maskrcnn_benchmark.data.transforms.resize import resized_size
from maskrcnn_benchmark.data.transforms.transforms import (
    Compose,
    Normalize,
    NormalizePixels,
    RandomHorizontalFlip,
    Resize,
    ToTensor,
)
