"""DYReLU and its gate against recorded numbers and by definition."""

import pytest
import torch

from maskrcnn_benchmark.layers.dyrelu import DYReLU, h_sigmoid
from tests.golden_tools import load_units, named_array

VARIANTS = {
    "default": {},
    "no_bias": {"use_bias": False},
    "single": {"pieces": 1},
    "spatial": {"use_spatial": True},
    "reduction8": {"reduction": 8},
}


def test_gate_equals_the_recorded_one():
    recorded = load_units("h_sigmoid")

    actual = h_sigmoid(torch.from_numpy(recorded["x"]))

    torch.testing.assert_close(actual, torch.from_numpy(recorded["y"]))


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_equal_the_recorded_ones(variant):
    recorded = load_units("dyrelu")
    x = torch.from_numpy(recorded["x"])
    layer = DYReLU(x.shape[1], **VARIANTS[variant]).eval()
    keys = {entry.split(":")[0] for entry in recorded[f"{variant}.keys"].tolist()}
    assert set(layer.state_dict()) == keys
    for key, tensor in layer.state_dict().items():
        if tensor.is_floating_point():
            tensor.copy_(
                torch.from_numpy(named_array(f"unit.dyrelu.{variant}.{key}", tensor.shape))
            )

    actual = layer(x)

    torch.testing.assert_close(actual, torch.from_numpy(recorded[variant]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("use_bias", [True, False])
def test_values_and_gradients_are_those_of_the_larger_piece(use_bias):
    torch.manual_seed(0)
    layer = DYReLU(8, use_bias=use_bias).double()
    x = torch.randn(2, 8, 5, 6, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(2, 8, 5, 6, dtype=torch.float64)
    gates = h_sigmoid(layer.fc(x.mean((2, 3))))[:, :, None, None].chunk(4 if use_bias else 2, 1)
    a1, b1, a2, b2 = gates if use_bias else (gates[0], 0.5, gates[1], 0.5)
    first = x * (2.0 * a1) + b1 - 0.5  # a1 = 2 (h - 0.5) + 1
    expected = first.maximum(x * (2.0 * a2 - 1.0) + b2 - 0.5)
    parameters = [x, *layer.parameters()]

    actual = layer(x)

    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(
        torch.autograd.grad((actual * weights).sum(), parameters),
        torch.autograd.grad((expected * weights).sum(), parameters),
    )


def test_without_weights_it_is_a_relu():
    layer = DYReLU(8)
    torch.nn.init.zeros_(layer.fc[2].weight)
    torch.nn.init.zeros_(layer.fc[2].bias)
    x = torch.randn(2, 8, 3, 4)

    torch.testing.assert_close(layer(x), x.relu())


def test_other_numbers_of_pieces_are_refused():
    with pytest.raises(ValueError, match="3"):
        DYReLU(8, pieces=3)
