"""ROIAlign: agreement with torchvision, gradients, degenerate boxes."""

import pytest
import torch
import torchvision
from torch import Tensor

from maskrcnn_benchmark.layers import ROIAlign, roi_align


def random_rois(generator: torch.Generator, count: int, batch: int, size: float) -> Tensor:
    image = torch.randint(0, batch, (count, 1), generator=generator)
    corners = torch.rand(count, 2, generator=generator) * size * 1.2 - 0.1 * size
    sides = torch.rand(count, 2, generator=generator) ** 2 * size
    return torch.cat((image, corners, corners + sides), 1)


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("sampling_ratio", [-1, 0, 1, 2, 3])
@pytest.mark.parametrize("channels", [1, 3, 19, 70])
def test_the_result_is_torchvisions(native, generator, channels, sampling_ratio, aligned):
    features = torch.rand(2, channels, 21, 17, generator=generator, dtype=torch.float64)
    rois = random_rois(generator, 30, 2, 80.0).double()

    pooled = roi_align(features, rois, (5, 4), 0.25, sampling_ratio, aligned)

    expected = torchvision.ops.roi_align(features, rois, (5, 4), 0.25, sampling_ratio, aligned)
    torch.testing.assert_close(pooled, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("count", [1, 500])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_few_or_many_boxes_in_either_layout_agree(native, generator, layout, count):
    features = torch.rand(2, 33, 40, 52, generator=generator).to(memory_format=layout)
    rois = random_rois(generator, count, 2, 200.0)

    pooled = roi_align(features, rois, 7, 0.25, 2)

    expected = torchvision.ops.roi_align(features, rois, 7, 0.25, 2)
    torch.testing.assert_close(pooled, expected)


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("sampling_ratio", [-1, 2])
def test_the_gradient_is_torchvisions(native, generator, sampling_ratio, aligned):
    features = torch.rand(2, 35, 14, 15, generator=generator, dtype=torch.float64)
    rois = random_rois(generator, 20, 2, 60.0).double()
    ours, theirs = features.clone().requires_grad_(), features.clone().requires_grad_()
    upstream = torch.rand(20, 35, 3, 4, generator=generator, dtype=torch.float64)

    roi_align(ours, rois, (3, 4), 0.25, sampling_ratio, aligned).backward(upstream)
    torchvision.ops.roi_align(theirs, rois, (3, 4), 0.25, sampling_ratio, aligned).backward(
        upstream
    )

    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("count", [1, 300])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_few_or_many_boxes_give_the_same_gradient_in_the_layout_of_the_input(
    native, generator, layout, count
):
    features = torch.rand(2, 35, 40, 52, generator=generator, dtype=torch.float64)
    rois = random_rois(generator, count, 2, 160.0).double()
    ours = features.clone(memory_format=layout).requires_grad_()
    theirs = features.clone().requires_grad_()

    roi_align(ours, rois, 3, 0.25, 2).square().sum().backward()
    torchvision.ops.roi_align(theirs, rois, 3, 0.25, 2).square().sum().backward()

    assert ours.grad.is_contiguous(memory_format=layout)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-10, atol=1e-12)


def test_gradcheck(backend, generator):
    features = torch.rand(2, 3, 6, 7, generator=generator, dtype=torch.float64, requires_grad=True)
    rois = random_rois(generator, 4, 2, 24.0).double()

    assert torch.autograd.gradcheck(lambda x: roi_align(x, rois, 2, 0.25, 2), (features,))


def test_a_constant_map_pools_to_the_constant(backend):
    features = torch.full((1, 2, 10, 10), 3.0)
    rois = torch.tensor([[0.0, 4, 4, 20, 24]])

    pooled = roi_align(features, rois, 3, 0.25)

    torch.testing.assert_close(pooled, torch.full((1, 2, 3, 3), 3.0))


def test_one_pixel_map_and_one_pixel_box(backend):
    features = torch.tensor([[[[5.0]]]])
    rois = torch.tensor([[0.0, 0, 0, 0, 0]])

    assert roi_align(features, rois, 1, 1.0).item() == 5.0


def test_no_boxes_give_an_empty_result_and_a_zero_gradient(backend):
    features = torch.rand(1, 3, 5, 5, requires_grad=True)

    pooled = roi_align(features, torch.zeros(0, 5), (2, 3), 1.0)
    pooled.sum().backward()

    assert pooled.shape == (0, 3, 2, 3)
    assert torch.equal(features.grad, torch.zeros(1, 3, 5, 5))


def test_a_box_outside_the_map_pools_to_zero(backend):
    rois = torch.tensor([[0.0, 500, 500, 600, 600]])

    assert torch.equal(roi_align(torch.ones(1, 2, 5, 5), rois, 2, 1.0), torch.zeros(1, 2, 2, 2))


def test_a_box_that_is_not_a_number_pools_to_zero(native):
    rois = torch.tensor([[0.0, torch.nan, 0, 3, 3]])

    assert torch.equal(roi_align(torch.ones(1, 2, 5, 5), rois, 2, 1.0), torch.zeros(1, 2, 2, 2))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_comes_back_in_its_own_type(backend, generator, dtype):
    features = torch.rand(1, 4, 9, 9, generator=generator).to(dtype)
    rois = torch.tensor([[0.0, 1, 1, 7, 8]])

    pooled = roi_align(features, rois, 2, 1.0, 2)

    assert pooled.dtype == dtype
    torch.testing.assert_close(pooled, roi_align(features.float(), rois, 2, 1.0, 2).to(dtype))


def test_strides_do_not_matter(backend, generator):
    features = torch.rand(2, 12, 12, 4, generator=generator).permute(0, 3, 2, 1)[:, :, ::2]
    rois = torch.cat((torch.zeros(3, 1), torch.rand(3, 8, generator=generator)[:, ::2] * 6), 1)

    pooled = roi_align(features, rois, 2, 1.0, 2)

    torch.testing.assert_close(pooled, roi_align(features.contiguous(), rois, 2, 1.0, 2))


def test_the_number_of_threads_does_not_change_the_gradient(native, generator, with_threads):
    features = torch.rand(1, 80, 30, 30, generator=generator)
    rois = random_rois(generator, 100, 1, 120.0)

    def gradient() -> Tensor:
        leaf = features.clone().requires_grad_()
        roi_align(leaf, rois, 7, 0.25, 2).square().sum().backward()
        return leaf.grad

    assert torch.equal(with_threads(1, gradient), with_threads(3, gradient))


def test_the_module_is_the_function(backend, generator):
    features = torch.rand(1, 2, 8, 8, generator=generator)
    rois = torch.tensor([[0.0, 1, 1, 5, 6]])
    module = ROIAlign(2, 0.5, 2, aligned=True)

    assert torch.equal(module(features, rois), roi_align(features, rois, (2, 2), 0.5, 2, True))
    assert "aligned=True" in repr(module)


FEATURES = torch.zeros(1, 2, 4, 4)
ROIS = torch.zeros(3, 5)


@pytest.mark.parametrize(
    ("call", "error", "argument"),
    [
        (lambda: roi_align(FEATURES[0], ROIS, 2, 1.0), ValueError, "input"),
        (lambda: roi_align(FEATURES.long(), ROIS, 2, 1.0), TypeError, "input"),
        (lambda: roi_align(FEATURES, ROIS[:, :4], 2, 1.0), ValueError, "rois"),
        (lambda: roi_align(FEATURES, ROIS.to("meta"), 2, 1.0), ValueError, "rois"),
        (lambda: roi_align(FEATURES, ROIS, 0, 1.0), ValueError, "output_size"),
    ],
)
def test_a_wrong_argument_is_named(backend, call, error, argument):
    with pytest.raises(error, match=argument):
        call()


def test_a_box_of_an_image_that_is_not_there_is_an_error(native):
    with pytest.raises(RuntimeError, match="rois: row 1 names image 2"):
        roi_align(FEATURES, torch.tensor([[0.0, 0, 0, 1, 1], [2, 0, 0, 1, 1]]), 2, 1.0)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_opcheck(native, generator, layout):
    features = torch.rand(2, 3, 8, 9, generator=generator).to(memory_format=layout)
    arguments = (random_rois(generator, 5, 2, 32.0), 0.25, 2, 3, 2, False)

    torch.library.opcheck(torch.ops.glip.roi_align.default, (features.requires_grad_(), *arguments))


def test_compiled_code_has_no_graph_break(native, generator):
    features = torch.rand(1, 3, 8, 9, generator=generator, requires_grad=True)
    rois = random_rois(generator, 5, 1, 32.0)
    compiled = torch.compile(
        lambda x: roi_align(x, rois, 2, 0.25, 2) * 2, backend="aot_eager", fullgraph=True
    )

    torch.testing.assert_close(compiled(features), roi_align(features, rois, 2, 0.25, 2) * 2)
    compiled(features).sum().backward()
    assert features.grad is not None
