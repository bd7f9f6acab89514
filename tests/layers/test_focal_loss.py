"""Focal losses: golden values, agreement of the backends, extreme logits, gradients."""

import numpy as np
import pytest
import torch
from torch import Tensor

from maskrcnn_benchmark.layers import _native, sigmoid_focal_loss, token_sigmoid_focal_loss


def load(path) -> dict[str, Tensor]:
    with np.load(path) as arrays:
        return {name: torch.from_numpy(np.asarray(arrays[name])) for name in arrays.files}


@pytest.fixture(scope="module")
def golden_classes(golden_dir) -> dict[str, Tensor]:
    return load(golden_dir / "glip" / "units" / "sigmoid_focal_loss.npz")


@pytest.fixture(scope="module")
def golden_tokens(golden_dir) -> dict[str, Tensor]:
    return load(golden_dir / "glip" / "units" / "token_focal_loss.npz")


def test_class_loss_and_gradient_are_the_recorded_ones(golden_classes, backend):
    golden = golden_classes
    logits = golden["logits"].clone().requires_grad_()

    loss = sigmoid_focal_loss(
        logits, golden["targets"], golden["gamma"].item(), golden["alpha"].item()
    ).sum()
    loss.backward()

    torch.testing.assert_close(loss, golden["loss"])
    torch.testing.assert_close(logits.grad, golden["grad"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("case", ["binary.full", "binary.masked", "alpha_off"])
def test_token_loss_and_gradient_are_the_recorded_ones(golden_tokens, backend, case):
    golden = golden_tokens
    logits = golden["logits"].clone().requires_grad_()
    mask = None if case == "binary.full" else golden["text_mask"]
    alpha = -1.0 if case == "alpha_off" else golden["alpha"].item()

    loss = token_sigmoid_focal_loss(logits, golden["targets"], mask, alpha, golden["gamma"].item())
    loss.backward()

    torch.testing.assert_close(loss, golden[f"{case}.loss"])
    torch.testing.assert_close(logits.grad, golden[f"{case}.grad"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 3.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("columns", [1, 3, 8, 37, 256])
def test_class_loss_backends_agree(native, generator, columns, dtype, gamma):
    logits = torch.randn(40, columns, generator=generator).to(dtype) * 5
    targets = torch.randint(-1, columns + 2, (40,), generator=generator)
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    upstream = torch.rand(40, columns, generator=generator).to(dtype)

    loss = sigmoid_focal_loss(ours, targets, gamma, 0.25)
    loss.backward(upstream)

    with _native.disabled():
        expected = sigmoid_focal_loss(theirs, targets, gamma, 0.25)
        expected.backward(upstream)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(ours.grad, theirs.grad)


@pytest.mark.parametrize("gamma", [0.0, 1.0, 2.0, 3.5])
@pytest.mark.parametrize("alpha", [0.25, -1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("tokens", [1, 5, 16, 61, 256])
def test_token_loss_backends_agree(native, generator, tokens, dtype, alpha, gamma):
    logits = torch.randn(2, 30, tokens, generator=generator).to(dtype) * 4
    targets = (torch.rand(2, 30, tokens, generator=generator) < 0.2).to(dtype)
    mask = torch.rand(2, tokens, generator=generator) < 0.6
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()

    loss = token_sigmoid_focal_loss(ours, targets, mask, alpha, gamma)
    (3 * loss).backward()

    with _native.disabled():
        expected = token_sigmoid_focal_loss(theirs, targets, mask, alpha, gamma)
        (3 * expected).backward()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_gradcheck_of_the_class_loss(backend, generator):
    logits = torch.randn(6, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([0, 1, 5, -1, 3, 9])

    assert torch.autograd.gradcheck(lambda z: sigmoid_focal_loss(z, targets, 2.0, 0.25), (logits,))


@pytest.mark.parametrize("gamma", [1.5, 2.0])
def test_gradcheck_of_the_token_loss_with_soft_targets(backend, generator, gamma):
    logits = torch.randn(2, 3, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    targets = torch.rand(2, 3, 5, generator=generator, dtype=torch.float64)
    mask = torch.tensor([[1, 1, 0, 1, 0], [1, 1, 1, 1, 1]])

    assert torch.autograd.gradcheck(
        lambda z: token_sigmoid_focal_loss(z, targets, mask, 0.25, gamma), (logits,)
    )


@pytest.mark.parametrize("size", [20.0, 60.0, 80.0, 300.0, 1e30])
def test_extreme_logits_give_finite_losses_and_gradients(backend, size):
    logits = torch.tensor([[size, -size, size, -size]], requires_grad=True)

    # Column 0 is the positive one: right; column 2 is a confident mistake.
    loss = sigmoid_focal_loss(logits, torch.tensor([1]), 2.0, 0.25)
    loss.sum().backward()

    torch.testing.assert_close(
        loss[0], torch.tensor([0.0, 0, 0.75 * size, 0]), atol=1e-6, rtol=1e-5
    )
    torch.testing.assert_close(
        logits.grad[0], torch.tensor([0.0, 0, 0.75, 0]), atol=1e-6, rtol=1e-5
    )


def test_confident_right_answers_keep_their_small_loss_and_gradient(native):
    # No cancellation: 1e-4-sized terms are right to many digits.
    logits = torch.linspace(-12, 12, 97).reshape(1, -1)
    exact = logits.double().requires_grad_()
    rounded = logits.clone().requires_grad_()

    loss = token_sigmoid_focal_loss(rounded[None], torch.ones(1, 1, 97), None, 0.25, 0.0)
    expected = token_sigmoid_focal_loss(
        exact[None], torch.ones(1, 1, 97, dtype=torch.float64), None, 0.25, 0.0
    )
    loss.backward()
    expected.backward()

    torch.testing.assert_close(rounded.grad.double(), exact.grad, rtol=2e-6, atol=1e-12)


def test_not_a_number_stays_one(native):
    logits = torch.tensor([[[torch.nan, 0.0]]])

    assert token_sigmoid_focal_loss(logits, torch.zeros(1, 1, 2), None).isnan()
    masked = token_sigmoid_focal_loss(logits, torch.zeros(1, 1, 2), torch.tensor([[0, 1]]))
    assert masked.isfinite()


def test_ignored_and_foreign_labels(backend):
    logits = torch.tensor([[0.3, -0.2]] * 3)

    loss = sigmoid_focal_loss(logits, torch.tensor([-1, 0, 7]), 2.0, 0.25)

    assert torch.equal(loss[0], torch.zeros(2))  # ignored
    assert torch.equal(loss[1], loss[2])  # beyond the columns: negative everywhere
    assert (loss[1] > 0).all()


def test_empty_input(backend):
    logits = torch.zeros(0, 3, requires_grad=True)
    token_logits = torch.zeros(2, 0, 4, requires_grad=True)

    assert sigmoid_focal_loss(logits, torch.zeros(0, dtype=torch.int64), 2.0, 0.25).shape == (0, 3)
    loss = token_sigmoid_focal_loss(token_logits, torch.zeros(2, 0, 4), torch.ones(2, 4))
    loss.backward()
    assert loss.item() == 0.0
    assert token_logits.grad.shape == (2, 0, 4)


def test_nothing_counted_gives_zero(backend):
    logits = torch.ones(1, 2, 4, requires_grad=True)

    loss = token_sigmoid_focal_loss(logits, torch.zeros(1, 2, 4), torch.zeros(1, 4))
    loss.backward()

    assert loss.item() == 0.0
    assert torch.equal(logits.grad, torch.zeros(1, 2, 4))


def test_boolean_targets_and_strided_logits(backend, generator):
    logits = torch.randn(5, 6, 2, generator=generator).permute(2, 1, 0)
    targets = torch.rand(2, 6, 5, generator=generator) < 0.3

    loss = token_sigmoid_focal_loss(logits, targets, None)

    expected = token_sigmoid_focal_loss(logits.contiguous(), targets.float(), None)
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_are_computed_in_single(backend, generator, dtype):
    logits = torch.randn(2, 3, 4, generator=generator).to(dtype).requires_grad_()

    loss = token_sigmoid_focal_loss(logits, torch.zeros(2, 3, 4), None)
    loss.backward()

    assert loss.dtype == torch.float32
    assert logits.grad.dtype == dtype


def test_the_number_of_threads_does_not_change_the_sum(native, generator, with_threads):
    logits = torch.randn(2, 3000, 64, generator=generator)
    targets = (torch.rand(2, 3000, 64, generator=generator) < 0.01).float()

    def loss() -> Tensor:
        return token_sigmoid_focal_loss(logits, targets, None)

    assert torch.equal(with_threads(1, loss), with_threads(3, loss))


LOGITS = torch.zeros(3, 4)
TOKENS = torch.zeros(1, 3, 4)


@pytest.mark.parametrize(
    ("call", "error", "argument"),
    [
        (
            lambda: sigmoid_focal_loss(LOGITS[0], torch.zeros(3).int(), 2.0, 0.25),
            ValueError,
            "logits",
        ),
        (
            lambda: sigmoid_focal_loss(LOGITS, torch.zeros(2).int(), 2.0, 0.25),
            ValueError,
            "targets",
        ),
        (lambda: sigmoid_focal_loss(LOGITS, torch.zeros(3), 2.0, 0.25), TypeError, "targets"),
        (
            lambda: sigmoid_focal_loss(LOGITS.int(), torch.zeros(3).int(), 2.0, 0.25),
            TypeError,
            "logits",
        ),
        (lambda: token_sigmoid_focal_loss(LOGITS, LOGITS, None), ValueError, "logits"),
        (lambda: token_sigmoid_focal_loss(TOKENS, LOGITS, None), ValueError, "targets"),
        (
            lambda: token_sigmoid_focal_loss(TOKENS, TOKENS, torch.ones(1, 3)),
            ValueError,
            "text_mask",
        ),
        (
            lambda: token_sigmoid_focal_loss(TOKENS, TOKENS.to("meta"), None),
            ValueError,
            "targets",
        ),
    ],
)
def test_a_wrong_argument_is_named(backend, call, error, argument):
    with pytest.raises(error, match=argument):
        call()


def test_opcheck(native, generator):
    logits = torch.randn(6, 5, generator=generator).requires_grad_()
    tokens = torch.randn(2, 3, 5, generator=generator).requires_grad_()
    counted = torch.tensor([[True, True, False, True, False], [True] * 5])

    torch.library.opcheck(
        torch.ops.glip.sigmoid_focal_loss.default,
        (logits, torch.arange(6, dtype=torch.int32) - 1, 2.0, 0.25),
    )
    torch.library.opcheck(
        torch.ops.glip.token_sigmoid_focal_loss.default,
        (tokens, torch.zeros(2, 3, 5), counted, 0.25, 2.0),
    )
