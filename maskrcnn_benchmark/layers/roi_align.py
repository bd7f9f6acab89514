"""ROIAlign (He et al. 2017, Mask R-CNN section 3): features of boxes, sampled without rounding."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from maskrcnn_benchmark.layers import _native
from maskrcnn_benchmark.layers._checks import (
    at_least_single,
    check_device,
    check_floating,
    check_rank,
    check_shape,
)


def roi_align(
    input: Tensor,
    rois: Tensor,
    output_size: int | tuple[int, int],
    spatial_scale: float,
    sampling_ratio: int = -1,
    aligned: bool = False,
) -> Tensor:
    """Average of bilinear samples on a grid inside every bin of every box.

    Args:
        input: (batch, channels, height, width), floating point. Half precision is computed in
            float32 and returned in its own dtype.
        rois: (num_rois, 5) rows (batch index, x1, y1, x2, y2) in image pixels.
        output_size: bins per box, (height, width) or one number for both.
        spatial_scale: feature pixels per image pixel.
        sampling_ratio: samples per bin and axis; 0 or less takes ceil(box size / bins).
        aligned: shift by half a pixel and allow boxes smaller than one pixel (ROIAlignV2).

    Returns:
        (num_rois, channels, *output_size). The gradient goes to `input` only.

    Raises:
        ValueError, TypeError: naming the argument with a wrong shape, device, dtype or value.
    """
    height, width = _pair(output_size)
    check_rank("input", input, 4, "(batch, channels, height, width)")
    check_rank("rois", rois, 2, "(num_rois, 5)")
    check_shape("rois", rois, (rois.shape[0], 5), "batch index, x1, y1, x2, y2 per row")
    check_floating("input", input)
    check_floating("rois", rois)
    check_device("input", input, rois=rois)
    if height <= 0 or width <= 0:
        raise ValueError(f"output_size must be positive, got {output_size}")
    features = at_least_single(input)
    boxes = rois.detach().to(features.dtype)
    run = torch.ops.glip.roi_align if _native.usable(input) else roi_align_reference
    pooled = run(
        features, boxes, float(spatial_scale), height, width, int(sampling_ratio), bool(aligned)
    )
    return pooled.to(input.dtype)


def roi_align_reference(
    input: Tensor,
    rois: Tensor,
    spatial_scale: float,
    pooled_height: int,
    pooled_width: int,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    """`roi_align` by torchvision."""
    import torchvision  # not needed, and not asked to match PyTorch, where native operators run

    size = (pooled_height, pooled_width)
    return torchvision.ops.roi_align(input, rois, size, spatial_scale, sampling_ratio, aligned)


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))


class ROIAlign(nn.Module):
    """`roi_align` with its settings kept."""

    def __init__(
        self,
        output_size: int | tuple[int, int],
        spatial_scale: float,
        sampling_ratio: int = -1,
        aligned: bool = False,
    ) -> None:
        super().__init__()
        self.output_size = _pair(output_size)
        self.spatial_scale = spatial_scale
        self.sampling_ratio = sampling_ratio
        self.aligned = aligned

    def forward(self, input: Tensor, rois: Tensor) -> Tensor:
        """(batch, channels, height, width), (num_rois, 5) -> (num_rois, channels, *output_size)."""
        return roi_align(
            input, rois, self.output_size, self.spatial_scale, self.sampling_ratio, self.aligned
        )

    def extra_repr(self) -> str:
        return (
            f"output_size={self.output_size}, spatial_scale={self.spatial_scale}, "
            f"sampling_ratio={self.sampling_ratio}, aligned={self.aligned}"
        )
