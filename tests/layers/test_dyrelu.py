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


def test_without_weights_it_is_a_relu():
    layer = DYReLU(8)
    torch.nn.init.zeros_(layer.fc[2].weight)
    torch.nn.init.zeros_(layer.fc[2].bias)
    x = torch.randn(2, 8, 3, 4)

    torch.testing.assert_close(layer(x), x.relu())


def test_other_numbers_of_pieces_are_refused():
    with pytest.raises(ValueError, match="3"):
        DYReLU(8, pieces=3)
