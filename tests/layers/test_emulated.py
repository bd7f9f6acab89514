"""Code for hardware that may be missing, run on what is there.

The CUDA sources are compiled as plain C++ in which one thread does all the work; the AVX-512 kernels
are compiled with the same vector widths for any processor. Both must agree with the CPU operators.
"""

import pytest
import torch
from torch import Tensor

from tests.layers.conftest import HARNESSES, REPOSITORY

pytestmark = pytest.mark.slow  # compiles


@pytest.fixture(scope="module", params=["cuda", "wide"])
def emulated(request, load_harness):
    """The namespace of operators under test."""
    if request.param == "cuda":
        cuda = REPOSITORY / "csrc" / "cuda"
        load_harness("cuda_on_cpu", [HARNESSES / "cuda_on_cpu.cpp"], f"-I{cuda}")
        return torch.ops.glip_emulated
    cpu = REPOSITORY / "csrc" / "cpu"
    operators = [path for path in sorted(cpu.glob("*.cpp")) if not path.name.startswith("kernels")]
    load_harness(
        "wide",
        [*operators, HARNESSES / "wide_kernels.cpp"],
        '-DGLIP_OPERATOR_NAMESPACE="glip_wide"',
    )
    return torch.ops.glip_wide


def random_boxes(generator: torch.Generator, count: int, dtype: torch.dtype) -> Tensor:
    corners = torch.rand(count, 2, generator=generator) * 200
    sides = torch.rand(count, 2, generator=generator) * 60
    return torch.cat((corners, corners + sides), 1).to(dtype)


def close(results, expected, tolerance: float) -> None:
    results, expected = (
        (value,) if isinstance(value, Tensor) else value for value in (results, expected)
    )
    for result, value in zip(results, expected):
        assert result.stride() == value.stride()
        torch.testing.assert_close(result, value, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("count", [0, 1, 63, 64, 65, 500])
def test_suppression(emulated, generator, count, dtype):
    boxes = random_boxes(generator, count, dtype)
    scores = torch.rand(count, generator=generator).to(dtype)
    labels = torch.randint(0, 5, (count,), generator=generator)

    for threshold in (0.0, 0.3, 0.6):
        for name, arguments in (("nms", ()), ("ml_nms", (labels,))):
            result = getattr(emulated, name)(boxes, scores, *arguments, threshold)
            expected = getattr(torch.ops.glip, name)(boxes, scores, *arguments, threshold)
            assert torch.equal(result, expected)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("sampling_ratio", [-1, 2])
@pytest.mark.parametrize("count", [0, 1, 40])
def test_roi_align(emulated, generator, count, sampling_ratio, layout):
    features = torch.rand(2, 37, 20, 24, generator=generator).double().to(memory_format=layout)
    image = torch.randint(0, 2, (count, 1), generator=generator)
    rois = torch.cat((image, random_boxes(generator, count, torch.float64)), 1)
    upstream = torch.rand(count, 37, 3, 4, generator=generator).double()

    settings = (rois, 0.125, 3, 4, sampling_ratio, False)
    close(
        emulated.roi_align(features, *settings),
        torch.ops.glip.roi_align(features, *settings),
        1e-10,
    )
    innermost = layout == torch.channels_last
    back = (rois, 0.125, 2, 20, 24, sampling_ratio, False, innermost)
    close(
        emulated.roi_align_backward(upstream, *back),
        torch.ops.glip.roi_align_backward(upstream, *back),
        1e-10,
    )


@pytest.mark.parametrize(
    ("channels", "outputs", "groups", "deformable_groups", "kernel", "stride"),
    [
        (3, 4, 1, 1, 3, 1),
        (40, 70, 1, 1, 3, 2),
        (12, 8, 2, 3, 2, 1),
        (300, 33, 1, 1, 1, 1),
    ],
)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("masked", [True, False])
def test_deform_conv(
    emulated,
    generator,
    channels,
    outputs,
    groups,
    deformable_groups,
    kernel,
    stride,
    layout,
    masked,
):
    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).double()

    height, width = (n + 2 - kernel for n in (13, 9))
    height, width = height // stride + 1, width // stride + 1
    points = deformable_groups * kernel**2
    input = normal(2, channels, 13, 9).to(memory_format=layout)
    maps = (normal(2, 2 * points, height, width) * 2, normal(2, points, height, width))
    maps = (maps[0], maps[1] if masked else None)
    weight, bias = normal(outputs, channels // groups, kernel, kernel), normal(outputs)
    settings = (stride, stride, 1, 1, 1, 1, groups, deformable_groups)

    result = emulated.deform_conv(input, *maps, weight, bias, *settings)
    expected = torch.ops.glip.deform_conv(input, *maps, weight, bias, *settings)
    close(result, expected, 1e-9)

    arguments = (torch.randn_like(expected), input, *maps, weight, *settings)
    for wanted in ((True, True), (True, False), (False, True)):
        close(
            emulated.deform_conv_backward(*arguments, *wanted),
            torch.ops.glip.deform_conv_backward(*arguments, *wanted),
            1e-9,
        )


def test_deform_conv_of_an_empty_batch(emulated):
    arguments = (torch.zeros(0, 3, 4, 4), torch.zeros(0, 18, 4, 4), torch.zeros(0, 9, 4, 4))
    weight, settings = torch.zeros(2, 3, 3, 3), (1, 1, 1, 1, 1, 1, 1, 1)

    assert emulated.deform_conv(*arguments, weight, None, *settings).shape == (0, 2, 4, 4)
    grads = emulated.deform_conv_backward(
        torch.zeros(0, 2, 4, 4), *arguments, weight, *settings, True, True
    )
    assert torch.equal(grads[3], torch.zeros_like(weight))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("gamma", [2.0, 1.5])
@pytest.mark.parametrize("columns", [1, 16, 37])
def test_class_focal_loss(emulated, generator, columns, gamma, dtype):
    logits = (torch.randn(20, columns, generator=generator) * 6).to(dtype)
    targets = torch.randint(-1, columns + 2, (20,), generator=generator, dtype=torch.int32)
    arguments = (logits, targets, gamma, 0.25)

    close(
        emulated.sigmoid_focal_loss(*arguments), torch.ops.glip.sigmoid_focal_loss(*arguments), 1e-5
    )
    close(
        emulated.sigmoid_focal_loss_backward(logits.cos(), *arguments),
        torch.ops.glip.sigmoid_focal_loss_backward(logits.cos(), *arguments),
        1e-5,
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("alpha", [0.25, -1.0])
@pytest.mark.parametrize("anchors", [0, 7])
def test_token_focal_loss(emulated, generator, anchors, alpha, dtype):
    logits = (torch.randn(2, anchors, 37, generator=generator) * 6).to(dtype)
    targets = (torch.rand(2, anchors, 37, generator=generator) < 0.3).to(dtype)
    counted = torch.rand(2, 37, generator=generator) < 0.7
    arguments = (logits, targets, counted, alpha, 2.0)
    upstream = torch.tensor(3.0, dtype=dtype)

    close(
        emulated.token_sigmoid_focal_loss(*arguments),
        torch.ops.glip.token_sigmoid_focal_loss(*arguments),
        1e-5,
    )
    close(
        emulated.token_sigmoid_focal_loss_backward(upstream, *arguments),
        torch.ops.glip.token_sigmoid_focal_loss_backward(upstream, *arguments),
        1e-5,
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("channels", [5, 16, 96])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_dynamic_mean(emulated, generator, count, channels, dtype):
    if emulated.name != "glip_wide":
        pytest.skip("on a GPU this is plain PyTorch")
    maps = [
        torch.randn(2, channels, 9, 10, generator=generator)
        .to(dtype)
        .to(memory_format=torch.channels_last)
        for _ in range(count)
    ]
    absent = [None] * (3 - count)
    weights = torch.rand(2, count, generator=generator).to(dtype)
    pieces = torch.randn(2, 4, channels, generator=generator).to(dtype)
    arguments = (*maps, *absent, weights, pieces)
    upstream = maps[0].cos()

    close(emulated.dynamic_mean(*arguments), torch.ops.glip.dynamic_mean(*arguments), 1e-6)
    close(
        emulated.dynamic_mean_backward(upstream, *arguments),
        torch.ops.glip.dynamic_mean_backward(upstream, *arguments),
        1e-4,
    )


@pytest.mark.parametrize(("channels", "outputs", "groups"), [(7, 5, 1), (64, 40, 1), (12, 8, 2)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_bfloat16_products(emulated, generator, channels, outputs, groups, layout):
    if emulated.name != "glip_wide":
        pytest.skip("only the CPU has products of bfloat16 pairs")
    input = torch.randn(1, channels, 9, 11, generator=generator).bfloat16()
    maps = (
        torch.randn(1, 18, 9, 11, generator=generator),
        torch.rand(1, 9, 9, 11, generator=generator),
    )
    weight = torch.randn(outputs, channels // groups, 3, 3, generator=generator).bfloat16()
    settings = (1, 1, 1, 1, 1, 1, groups, 1)

    result = emulated.deform_conv(input.to(memory_format=layout), *maps, weight, None, *settings)

    expected = torch.ops.glip.deform_conv(input.float(), *maps, weight.float(), None, *settings)
    scale = expected.abs().max().item()
    torch.testing.assert_close(result.float(), expected, rtol=0.02, atol=0.01 * scale)
