"""Rates and decays by parameter name, saved optimizer state, gradient clipping."""

import copy
import json
import logging

import pytest
import torch
from torch import nn

from maskrcnn_benchmark.solver.optimizer import (
    GradientClipping,
    ParameterRules,
    load_optimizer_state,
    make_optimizer,
    optimizer_state_by_name,
    parameter_groups,
)

GLIP_T_RULES = ParameterRules(base_lr=1e-4, lang_lr=1e-5, weight_decay=1e-4)


@pytest.mark.parametrize("config", ["glip_Swin_T_O365_GoldG", "glip_A_Swin_T_O365"])
def test_every_parameter_of_the_published_models_gets_its_recorded_settings(golden_dir, config):
    recorded = json.loads((golden_dir / "glip/units/optimizer_groups.json").read_text())[config]
    assert len(recorded["groups"]) > 500
    for name, (lr, weight_decay) in recorded["groups"].items():
        assert GLIP_T_RULES.settings(name) == pytest.approx((lr, weight_decay), rel=1e-12), name


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("rpn.head.scales.0.scale", (1e-4, 0.01)),
        ("rpn.head.bias_lang", (2e-4, 0.0)),
        ("backbone.body.layers.0.attn.relative_position_bias_table", (1e-4, 0.0)),
        ("backbone.body.layers.0.norm1.weight", (5e-5, 0.005)),
        ("language_backbone.body.model.encoder.layer.0.LayerNorm.weight", (1e-5, 0.005)),
        ("language_backbone.body.model.encoder.layer.0.dense.bias", (2e-5, 0.0)),
        ("fusion_backbone.backbone.body.layers.0.mlp.weight", (5e-5, 0.01)),
        ("fusion_backbone.language_backbone.body.encoder.weight", (1e-5, 0.01)),
    ],
)
def test_the_rules_read_substrings_of_the_name(name, expected):
    rules = ParameterRules(
        base_lr=1e-4,
        lang_lr=1e-5,
        backbone_body_lr_factor=0.5,
        weight_decay=0.01,
        weight_decay_norm_factor=0.5,
    )
    assert rules.settings(name) == pytest.approx(expected)


def small_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def trained(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    for step in range(steps):
        generator = torch.Generator().manual_seed(step)
        optimizer.zero_grad()
        model(torch.randn(5, 3, generator=generator)).square().mean().backward()
        optimizer.step()


def test_parameters_of_equal_settings_share_a_group_and_frozen_ones_have_none():
    model = small_model()
    model[0].weight.requires_grad_(False)

    groups = parameter_groups(model, GLIP_T_RULES)

    names = [[name for name, _ in group["params"]] for group in groups]
    assert names == [["0.bias", "1.bias", "2.bias"], ["1.weight", "2.weight"]]
    assert [(g["lr"], g["weight_decay"]) for g in groups] == [(2e-4, 0.0), (1e-4, 1e-4)]


def test_a_model_without_trainable_parameters_is_refused():
    with pytest.raises(ValueError, match="nothing to train"):
        parameter_groups(small_model().requires_grad_(False), GLIP_T_RULES)


def test_an_unknown_optimizer_is_refused():
    groups = parameter_groups(small_model(), GLIP_T_RULES)
    with pytest.raises(ValueError, match="OPTIMIZER is 'LAMB'"):
        make_optimizer("LAMB", groups)


@pytest.mark.parametrize("kind", ["SGD", "ADAMW"])
def test_saved_state_continues_training_bit_for_bit(kind):
    model = small_model()
    optimizer = make_optimizer(kind, parameter_groups(model, GLIP_T_RULES))
    trained(model, optimizer, 3)
    saved_model = copy.deepcopy(model.state_dict())
    saved = copy.deepcopy(optimizer_state_by_name(optimizer))
    trained(model, optimizer, 4)

    resumed = small_model()
    resumed.load_state_dict(saved_model)
    second = make_optimizer(kind, parameter_groups(resumed, GLIP_T_RULES))
    load_optimizer_state(second, saved)
    trained(resumed, second, 4)

    for (name, value), other in zip(model.state_dict().items(), resumed.state_dict().values()):
        assert torch.equal(value, other), name


def test_state_of_one_group_per_parameter_is_read_in_model_order():
    """The layout of original checkpoints, with step counts as plain numbers."""
    model = small_model()
    original = torch.optim.AdamW(
        [{"params": [p], "lr": 1e-4, "weight_decay": 0.0} for p in model.parameters()]
    )
    trained(model, original, 2)
    saved = original.state_dict()
    for buffers in saved["state"].values():
        buffers["step"] = int(buffers["step"])

    optimizer = make_optimizer("ADAMW", parameter_groups(model, GLIP_T_RULES))
    load_optimizer_state(optimizer, saved)

    for parameter in model.parameters():
        assert torch.equal(
            optimizer.state[parameter]["exp_avg"], original.state[parameter]["exp_avg"]
        )
        assert optimizer.state[parameter]["step"] == 2.0


def test_numbered_state_of_another_number_of_parameters_is_refused():
    model = small_model()
    original = torch.optim.AdamW([{"params": [p]} for p in list(model.parameters())[:2]])
    optimizer = make_optimizer("ADAMW", parameter_groups(model, GLIP_T_RULES))
    with pytest.raises(ValueError, match="for 2 parameters, the model trains 6"):
        load_optimizer_state(optimizer, original.state_dict())


def test_parameters_without_fitting_state_start_afresh_and_are_counted(caplog):
    model = small_model()
    optimizer = make_optimizer("ADAMW", parameter_groups(model, GLIP_T_RULES))
    trained(model, optimizer, 1)
    saved = optimizer_state_by_name(optimizer)
    saved["state"]["gone.weight"] = saved["state"].pop("2.bias")
    saved["state"]["0.weight"] = {"exp_avg": torch.zeros(7, 7)}

    second = make_optimizer("ADAMW", parameter_groups(model, GLIP_T_RULES))
    with caplog.at_level(logging.WARNING):
        load_optimizer_state(second, saved)

    assert (
        "1 parameters are not trained here and were ignored, the first is gone.weight"
        in caplog.text
    )
    assert "start afresh, the first is 2.bias" in caplog.text
    assert "have another shape" in caplog.text
    assert model[0].weight not in second.state


def gradients_of(*values: list[float]) -> list[nn.Parameter]:
    parameters = [nn.Parameter(torch.zeros(len(v))) for v in values]
    for parameter, value in zip(parameters, values):
        parameter.grad = torch.tensor(value)
    return parameters


def test_clipping_scales_all_gradients_to_the_norm_of_the_full_model():
    parameters = [*gradients_of([3.0, 0.0], [4.0]), nn.Parameter(torch.zeros(2))]

    norm = GradientClipping(max_norm=1.0)(parameters)

    assert norm == 5.0
    assert parameters[0].grad.tolist() == pytest.approx([0.6, 0.0], abs=1e-5)
    assert parameters[1].grad.tolist() == pytest.approx([0.8], abs=1e-5)


def test_small_gradients_and_disabled_clipping_change_nothing():
    parameters = gradients_of([0.3], [0.4])
    assert GradientClipping(max_norm=1.0)(parameters) == pytest.approx(0.5)
    assert GradientClipping()(parameters) == pytest.approx(0.5)
    assert [p.grad.item() for p in parameters] == pytest.approx([0.3, 0.4])


def test_value_clipping_limits_single_numbers():
    parameters = gradients_of([3.0, -0.5], [-4.0])
    GradientClipping(max_value=1.0)(parameters)
    assert [p.grad.tolist() for p in parameters] == [[1.0, -0.5], [-1.0]]


def test_a_single_bad_number_makes_the_norm_non_finite():
    assert not GradientClipping(max_norm=1.0)(gradients_of([1.0], [float("nan")])).isfinite()
