"""The operators on a GPU give what they give on the CPU."""

import pytest
import torch
from torch import Tensor

from maskrcnn_benchmark.layers import (
    _native,
    ml_nms,
    modulated_deform_conv,
    nms,
    roi_align,
    sigmoid_focal_loss,
    soft_nms,
    token_sigmoid_focal_loss,
)

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.fixture(params=["native", "reference"])
def gpu_backend(request):
    """CUDA kernels of our own where they are built, and what stands in for them."""
    if request.param == "native":
        if "cuda" not in _native._state.devices:
            pytest.skip(f"the CUDA kernels are not loaded: {_native.describe()['cuda']}")
        yield
    else:
        with _native.disabled():
            yield


def random_boxes(generator: torch.Generator, count: int) -> Tensor:
    corners = torch.rand(count, 2, generator=generator) * 600
    return torch.cat((corners, corners + torch.rand(count, 2, generator=generator) * 90), 1)


def on_both(function, *tensors: Tensor):
    """Results and gradients on CPU and GPU, in float64."""
    outcomes = []
    for device in ("cpu", "cuda"):
        leaves = [
            tensor.detach().to(device).requires_grad_(tensor.is_floating_point())
            for tensor in tensors
        ]
        result = function(*leaves)
        result.cos().sum().backward()
        outcomes.append([result, *(leaf.grad for leaf in leaves)])
    return zip(*outcomes)


@pytest.mark.parametrize("count", [0, 1, 65, 3000])
def test_suppression(gpu_backend, generator, count):
    boxes = random_boxes(generator, count)
    scores = torch.rand(count, generator=generator)
    labels = torch.randint(0, 9, (count,), generator=generator)

    kept = nms(boxes.cuda(), scores.cuda(), 0.4).cpu()
    kept_by_label = ml_nms(boxes.cuda(), scores.cuda(), labels.cuda(), 0.4).cpu()
    softly, decayed = soft_nms(boxes.cuda(), scores.cuda(), 0.2, 0.5)

    assert torch.equal(kept, nms(boxes, scores, 0.4))
    assert torch.equal(kept_by_label, ml_nms(boxes, scores, labels, 0.4))
    assert torch.equal(softly.cpu(), soft_nms(boxes, scores, 0.2, 0.5)[0])
    assert decayed.is_cuda


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("sampling_ratio", [-1, 2])
def test_roi_align(gpu_backend, generator, sampling_ratio, layout):
    features = torch.rand(2, 33, 40, 50, generator=generator).double().to(memory_format=layout)
    image = torch.randint(0, 2, (50, 1), generator=generator)
    rois = torch.cat((image, random_boxes(generator, 50)), 1).double()

    for cpu, gpu in on_both(
        lambda x: roi_align(x, rois.to(x.device), 7, 0.0625, sampling_ratio), features
    ):
        torch.testing.assert_close(cpu, gpu.cpu(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("groups", "deformable_groups", "stride"), [(1, 1, 1), (2, 3, 2)])
def test_deform_conv(gpu_backend, generator, groups, deformable_groups, stride):
    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).double()

    size = (18 // stride, 22 // stride)
    maps = normal(2, 18 * deformable_groups, *size), normal(2, 9 * deformable_groups, *size)
    tensors = (normal(2, 12, 18, 22), *maps, normal(8, 12 // groups, 3, 3), normal(8))

    for cpu, gpu in on_both(
        lambda *t: modulated_deform_conv(*t, stride, 1, 1, groups, deformable_groups), *tensors
    ):
        torch.testing.assert_close(cpu, gpu.cpu(), rtol=1e-8, atol=1e-8)


def test_focal_losses(gpu_backend, generator):
    logits = (torch.randn(2, 300, 37, generator=generator) * 5).double()
    targets = (torch.rand(2, 300, 37, generator=generator) < 0.1).double()
    mask = torch.rand(2, 37, generator=generator) < 0.7
    labels = torch.randint(-1, 38, (600,), generator=generator)

    def class_loss(z: Tensor) -> Tensor:
        return sigmoid_focal_loss(z.flatten(0, 1), labels.to(z.device), 2.0, 0.25)

    def token_loss(z: Tensor) -> Tensor:
        return token_sigmoid_focal_loss(z, targets.to(z.device), mask.to(z.device))

    for function in (class_loss, token_loss):
        for cpu, gpu in on_both(function, logits):
            torch.testing.assert_close(cpu, gpu.cpu(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast(gpu_backend, generator, dtype):
    input = torch.randn(1, 8, 9, 9, generator=generator).cuda()
    maps = torch.randn(1, 27, 9, 9, generator=generator).cuda()
    weight = torch.randn(4, 8, 3, 3, generator=generator).cuda()

    with torch.autocast("cuda", dtype=dtype):
        result = modulated_deform_conv(
            input.to(dtype), maps[:, :18], maps[:, 18:], weight, None, 1, 1
        )

    assert result.dtype == torch.float32


def test_opcheck(generator):
    if "cuda" not in _native._state.devices:
        pytest.skip(f"the CUDA kernels are not loaded: {_native.describe()['cuda']}")
    input = torch.randn(1, 4, 6, 7, generator=generator).cuda().requires_grad_()
    maps = torch.randn(1, 27, 6, 7, generator=generator).cuda()
    weight = torch.randn(4, 4, 3, 3, generator=generator).cuda().requires_grad_()
    boxes = random_boxes(generator, 20).cuda()
    scores = torch.rand(20, generator=generator).cuda()

    arguments = (input, maps[:, :18], maps[:, 18:], weight, None, *[1] * 8)
    torch.library.opcheck(torch.ops.glip.deform_conv.default, arguments)
    torch.library.opcheck(torch.ops.glip.nms.default, (boxes, scores, 0.4))
