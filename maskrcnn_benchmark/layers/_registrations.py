"""Shapes (for meta tensors and torch.compile) and gradients of the native operators.

Importing this module needs the CPU library loaded, which brings the schemas of ``torch.ops.glip``.
"""

from __future__ import annotations

import torch
from torch import Tensor

_ops = torch.ops.glip


def _fake_kept(boxes: Tensor, *_arguments: object) -> Tensor:
    return boxes.new_empty(_kept_count(), dtype=torch.int64)


def _kept_count() -> torch.SymInt:
    """A number that depends on the data."""
    return torch.library.get_ctx().new_dynamic_size()


@torch.library.register_fake("glip::soft_nms")
def _fake_soft_nms(
    boxes: Tensor, scores: Tensor, score_threshold: float, sigma: float
) -> tuple[Tensor, Tensor]:
    count = _kept_count()
    return boxes.new_empty(count, dtype=torch.int64), scores.new_empty(count)


@torch.library.register_fake("glip::roi_align")
def _fake_roi_align(
    input: Tensor,
    rois: Tensor,
    spatial_scale: float,
    pooled_height: int,
    pooled_width: int,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    return input.new_empty(rois.shape[0], input.shape[1], pooled_height, pooled_width)


@torch.library.register_fake("glip::roi_align_backward")
def _fake_roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    spatial_scale: float,
    batch: int,
    height: int,
    width: int,
    sampling_ratio: int,
    aligned: bool,
    channels_innermost: bool,
) -> Tensor:
    size = (batch, grad_output.shape[1], height, width)
    if channels_innermost:
        return _empty_channels_last(grad_output, size)
    return grad_output.new_empty(size)


def _roi_align_context(ctx, inputs, output: Tensor) -> None:
    input, rois, *settings = inputs
    ctx.save_for_backward(rois)
    ctx.settings = settings
    ctx.input_shape = input.shape
    ctx.channels_innermost = _is_channels_last(input)


def _roi_align_gradient(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
    (rois,) = ctx.saved_tensors
    scale, _, _, sampling_ratio, aligned = ctx.settings
    batch, _, height, width = ctx.input_shape
    grad_input = _ops.roi_align_backward(
        grad, rois, scale, batch, height, width, sampling_ratio, aligned, ctx.channels_innermost
    )
    return grad_input, None, None, None, None, None, None


@torch.library.register_fake("glip::deform_conv")
def _fake_deform_conv(
    input: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    *_settings: int,
) -> Tensor:
    size = (input.shape[0], weight.shape[0], offset.shape[2], offset.shape[3])
    if _is_channels_last(input):
        return _empty_channels_last(input, size)
    return input.new_empty(size)


@torch.library.register_fake("glip::deform_conv_backward")
def _fake_deform_conv_backward(
    grad_output: Tensor,
    input: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    weight: Tensor,
    stride_height: int,
    stride_width: int,
    padding_height: int,
    padding_width: int,
    dilation_height: int,
    dilation_width: int,
    groups: int,
    deformable_groups: int,
    need_samples: bool,
    need_weight: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    nothing = (0,)
    if not need_samples:
        grad_input = input.new_empty(nothing)
    elif _is_channels_last(input):
        grad_input = _empty_channels_last(input, tuple(input.shape))
    else:
        grad_input = input.new_empty(input.shape)
    return (
        grad_input,
        input.new_empty(offset.shape if need_samples else nothing),
        input.new_empty(mask.shape if need_samples and mask is not None else nothing),
        input.new_empty(weight.shape if need_weight else nothing),
    )


def _deform_conv_context(ctx, inputs, output: Tensor) -> None:
    input, offset, mask, weight, bias, *settings = inputs
    ctx.save_for_backward(input, offset, mask, weight)
    ctx.settings = settings
    ctx.has_bias = bias is not None


def _deform_conv_gradient(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
    input, offset, mask, weight = ctx.saved_tensors
    dtype = input.dtype
    need_input, need_offset, need_mask, need_weight, need_bias = ctx.needs_input_grad[:5]
    grads: list[Tensor | None] = [None] * 4
    if need_input or need_offset or need_mask or need_weight:
        # Sums over thousands of pixels: bfloat16 tensors are widened on the way back.
        tensors = (grad, input, offset, mask, weight)
        grads = list(
            _ops.deform_conv_backward(
                *(_widened(tensor) for tensor in tensors),
                *ctx.settings,
                need_input or need_offset or need_mask,
                need_weight,
            )
        )
    grad_bias = grad.sum((0, 2, 3)) if need_bias and ctx.has_bias else None
    return (
        grads[0].to(dtype) if need_input else None,
        grads[1] if need_offset else None,
        grads[2] if need_mask and mask is not None else None,
        grads[3].to(dtype) if need_weight else None,
        grad_bias,
        *[None] * len(ctx.settings),
    )


def _widened(tensor: Tensor | None) -> Tensor | None:
    return tensor.float() if tensor is not None and tensor.dtype == torch.bfloat16 else tensor


def _is_channels_last(tensor: Tensor) -> bool:
    """True for channels-last memory that is not row-major as well (csrc/torch_abi.h)."""
    _, channels, height, width = tensor.shape
    if channels == 1 or height * width == 1:
        return False
    expected = (channels * height * width, 1, channels * width, channels)
    return all(
        size == 1 or stride == wanted
        for size, stride, wanted in zip(tensor.shape, tensor.stride(), expected)
    )


def _empty_channels_last(like: Tensor, size: tuple[int, ...]) -> Tensor:
    batch, channels, height, width = size
    strides = (height * width * channels, 1, width * channels, channels)
    return like.new_empty_strided((batch, channels, height, width), strides)


@torch.library.register_fake("glip::dynamic_mean")
def _fake_dynamic_mean(first: Tensor, *_arguments: object) -> Tensor:
    return _empty_channels_last(first, tuple(first.shape))


@torch.library.register_fake("glip::dynamic_mean_backward")
def _fake_dynamic_mean_backward(
    grad_output: Tensor,
    first: Tensor,
    second: Tensor | None,
    third: Tensor | None,
    weights: Tensor,
    pieces: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    grad_maps = [
        first.new_empty((0,)) if x is None else _empty_channels_last(x, tuple(x.shape))
        for x in (first, second, third)
    ]
    return *grad_maps, weights.new_empty(weights.shape), pieces.new_empty(pieces.shape)


def _dynamic_mean_context(ctx, inputs, output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _dynamic_mean_gradient(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
    grads = _ops.dynamic_mean_backward(grad, *ctx.saved_tensors)
    return tuple(
        None if x is None else grad for x, grad in zip(ctx.saved_tensors, grads, strict=True)
    )


@torch.library.register_fake("glip::sigmoid_focal_loss")
def _fake_sigmoid_focal_loss(logits: Tensor, *_arguments: object) -> Tensor:
    return logits.new_empty(logits.shape)


@torch.library.register_fake("glip::sigmoid_focal_loss_backward")
def _fake_sigmoid_focal_loss_backward(
    grad_loss: Tensor, logits: Tensor, *_arguments: object
) -> Tensor:
    return logits.new_empty(logits.shape)


def _sigmoid_focal_loss_context(ctx, inputs, output: Tensor) -> None:
    logits, targets, ctx.gamma, ctx.alpha = inputs
    ctx.save_for_backward(logits, targets)


def _sigmoid_focal_loss_gradient(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
    logits, targets = ctx.saved_tensors
    grad_logits = _ops.sigmoid_focal_loss_backward(grad, logits, targets, ctx.gamma, ctx.alpha)
    return grad_logits, None, None, None


@torch.library.register_fake("glip::token_sigmoid_focal_loss")
def _fake_token_sigmoid_focal_loss(logits: Tensor, *_arguments: object) -> Tensor:
    return logits.new_empty(())


@torch.library.register_fake("glip::token_sigmoid_focal_loss_backward")
def _fake_token_sigmoid_focal_loss_backward(
    grad_loss: Tensor, logits: Tensor, *_arguments: object
) -> Tensor:
    return logits.new_empty(logits.shape)


def _token_sigmoid_focal_loss_context(ctx, inputs, output: Tensor) -> None:
    logits, targets, counted, ctx.alpha, ctx.gamma = inputs
    ctx.save_for_backward(logits, targets, counted)


def _token_sigmoid_focal_loss_gradient(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
    grad_logits = _ops.token_sigmoid_focal_loss_backward(
        grad, *ctx.saved_tensors, ctx.alpha, ctx.gamma
    )
    return grad_logits, None, None, None, None


torch.library.register_fake("glip::nms", _fake_kept)
torch.library.register_fake("glip::ml_nms", _fake_kept)
for _name, _gradient, _context in (
    ("roi_align", _roi_align_gradient, _roi_align_context),
    ("deform_conv", _deform_conv_gradient, _deform_conv_context),
    ("dynamic_mean", _dynamic_mean_gradient, _dynamic_mean_context),
    ("sigmoid_focal_loss", _sigmoid_focal_loss_gradient, _sigmoid_focal_loss_context),
    (
        "token_sigmoid_focal_loss",
        _token_sigmoid_focal_loss_gradient,
        _token_sigmoid_focal_loss_context,
    ),
):
    torch.library.register_autograd(f"glip::{_name}", _gradient, setup_context=_context)
