"""Frozen and shared batch normalisation."""

import pytest
import torch
import torch.distributed as dist
from torch import nn

from maskrcnn_benchmark.layers.batch_norm import FrozenBatchNorm2d, NaiveSyncBatchNorm
from tests.process_tools import run_world


def filled(layer):
    generator = torch.Generator().manual_seed(1)
    for name, tensor in layer.state_dict().items():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + (name == "running_var"))
    return layer


def test_frozen_equals_batch_norm_in_evaluation_without_epsilon():
    x = torch.randn(2, 5, 3, 4)
    frozen, plain = FrozenBatchNorm2d(5), nn.BatchNorm2d(5, eps=0.0).eval()
    filled(plain)
    frozen.load_state_dict(plain.state_dict())
    torch.testing.assert_close(frozen(x), plain(x))


def test_frozen_epsilon_is_that_of_torchvision_when_asked_for():
    x = torch.randn(2, 5, 3, 4)
    frozen, plain = FrozenBatchNorm2d(5, eps=1e-5), nn.BatchNorm2d(5).eval()
    frozen.load_state_dict(filled(plain).state_dict())
    torch.testing.assert_close(frozen(x), plain(x))


def test_frozen_has_nothing_to_train_and_four_entries():
    frozen = FrozenBatchNorm2d(2)
    assert list(frozen.parameters()) == []
    assert list(frozen.state_dict()) == ["weight", "bias", "running_mean", "running_var"]


def test_frozen_keeps_the_input_type():
    assert FrozenBatchNorm2d(2)(torch.ones(1, 2, 3, 3).bfloat16()).dtype == torch.bfloat16


def test_naive_sync_with_one_process_is_plain_batch_norm():
    x = torch.randn(4, 3, 5, 5)
    naive, plain = filled(NaiveSyncBatchNorm(3)), filled(nn.BatchNorm2d(3))
    torch.testing.assert_close(naive(x), plain(x))
    torch.testing.assert_close(naive.running_var, plain.running_var)
    torch.testing.assert_close(naive.eval()(x), plain.eval()(x))


def shares():
    """Inputs of two processes, of different batch size."""
    generator = torch.Generator().manual_seed(2)
    return [torch.randn(n, 3, 4, 4, generator=generator) * (n + 1) + n for n in (1, 3)]


def normalise_one_share():
    layer = filled(NaiveSyncBatchNorm(3)).train()
    x = shares()[dist.get_rank()].requires_grad_()
    out = layer(x)
    (out * out.detach().cos()).sum().backward()
    return out.detach(), x.grad, layer.running_mean, layer.running_var


@pytest.mark.slow
def test_naive_sync_weighs_processes_equally_and_its_gradient_crosses_them(tmp_path):
    results = run_world(2, normalise_one_share, folder=tmp_path)

    inputs = [x.double().requires_grad_() for x in shares()]
    layer = filled(NaiveSyncBatchNorm(3)).double()
    mean = sum(x.mean((0, 2, 3)) for x in inputs) / 2
    var = sum(x.square().mean((0, 2, 3)) for x in inputs) / 2 - mean.square()
    expected = [
        (x - mean[:, None, None]) * (var + layer.eps).rsqrt()[:, None, None]
        * layer.weight[:, None, None] + layer.bias[:, None, None]
        for x in inputs
    ]  # fmt: skip
    sum((out * out.detach().cos()).sum() for out in expected).backward()
    for (out, grad, running_mean, running_var), x, wanted in zip(results, inputs, expected):
        torch.testing.assert_close(out.double(), wanted.detach(), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(grad.double(), x.grad, atol=1e-4, rtol=1e-4)
        before = filled(NaiveSyncBatchNorm(3))
        torch.testing.assert_close(running_mean, (0.9 * before.running_mean + 0.1 * mean).float())
        torch.testing.assert_close(running_var, (0.9 * before.running_var + 0.1 * var).float())
