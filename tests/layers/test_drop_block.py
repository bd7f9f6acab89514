"""Block dropout."""

import pytest
import torch

from maskrcnn_benchmark.layers.drop_block import DropBlock2D
from tests.golden_tools import load_units


@pytest.mark.parametrize("case", ["0", "1", "2"])
def test_training_equals_the_recorded_output(case):
    recorded = load_units("drop_block")
    layer = DropBlock2D(
        float(recorded[f"{case}.drop_prob"]), int(recorded[f"{case}.block_size"])
    ).train()
    torch.manual_seed(int(recorded[f"{case}.torch_seed"]))
    out = layer(torch.from_numpy(recorded[f"{case}.x"]))
    torch.testing.assert_close(out, torch.from_numpy(recorded[f"{case}.y"]))


def test_evaluation_and_probability_zero_return_the_input_itself():
    x = torch.rand(2, 3, 4, 5)
    assert DropBlock2D(0.3, 3).eval()(x) is x
    assert DropBlock2D(0.0, 3).train()(x) is x


def test_channels_are_dropped_together_and_images_on_their_own():
    torch.manual_seed(0)
    kept = DropBlock2D(0.5, 3).train()(torch.ones(2, 4, 16, 16)) > 0
    assert torch.equal(kept, kept[:, :1].expand_as(kept))
    assert not torch.equal(kept[0], kept[1])


def test_a_batch_that_is_dropped_entirely_is_zero_not_nan():
    out = DropBlock2D(1.0, 1).train()(torch.ones(1, 1, 2, 2))
    assert torch.equal(out, torch.zeros(1, 1, 2, 2))


@pytest.mark.parametrize(("drop_prob", "block_size"), [(-0.1, 3), (1.1, 3), (0.3, 0)])
def test_senseless_settings_are_refused(drop_prob, block_size):
    with pytest.raises(ValueError, match=r"drop_prob|block_size"):
        DropBlock2D(drop_prob, block_size)
