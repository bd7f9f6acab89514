"""Deformable convolution: golden values, torchvision, gradients, the prefix rule, odd input."""

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor

from maskrcnn_benchmark.layers import (
    DeformConv,
    ModulatedDeformConv,
    _native,
    deform_conv,
    modulated_deform_conv,
    offset_prefix,
)


@pytest.fixture(scope="module")
def golden(golden_dir) -> dict[str, Tensor]:
    path = golden_dir / "glip" / "units" / "modulated_deform_conv.npz"
    with np.load(path) as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


def random_arguments(
    generator: torch.Generator,
    *,
    batch: int = 2,
    channels: int = 6,
    outputs: int = 5,
    size: tuple[int, int] = (11, 13),
    kernel: tuple[int, int] = (3, 3),
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (1, 1),
    dilation: tuple[int, int] = (1, 1),
    groups: int = 1,
    deformable_groups: int = 1,
    dtype: torch.dtype = torch.float64,
    spread: float = 2.0,
) -> tuple:
    """Arguments of `modulated_deform_conv`; offsets reach beyond the border."""
    height, width = (
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, s, p, d in zip(size, kernel, stride, padding, dilation)
    )
    points = deformable_groups * kernel[0] * kernel[1]

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    return (
        normal(batch, channels, *size),
        normal(batch, 2 * points, height, width) * spread,
        normal(batch, points, height, width).sigmoid(),
        normal(outputs, channels // groups, *kernel) / 3,
        normal(outputs),
        stride,
        padding,
        dilation,
        groups,
        deformable_groups,
    )


def by_torchvision(
    input, offset, mask, weight, bias, stride, padding, dilation, *_groups
) -> Tensor:
    return torchvision.ops.deform_conv2d(
        input, offset, weight, bias, stride, padding, dilation, mask
    )


VARIANTS = {
    "plain": {},
    "stride 2": {"stride": (2, 2), "size": (12, 9)},
    "uneven": {"stride": (2, 1), "padding": (0, 2), "dilation": (1, 2), "kernel": (2, 3)},
    "one by one": {"kernel": (1, 1), "padding": (0, 0)},
    "groups": {"channels": 12, "outputs": 6, "groups": 3},
    "deformable groups": {"channels": 12, "outputs": 6, "deformable_groups": 2},
    "both": {"channels": 12, "outputs": 8, "groups": 2, "deformable_groups": 3},
    "depthwise": {"channels": 5, "outputs": 5, "groups": 5, "deformable_groups": 5},
    "one channel": {"channels": 1, "outputs": 1},
    "one pixel": {"size": (1, 1)},
    "many channels": {"channels": 301, "outputs": 70, "size": (5, 6), "batch": 1},
    "many pixels": {"channels": 40, "outputs": 33, "size": (30, 23)},
    "many images": {"channels": 72, "outputs": 9, "size": (5, 4), "batch": 15},
}


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("variant", VARIANTS)
def test_result_and_gradients_are_torchvisions(native, generator, variant, layout):
    arguments = random_arguments(generator, **VARIANTS[variant])
    tensors, settings = arguments[:5], arguments[5:]
    ours = [tensor.clone().requires_grad_() for tensor in tensors]
    theirs = [tensor.clone().requires_grad_() for tensor in tensors]

    result = modulated_deform_conv(ours[0].contiguous(memory_format=layout), *ours[1:], *settings)
    expected = by_torchvision(*theirs, *settings)
    upstream = torch.randn(expected.shape, generator=generator, dtype=torch.float64)
    result.backward(upstream)
    expected.backward(upstream)

    torch.testing.assert_close(result, expected, rtol=1e-10, atol=1e-10)
    for name, a, b in zip(("input", "offset", "mask", "weight", "bias"), ours, theirs):
        torch.testing.assert_close(
            a.grad, b.grad, rtol=1e-9, atol=1e-9, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize("variant", ["plain", "stride 2", "both"])
def test_version_one_is_version_two_with_a_mask_of_ones(backend, generator, variant):
    input, offset, mask, weight, _, *settings = random_arguments(generator, **VARIANTS[variant])
    ours, theirs = offset.clone().requires_grad_(), offset.clone().requires_grad_()

    result = deform_conv(input, ours, weight, *settings)
    expected = modulated_deform_conv(input, theirs, torch.ones_like(mask), weight, None, *settings)
    result.square().sum().backward()
    expected.square().sum().backward()

    torch.testing.assert_close(result, expected)
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_no_offset_and_a_mask_of_ones_is_a_convolution(backend, generator):
    input, offset, mask, weight, bias, *_ = random_arguments(generator)

    result = modulated_deform_conv(
        input, torch.zeros_like(offset), torch.ones_like(mask), weight, bias, 1, 1
    )

    torch.testing.assert_close(result, torch.nn.functional.conv2d(input, weight, bias, padding=1))


def test_offsets_are_vertical_first(backend):
    input = torch.arange(12.0).reshape(1, 1, 3, 4)
    offset = torch.zeros(1, 2, 3, 4)
    offset[0, 0, 0, 0] = 1  # down
    offset[0, 1, 1, 1] = 1.5  # right, between two pixels

    result = deform_conv(input, offset, torch.ones(1, 1, 1, 1))

    expected = input.clone()
    expected[0, 0, 0, 0] = input[0, 0, 1, 0]
    expected[0, 0, 1, 1] = (input[0, 0, 1, 2] + input[0, 0, 1, 3]) / 2
    torch.testing.assert_close(result, expected)


def test_recorded_values_at_equal_size(golden, backend):
    offset, mask = golden["offset"][:, :, :12, :10], golden["mask"][:, :, :12, :10]

    result = modulated_deform_conv(
        golden["x"], offset, mask, golden["weight"], golden["bias"], 1, 1
    )

    torch.testing.assert_close(result, golden["same_size"], rtol=1e-5, atol=1e-5)


def test_recorded_values_with_stride(golden, backend):
    result = modulated_deform_conv(
        golden["x_stride2"],
        golden["offset"],
        golden["mask"],
        golden["weight"],
        golden["bias"],
        2,
        1,
    )

    torch.testing.assert_close(result, golden["stride2"], rtol=1e-5, atol=1e-5)


def test_recorded_values_and_gradients_of_maps_that_are_larger_than_the_output(golden, backend):
    input, offset, mask = (
        golden[name].clone().requires_grad_() for name in ("x", "offset", "mask")
    )

    result = modulated_deform_conv(
        input, *offset_prefix(offset, mask, 12, 10), golden["weight"], golden["bias"], 1, 1
    )
    result.backward(golden["grad_output"])

    torch.testing.assert_close(result, golden["oversized_offset"], rtol=1e-5, atol=1e-5)
    for name, tensor in (("x", input), ("offset", offset), ("mask", mask)):
        torch.testing.assert_close(tensor.grad, golden[f"grad_{name}"], rtol=1e-4, atol=1e-5)


def test_prefix_reads_the_memory_of_each_image_from_its_start():
    offset = torch.arange(2 * 4 * 3 * 5).reshape(2, 4, 3, 5)
    mask = torch.arange(2 * 2 * 3 * 5).reshape(2, 2, 3, 5)

    small, small_mask = offset_prefix(offset, mask, 2, 3)

    assert small.shape == (2, 4, 2, 3)
    assert small[1].flatten().tolist() == list(range(60, 60 + 24))
    assert small_mask[0].flatten().tolist() == list(range(12))


def test_prefix_of_a_view_is_that_of_its_copy(generator):
    # The mask is a slice of a wider map, as the DyHead makes it.
    maps = torch.rand(2, 27, 6, 8, generator=generator).to(memory_format=torch.channels_last)
    offset, mask = maps[:, :18], maps[:, 18:]

    for view, copy in zip(
        offset_prefix(offset, mask, 3, 4), offset_prefix(offset.clone(), mask.clone(), 3, 4)
    ):
        assert torch.equal(view, copy)


def test_prefix_of_too_small_a_map_is_an_error():
    with pytest.raises(ValueError, match="offset"):
        offset_prefix(torch.zeros(1, 18, 2, 2), torch.zeros(1, 9, 2, 2), 3, 2)


def test_gradcheck(backend, generator):
    arguments = random_arguments(
        generator, batch=1, channels=4, outputs=4, size=(4, 5), groups=2, deformable_groups=2
    )
    tensors = [tensor.requires_grad_() for tensor in arguments[:5]]

    assert torch.autograd.gradcheck(
        lambda *leaves: modulated_deform_conv(*leaves, *arguments[5:]), tensors, fast_mode=True
    )


def test_only_what_is_asked_for_gets_a_gradient(native, generator):
    input, offset, mask, weight, bias, *settings = random_arguments(generator)

    for wanted in (weight, bias, input, mask):
        wanted.requires_grad_()
        modulated_deform_conv(input, offset, mask, weight, bias, *settings).sum().backward()
        assert wanted.grad is not None
        wanted.requires_grad_(False)

    assert offset.grad is None


def test_float32_is_close_to_float64(backend, generator):
    arguments = random_arguments(generator, channels=64, outputs=64, size=(20, 20))
    single = [tensor.float() for tensor in arguments[:5]]

    result = modulated_deform_conv(*single, *arguments[5:])

    expected = modulated_deform_conv(*arguments)
    torch.testing.assert_close(result.double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("variant", ["plain", "both", "depthwise", "many channels", "many pixels"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_half_precision_is_close_and_keeps_its_type(backend, generator, variant, dtype, layout):
    arguments = random_arguments(generator, **VARIANTS[variant])
    tensors = [tensor.to(dtype) for tensor in arguments[:5]]
    tensors[0] = tensors[0].contiguous(memory_format=layout)

    result = modulated_deform_conv(*tensors, *arguments[5:])

    expected = modulated_deform_conv(*(t.double() for t in tensors), *arguments[5:])
    assert result.dtype == dtype
    scale = expected.abs().max().item()
    torch.testing.assert_close(result.double(), expected, rtol=0.02, atol=0.02 * scale)


def test_half_precision_has_gradients(backend, generator):
    arguments = random_arguments(generator)
    tensors = [tensor.bfloat16().requires_grad_() for tensor in arguments[:5]]

    modulated_deform_conv(*tensors, *arguments[5:]).sum().backward()

    assert all(tensor.grad.dtype == torch.bfloat16 for tensor in tensors)


def test_autocast_computes_in_float32(backend, generator):
    arguments = random_arguments(generator, dtype=torch.float32)
    halved = [tensor.bfloat16() for tensor in arguments[:3]]

    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = modulated_deform_conv(*halved, *arguments[3:])

    expected = modulated_deform_conv(*(tensor.float() for tensor in halved), *arguments[3:])
    assert result.dtype == torch.float32
    assert torch.equal(result, expected)


@pytest.mark.parametrize("hostile", [torch.nan, torch.inf, -torch.inf, 1e30, -1e30])
def test_offsets_that_lead_nowhere_sample_zero(native, generator, hostile):
    input, offset, mask, weight, bias, *settings = random_arguments(generator)

    result = modulated_deform_conv(
        input, torch.full_like(offset, hostile), mask, weight, bias, *settings
    )

    torch.testing.assert_close(result, bias.reshape(1, -1, 1, 1).expand_as(result))


def test_pixels_that_are_not_numbers_reach_only_the_samples_that_touch_them(native):
    input = torch.ones(1, 1, 4, 4)
    input[0, 0, 0, 0] = torch.nan
    offset = torch.zeros(1, 2, 4, 4)
    offset[0, 0, 3, 3] = 0.5  # samples beyond the border: corners outside count as zero

    result = deform_conv(input, offset, torch.ones(1, 1, 1, 1))

    assert result.isnan().nonzero().tolist() == [[0, 0, 0, 0]]
    assert result[0, 0, 3, 3] == 0.5


def test_an_empty_batch_gives_an_empty_result(backend, generator):
    arguments = random_arguments(generator, batch=0)
    leaf = arguments[3].requires_grad_()

    result = modulated_deform_conv(*arguments)
    result.sum().backward()

    assert result.shape == (0, 5, 11, 13)
    assert torch.equal(leaf.grad, torch.zeros_like(leaf))


def test_strides_of_the_maps_do_not_matter(backend, generator):
    input, offset, mask, *rest = random_arguments(generator)
    maps = torch.cat((offset, mask), 1).contiguous(memory_format=torch.channels_last)

    result = modulated_deform_conv(
        input.transpose(2, 3).contiguous().transpose(2, 3), maps[:, :18], maps[:, 18:], *rest
    )

    torch.testing.assert_close(result, modulated_deform_conv(input, offset, mask, *rest))


def test_the_number_of_threads_does_not_change_anything(native, generator, with_threads):
    arguments = random_arguments(
        generator, channels=80, outputs=48, size=(25, 20), dtype=torch.float32
    )

    def run() -> list[Tensor]:
        leaves = [tensor.clone().requires_grad_() for tensor in arguments[:5]]
        result = modulated_deform_conv(*leaves, *arguments[5:])
        result.square().sum().backward()
        return [result, *(leaf.grad for leaf in leaves[:4])]

    for one, three in zip(with_threads(1, run), with_threads(3, run)):
        assert torch.equal(one, three)


def test_channels_last_input_gives_channels_last_output(native, generator):
    input, *rest = random_arguments(generator)

    result = modulated_deform_conv(input.contiguous(memory_format=torch.channels_last), *rest)

    assert result.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(result, modulated_deform_conv(input, *rest))
    assert modulated_deform_conv(input, *rest).is_contiguous()


def test_modules_hold_weight_and_bias_and_call_the_functions(backend, generator):
    input, offset, mask, *_ = random_arguments(generator, dtype=torch.float32)
    second = ModulatedDeformConv(6, 5, 3, padding=1)
    first = DeformConv(6, 5, 3, padding=1)

    assert set(second.state_dict()) == {"weight", "bias"}
    assert set(first.state_dict()) == {"weight"}
    assert second.weight.abs().max() <= 1 / 54**0.5
    assert torch.equal(second.bias, torch.zeros(5))
    expected = modulated_deform_conv(input, offset, mask, second.weight, second.bias, 1, 1)
    assert torch.equal(second(input, offset, mask), expected)
    assert torch.equal(first(input, offset), deform_conv(input, offset, first.weight, 1, 1))
    assert "6, 5, kernel_size=(3, 3)" in repr(second)


X, OFFSET, MASK = torch.zeros(1, 4, 5, 5), torch.zeros(1, 18, 5, 5), torch.zeros(1, 9, 5, 5)
WEIGHT, BIAS = torch.zeros(3, 4, 3, 3), torch.zeros(3)


@pytest.mark.parametrize(
    ("changed", "error", "argument"),
    [
        ({"input": X[0]}, ValueError, "input"),
        ({"input": X.long()}, TypeError, "input"),
        ({"input": torch.zeros(1, 4, 1, 1), "padding": 0}, ValueError, "input"),
        ({"offset": OFFSET[:, :16]}, ValueError, "offset"),
        ({"offset": torch.zeros(1, 18, 10, 10)}, ValueError, "offset"),
        ({"offset": OFFSET.double()}, TypeError, "offset"),
        ({"mask": MASK[:, :, :4]}, ValueError, "mask"),
        ({"mask": MASK.to("meta")}, ValueError, "mask"),
        ({"weight": WEIGHT[:, :3]}, ValueError, "weight"),
        ({"weight": WEIGHT[0]}, ValueError, "weight"),
        ({"bias": torch.zeros(4)}, ValueError, "bias"),
        ({"stride": 0}, ValueError, "stride"),
        ({"dilation": 0}, ValueError, "dilation"),
        ({"padding": -1}, ValueError, "padding"),
        ({"groups": 2}, ValueError, "groups"),
        ({"deformable_groups": 3}, ValueError, "deformable_groups"),
    ],
)
def test_a_wrong_argument_is_named(backend, changed, error, argument):
    arguments = {
        "input": X,
        "offset": OFFSET,
        "mask": MASK,
        "weight": WEIGHT,
        "bias": BIAS,
        "padding": 1,
    }

    with pytest.raises(error, match=argument):
        modulated_deform_conv(**{**arguments, **changed})


def test_the_operators_themselves_check_their_arguments(native):
    settings = (1, 1, 1, 1, 1, 1, 1, 1)

    with pytest.raises(RuntimeError, match="offset must have shape"):
        torch.ops.glip.deform_conv(X, OFFSET[:, :4], MASK, WEIGHT, BIAS, *settings)
    with pytest.raises(RuntimeError, match="bias must hold 3 numbers"):
        torch.ops.glip.deform_conv(X, OFFSET, MASK, WEIGHT, BIAS[:2], *settings)
    arguments = (torch.ones(1, 3, 5, 5), X, OFFSET, MASK, WEIGHT, *settings)
    with pytest.raises(RuntimeError, match="at least one gradient"):
        torch.ops.glip.deform_conv_backward(*arguments, False, False)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("masked", [True, False])
def test_opcheck(native, generator, layout, masked):
    arguments = random_arguments(generator, batch=1, size=(4, 5), dtype=torch.float32)
    input, offset, mask, weight, bias = (tensor.requires_grad_() for tensor in arguments[:5])
    input = input.detach().contiguous(memory_format=layout).requires_grad_()

    torch.library.opcheck(
        torch.ops.glip.deform_conv.default,
        (input, offset, mask if masked else None, weight, bias if masked else None, *[1] * 8),
    )


def test_compiled_code_has_no_graph_break(native, generator):
    arguments = random_arguments(generator, dtype=torch.float32)
    leaves = [tensor.requires_grad_() for tensor in arguments[:5]]
    compiled = torch.compile(
        lambda *tensors: modulated_deform_conv(*tensors, *arguments[5:]).relu(),
        backend="aot_eager",
        fullgraph=True,
    )

    result = compiled(*leaves)
    result.sum().backward()

    torch.testing.assert_close(result, modulated_deform_conv(*arguments).relu())
    assert all(leaf.grad is not None for leaf in leaves)


def test_the_reference_is_used_when_the_native_operators_are_disabled(
    native, generator, monkeypatch
):
    monkeypatch.setattr(torch.ops.glip, "deform_conv", None)

    with _native.disabled():
        modulated_deform_conv(*random_arguments(generator))
