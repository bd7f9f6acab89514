"""Learning rates against recorded and published values, decay schedule, resuming."""

import json

import pytest
import torch

from maskrcnn_benchmark.solver.lr_schedule import (
    WarmUp,
    WarmUpCosine,
    WarmUpMultiStep,
    WarmUpPlateau,
    WeightDecaySchedule,
)


def optimizer_with(*base_lrs: float, weight_decay: float = 0.0) -> torch.optim.Optimizer:
    groups = [
        {
            "params": [torch.nn.Parameter(torch.zeros(1))],
            "lr": lr,
            "initial_lr": lr,
            "weight_decay": weight_decay,
            "initial_weight_decay": weight_decay,
        }
        for lr in base_lrs
    ]
    return torch.optim.AdamW(groups)


def rates(optimizer) -> list[float]:
    return [group["lr"] for group in optimizer.param_groups]


def recorded_case(golden_dir, tag: str) -> dict:
    cases = json.loads((golden_dir / "glip/units/lr_schedules.json").read_text())
    return next(case for case in cases if case["tag"] == tag)


@pytest.mark.parametrize(
    ("tag", "milestones", "gamma", "warm_up"),
    [
        ("multistep fractions", [121, 160], 0.1, WarmUp(20, 0.001)),
        ("multistep absolute", [50, 120], 0.2, WarmUp(20, 0.001)),
        ("multistep constant warmup", [121, 160], 0.1, WarmUp(20, 0.001, "constant")),
        ("no warmup", [121, 160], 0.1, WarmUp(0, 0.001)),
    ],
)
def test_multi_step_equals_the_recorded_rates(golden_dir, tag, milestones, gamma, warm_up):
    case = recorded_case(golden_dir, tag)
    optimizer = optimizer_with(*case["base_lrs"])
    schedule = WarmUpMultiStep(optimizer, milestones=milestones, gamma=gamma, warm_up=warm_up)
    for t, expected in enumerate(case["lrs"]):
        assert rates(optimizer) == pytest.approx(expected, rel=1e-12), t
        schedule.step()


def test_cosine_equals_the_recorded_rates(golden_dir):
    case = recorded_case(golden_dir, "cosine")
    optimizer = optimizer_with(*case["base_lrs"])
    schedule = WarmUpCosine(optimizer, max_iter=180, min_lr=1e-6, warm_up=WarmUp(20, 0.001))
    for t, expected in enumerate(case["lrs"]):
        assert rates(optimizer) == pytest.approx(expected, rel=1e-12), t
        schedule.step()


def test_plateau_equals_the_recorded_rates_after_the_warm_up(golden_dir):
    """The recorded loop counted metrics as warm-up steps, so the first 25 entries differ."""
    case = recorded_case(golden_dir, "autostep")
    optimizer = optimizer_with(*case["base_lrs"])
    schedule = WarmUpPlateau(
        optimizer, patience=3, gamma=0.1, min_lr=1e-6, warm_up=WarmUp(20, 0.001)
    )
    seen = [rates(optimizer)]
    for metric in case["metrics"]:
        if metric is None:
            schedule.step()
        else:
            schedule.observe(metric)
        seen.append(rates(optimizer))
    for t in range(26, len(seen)):
        assert seen[t] == pytest.approx(case["lrs"][t], rel=1e-12), t


@pytest.mark.parametrize(
    ("t", "expected"),
    [(0, 1e-7), (1000, 5.005e-5), (2000, 1e-4), (66_999, 1e-4), (67_000, 1e-5), (89_000, 1e-6)],
)
def test_the_published_pre_training_schedule(t, expected):
    optimizer = optimizer_with(1e-4)
    schedule = WarmUpMultiStep(
        optimizer, milestones=[67_000, 89_000], gamma=0.1, warm_up=WarmUp(2000, 0.001)
    )
    schedule.load_state_dict({"iteration": t})
    assert rates(optimizer) == pytest.approx([expected])


def test_cosine_is_base_after_the_warm_up_and_half_way_down_after_half_the_training():
    optimizer = optimizer_with(1e-4)
    schedule = WarmUpCosine(optimizer, max_iter=1000, min_lr=1e-6, warm_up=WarmUp(100, 0.001))
    schedule.load_state_dict({"iteration": 100})
    assert rates(optimizer) == pytest.approx([1e-4])
    schedule.load_state_dict({"iteration": 600})
    assert rates(optimizer) == pytest.approx([(1e-4 + 1e-6) / 2])


def test_linear_warm_up_is_half_done_in_the_middle():
    assert WarmUp(500, 1 / 3)(250) == pytest.approx(2 / 3)


def test_plateau_starts_at_the_warm_up_value_and_ignores_results_during_it():
    optimizer = optimizer_with(1e-4)
    schedule = WarmUpPlateau(
        optimizer, patience=0, gamma=0.1, min_lr=1e-6, warm_up=WarmUp(2, 0.001)
    )
    assert rates(optimizer) == pytest.approx([1e-7])
    schedule.observe(0.5)
    schedule.observe(0.4)
    schedule.step()
    assert rates(optimizer) == pytest.approx([1e-4 * 0.5005])
    schedule.step()
    assert rates(optimizer) == pytest.approx([1e-4])


def test_plateau_drops_after_more_than_patience_results_without_improvement():
    optimizer = optimizer_with(1e-4)
    schedule = WarmUpPlateau(optimizer, patience=3, gamma=0.1, min_lr=1e-6, warm_up=WarmUp())
    seen = []
    for ap in (10.0, 9.0, 9.0, 9.0, 9.0):
        schedule.observe(ap)
        seen.append(optimizer.param_groups[0]["lr"])
    assert seen == pytest.approx([1e-4, 1e-4, 1e-4, 1e-4, 1e-5])


def test_plateau_counts_a_result_of_zero_and_respects_the_smallest_rate():
    optimizer = optimizer_with(1e-4)
    schedule = WarmUpPlateau(optimizer, patience=0, gamma=0.1, min_lr=5e-6, warm_up=WarmUp())
    for _ in range(6):
        schedule.observe(0.0)
    assert rates(optimizer) == pytest.approx([5e-6])


@pytest.mark.parametrize("steps_before", [0, 3, 17])
def test_a_saved_plateau_continues_where_it_stopped(steps_before):
    def make():
        optimizer = optimizer_with(1e-3, 1e-4)
        schedule = WarmUpPlateau(
            optimizer, patience=1, gamma=0.5, min_lr=1e-6, warm_up=WarmUp(2, 0.1)
        )
        return optimizer, schedule

    def advance(schedule, first, last):
        for t in range(first, last):
            schedule.step()
            schedule.observe(0.5 if t < 5 else 0.4)

    whole_optimizer, whole = make()
    advance(whole, 0, 20)
    _, interrupted = make()
    advance(interrupted, 0, steps_before)
    resumed_optimizer, resumed = make()
    resumed.load_state_dict(interrupted.state_dict())
    advance(resumed, steps_before, 20)

    assert rates(resumed_optimizer) == rates(whole_optimizer)
    assert resumed.state_dict() == whole.state_dict()


def test_the_count_of_original_checkpoints_is_understood():
    optimizer = optimizer_with(1e-4)
    schedule = WarmUpMultiStep(optimizer, milestones=[5], gamma=0.1, warm_up=WarmUp())
    schedule.load_state_dict({"last_epoch": 5, "base_lrs": [1e-4]})
    assert rates(optimizer) == pytest.approx([1e-5])


def test_unsorted_milestones_and_unknown_warm_up_are_refused():
    with pytest.raises(ValueError, match="must increase"):
        WarmUpMultiStep(optimizer_with(1.0), milestones=[5, 3], gamma=0.1, warm_up=WarmUp())
    with pytest.raises(ValueError, match="WARMUP_METHOD is 'exponential'"):
        WarmUp(10, 0.1, "exponential")


def test_weight_decay_drops_shortly_before_each_milestone():
    optimizer = optimizer_with(1e-4, weight_decay=0.01)
    schedule = WeightDecaySchedule(optimizer, milestones=[100, 200], gamma=0.1, ratio=0.667)
    seen = {}
    for t in (66, 67, 133, 134, 400):
        schedule.apply(t)
        seen[t] = optimizer.param_groups[0]["weight_decay"]
    assert seen == pytest.approx({66: 1e-2, 67: 1e-3, 133: 1e-3, 134: 1e-4, 400: 1e-4})
