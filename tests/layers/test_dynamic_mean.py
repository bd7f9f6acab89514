"""Mean of neighbours with dynamic ReLU: its definition, gradients, layouts, bad arguments."""

import pytest
import torch
from torch import Tensor

from maskrcnn_benchmark.layers import _native
from maskrcnn_benchmark.layers.dynamic_mean import dynamic_mean, dynamic_mean_reference

LAYOUTS = [torch.contiguous_format, torch.channels_last]


def random_arguments(
    generator: torch.Generator,
    count: int,
    size: tuple[int, int, int, int] = (2, 11, 5, 7),
    dtype: torch.dtype = torch.float64,
    layout: torch.memory_format = torch.channels_last,
) -> tuple[list[Tensor], Tensor, Tensor]:
    """Maps, weights and pieces that ask for gradients."""

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(dtype)

    maps = [random(*size).to(memory_format=layout).requires_grad_() for _ in range(count)]
    weights = random(size[0], count).abs().requires_grad_()
    return maps, weights, random(size[0], 4, size[1]).requires_grad_()


def by_definition(maps: list[Tensor], weights: Tensor, pieces: Tensor) -> Tensor:
    mean = torch.stack([x * w[:, None, None, None] for x, w in zip(maps, weights.unbind(1))]).mean(
        0
    )
    a1, b1, a2, b2 = pieces[..., None, None].unbind(1)
    return torch.maximum(a1 * mean + b1, a2 * mean + b2)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("size", [(2, 11, 5, 7), (1, 96, 12, 13), (3, 8, 1, 1), (2, 1, 3, 4)])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_values_and_gradients_follow_the_definition(backend, generator, count, size, layout):
    maps, weights, pieces = random_arguments(generator, count, size, layout=layout)
    upstream = torch.randn(*size, generator=generator).double()
    arguments = [*maps, weights, pieces]

    actual = dynamic_mean(maps, weights, pieces)
    expected = by_definition(maps, weights, pieces)

    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(
        torch.autograd.grad((actual * upstream).sum(), arguments),
        torch.autograd.grad((expected * upstream).sum(), arguments),
    )


@pytest.mark.parametrize("channels", [1, 7, 8, 96, 256])
def test_single_precision_is_as_good_as_plain_pytorch(native, generator, channels):
    size = (2, channels, 20, 28)
    maps, weights, pieces = random_arguments(generator, 3, size, torch.float32)
    upstream = torch.randn(*size, generator=generator)
    arguments = [*maps, weights, pieces]

    actual = dynamic_mean(maps, weights, pieces)
    with _native.disabled():
        expected = dynamic_mean(maps, weights, pieces)

    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        torch.autograd.grad((actual * upstream).sum(), arguments),
        torch.autograd.grad((expected * upstream).sum(), arguments),
        rtol=1e-4,
        atol=1e-4,
    )


def test_gradients_agree_with_differences(native, generator):
    maps, weights, pieces = random_arguments(generator, 3, (2, 5, 2, 3))

    def function(*arguments: Tensor) -> Tensor:
        return dynamic_mean(arguments[:3], *arguments[3:])

    assert torch.autograd.gradcheck(function, (*maps, weights, pieces))


def test_any_number_of_threads_gives_the_same_bits(native, generator, with_threads):
    maps, weights, pieces = random_arguments(generator, 3, (2, 96, 20, 28), torch.float32)

    def run() -> list[Tensor]:
        out = dynamic_mean(maps, weights, pieces)
        return [out, *torch.autograd.grad(out.cos().sum(), [*maps, weights, pieces])]

    for one, three in zip(with_threads(1, run), with_threads(3, run), strict=True):
        assert torch.equal(one, three)


def test_numbers_that_are_none_stay_none(backend, generator):
    maps, weights, pieces = random_arguments(generator, 2)
    with torch.no_grad():
        maps[1][0, 3, 2, 2] = float("nan")

    out = dynamic_mean(maps, weights, pieces)

    assert out.isnan().sum() == 1
    assert out[0, 3, 2, 2].isnan()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_left_to_pytorch(native, generator, dtype):
    maps, weights, pieces = random_arguments(generator, 3, dtype=dtype)

    out = dynamic_mean(maps, weights, pieces)

    assert out.dtype == dtype
    assert torch.equal(out, dynamic_mean_reference(maps, weights, pieces))


def test_small_numbers_of_lower_precision_are_widened(backend, generator):
    maps, weights, pieces = random_arguments(generator, 2, dtype=torch.float32)
    weights, pieces = weights.detach().bfloat16(), pieces.detach().bfloat16()

    out = dynamic_mean(maps, weights, pieces)

    assert out.dtype == torch.float32
    torch.testing.assert_close(out, dynamic_mean(maps, weights.float(), pieces.float()))


def test_an_empty_batch_gives_an_empty_one(backend, generator):
    maps, weights, pieces = random_arguments(generator, 2, (0, 8, 3, 4))

    out = dynamic_mean(maps, weights, pieces)
    out.sum().backward()

    assert out.shape == (0, 8, 3, 4)
    assert pieces.grad.shape == (0, 4, 8)


@pytest.mark.parametrize(
    ("change", "error", "argument"),
    [
        (lambda maps, weights, pieces: ([], weights, pieces), ValueError, "maps"),
        (lambda maps, weights, pieces: (maps * 2, weights, pieces), ValueError, "maps"),
        (lambda maps, weights, pieces: ([maps[0][0]], weights, pieces), ValueError, r"maps\[0\]"),
        (lambda maps, weights, pieces: ([maps[0].long()], weights, pieces), TypeError, "maps"),
        (
            lambda maps, weights, pieces: ([maps[0], maps[1][..., :-1]], weights, pieces),
            ValueError,
            r"maps\[1\]",
        ),
        (lambda maps, weights, pieces: (maps, weights[:, :1], pieces), ValueError, "weights"),
        (lambda maps, weights, pieces: (maps, weights, pieces[:, :2]), ValueError, "pieces"),
    ],
)
def test_a_wrong_argument_is_named(backend, generator, change, error, argument):
    with pytest.raises(error, match=argument):
        dynamic_mean(*change(*random_arguments(generator, 2)))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("count", [1, 3])
def test_opcheck(native, generator, count, layout):
    maps, weights, pieces = random_arguments(generator, count, layout=layout)

    torch.library.opcheck(
        torch.ops.glip.dynamic_mean.default, (*maps, *[None] * (3 - count), weights, pieces)
    )
