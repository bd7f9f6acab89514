"""The average of weights against recorded values, and in use."""

import numpy as np
import pytest
import torch
from torch import nn

from maskrcnn_benchmark.solver.ema import ModelEMA


def recorded_model() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))


def load(model: nn.Module, arrays, prefix: str) -> None:
    model.load_state_dict(
        {
            name: torch.from_numpy(np.array(arrays[f"{prefix}.{name}"]))
            for name in model.state_dict()
        }
    )


def test_three_updates_equal_the_recorded_averages(golden_dir):
    arrays = np.load(golden_dir / "glip/units/ema.npz")
    model = recorded_model()
    load(model, arrays, "start")
    ema = ModelEMA(model, float(arrays["decay"]))
    for step in range(3):
        load(model, arrays, f"model{step}")
        ema.update(model)
        for name, average in ema.state_dict().items():
            if average.is_floating_point():
                np.testing.assert_allclose(average, arrays[f"ema{step}.{name}"], rtol=1e-6)


def test_whole_numbers_are_copied():
    model = recorded_model()
    ema = ModelEMA(model, 0.9)
    model[1].num_batches_tracked.fill_(7)
    ema.update(model)
    assert ema.state_dict()["1.num_batches_tracked"] == 7


class TiedModel(nn.Module):
    """One parameter under two names, as the masked-token head has it."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(2, 2)
        self.second = nn.Linear(2, 2, bias=False)
        self.second.weight = self.first.weight


def test_the_averages_stand_in_for_the_weights_inside_the_block_only():
    model = TiedModel()
    own = {name: value.clone() for name, value in model.state_dict().items()}
    ema = ModelEMA(model, 0.5)
    with torch.no_grad():
        model.first.weight.add_(2.0)
    ema.update(model)
    averages = {name: value.clone() for name, value in ema.state_dict().items()}

    with ema.applied_to(model):
        torch.testing.assert_close(model.first.weight, own["first.weight"] + 1.0)

    torch.testing.assert_close(model.first.weight.data, own["first.weight"] + 2.0)
    for name, average in ema.state_dict().items():
        assert torch.equal(average, averages[name]), name


def test_a_saved_average_continues_bit_for_bit():
    model = recorded_model()
    whole = ModelEMA(model, 0.9)
    whole.update(model)
    with torch.no_grad():
        model[0].weight.mul_(3.0)
    resumed = ModelEMA(model, 0.9)
    resumed.load_state_dict(whole.state_dict())
    for ema in (whole, resumed):
        ema.update(model)
    for name, average in whole.state_dict().items():
        assert torch.equal(average, resumed.state_dict()[name]), name


def test_an_average_of_another_model_is_refused_before_anything_changes():
    ema = ModelEMA(recorded_model(), 0.9)
    before = {name: value.clone() for name, value in ema.state_dict().items()}
    with pytest.raises(ValueError, match=r"does not fit the model at 0\.weight"):
        ema.load_state_dict(ModelEMA(nn.Sequential(nn.Linear(5, 3)), 0.9).state_dict())
    assert all(torch.equal(v, before[k]) for k, v in ema.state_dict().items())


def test_a_decay_of_one_is_refused():
    with pytest.raises(ValueError, match=r"MODEL_EMA is 1\.0"):
        ModelEMA(recorded_model(), 1.0)
