"""Optimizer, schedules, clipping and average as published configurations ask for them."""

import json

import pytest
import torch
from torch import nn

from maskrcnn_benchmark.config import cfg
from maskrcnn_benchmark.solver import (
    build_ema,
    build_gradient_clipping,
    build_lr_scheduler,
    build_optimizer,
    build_weight_decay_schedule,
)
from maskrcnn_benchmark.solver.lr_schedule import WarmUpCosine, WarmUpMultiStep, WarmUpPlateau
from tests.engine.small_world import REPOSITORY


def config(*opts, file: str | None = None):
    node = cfg.clone()
    if file is not None:
        node.merge_from_file(REPOSITORY / "configs/pretrain" / file)
    node.merge_from_list(list(opts))
    return node


def model() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))


class Named(nn.Module):
    """A module with one-number parameters of given names."""

    def __init__(self, names):
        super().__init__()
        for name in names:
            *parents, leaf = name.split(".")
            module = self
            for part in parents:
                if part not in module._modules:
                    module.add_module(part, nn.Module())
                module = module._modules[part]
            module.register_parameter(leaf, nn.Parameter(torch.zeros(1)))


@pytest.mark.parametrize("name", ["glip_Swin_T_O365_GoldG", "glip_A_Swin_T_O365"])
def test_the_optimizer_of_a_published_configuration_has_the_recorded_settings(golden_dir, name):
    recorded = json.loads((golden_dir / "glip/units/optimizer_groups.json").read_text())[name]
    optimizer = build_optimizer(config(file=f"{name}.yaml"), Named(recorded["groups"]))
    assert type(optimizer) is torch.optim.AdamW
    found = {
        parameter: (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["param_names"]
    }
    assert found.keys() == recorded["groups"].keys()
    for parameter, (lr, weight_decay) in recorded["groups"].items():
        assert found[parameter] == pytest.approx((lr, weight_decay), rel=1e-12), parameter
    defaults = optimizer.defaults
    assert (list(defaults["betas"]), defaults["eps"]) == (recorded["betas"], recorded["eps"])
    clipping = build_gradient_clipping(config(file=f"{name}.yaml"))
    assert clipping.max_norm == recorded["clip_norm"]


@pytest.mark.parametrize(
    "tag", ["multistep fractions", "multistep absolute", "no warmup", "cosine"]
)
def test_schedules_from_the_configuration_equal_the_recorded_rates(golden_dir, tag):
    cases = json.loads((golden_dir / "glip/units/lr_schedules.json").read_text())
    case = next(case for case in cases if case["tag"] == tag)
    opts = [item for pair in case["overrides"].items() for item in pair]
    node = config(*opts, file="glip_Swin_T_O365_GoldG.yaml")
    groups = [
        {"params": [nn.Parameter(torch.zeros(1))], "lr": lr, "initial_lr": lr}
        for lr in case["base_lrs"]
    ]
    optimizer = torch.optim.AdamW(groups)
    schedule = build_lr_scheduler(node, optimizer)
    for expected in case["lrs"]:
        assert [g["lr"] for g in optimizer.param_groups] == pytest.approx(expected, rel=1e-12)
        schedule.step()


@pytest.mark.parametrize(
    ("opts", "kind"),
    [
        ((), WarmUpMultiStep),
        (("SOLVER.USE_AUTOSTEP", True), WarmUpPlateau),
        (("SOLVER.USE_COSINE", True, "SOLVER.USE_AUTOSTEP", True), WarmUpCosine),
    ],
)
def test_the_first_schedule_that_is_switched_on_is_taken(opts, kind):
    node = config(*opts)
    assert type(build_lr_scheduler(node, build_optimizer(node, model()))) is kind


def test_a_plateau_schedule_that_the_cosine_overrules_is_told(caplog):
    cosine = config("SOLVER.USE_COSINE", True)
    optimizer = build_optimizer(cosine, model())

    build_lr_scheduler(cosine, optimizer)
    assert not caplog.records
    cosine.SOLVER.USE_AUTOSTEP = True
    build_lr_scheduler(cosine, optimizer)

    assert "USE_COSINE wins over SOLVER.USE_AUTOSTEP" in caplog.text


def test_multi_stage_training_is_refused():
    node = config("SOLVER.MULTI_MAX_EPOCH", (1, 2))
    with pytest.raises(ValueError, match="multi-stage training"):
        build_lr_scheduler(node, build_optimizer(node, model()))


def test_the_decay_schedule_is_on_for_the_large_model_only():
    large = config(file="glip_Swin_L.yaml")
    optimizer = build_optimizer(large, model())
    schedule = build_weight_decay_schedule(large, optimizer)
    schedule.apply(int(670_000 * 0.667) + 1)
    assert optimizer.param_groups[0]["weight_decay"] == pytest.approx(0.001)
    small = config(file="glip_Swin_T_O365.yaml")
    assert build_weight_decay_schedule(small, optimizer) is None


def test_clipping_is_off_by_default_and_unknown_kinds_are_refused():
    assert build_gradient_clipping(config()).max_norm == 0.0
    assert build_gradient_clipping(config("SOLVER.GRAD_CLIP", 0.5)).max_value == 0.5
    opts = ("SOLVER.CLIP_GRADIENTS.ENABLED", True, "SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "value")
    with pytest.raises(ValueError, match="only 'full_model' exists"):
        build_gradient_clipping(config(*opts))


def test_the_average_is_made_only_where_a_decay_is_set():
    assert build_ema(config(), model()) is None
    assert build_ema(config("SOLVER.MODEL_EMA", 0.999), model()).decay == 0.999
