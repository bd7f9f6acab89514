"""Learning rate and weight decay as functions of the number of finished iterations.

A schedule steps once per iteration. Multi-step and cosine rates and the decay follow from the
iteration alone; only the plateau schedule remembers what it saw.
"""

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from maskrcnn_benchmark.errors import ConfigError


@dataclass(frozen=True)
class WarmUp:
    """Factor that leads the learning rate up to its base value.

    Attributes:
        iterations: length W; 0 means none.
        factor: value at iteration 0.
        method: "linear" (from ``factor`` to 1 over W) or "constant" (``factor`` until W).
    """

    iterations: int = 0
    factor: float = 1.0 / 3
    method: str = "linear"

    def __post_init__(self) -> None:
        if self.method not in ("linear", "constant"):
            raise ConfigError(
                f"SOLVER.WARMUP_METHOD is {self.method!r}; it must be 'linear' or 'constant'"
            )

    def __call__(self, iteration: int) -> float:
        if iteration >= self.iterations:
            return 1.0
        if self.method == "constant":
            return self.factor
        alpha = iteration / self.iterations
        return self.factor * (1 - alpha) + alpha


class LRSchedule:
    """Sets the learning rate of every group; subclasses say what it is.

    On construction the groups get the rate of iteration 0. ``step()`` moves on by one iteration.

    Attributes:
        iteration: number of steps so far, t in the formulas.
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer
        self.base_lrs = [group["initial_lr"] for group in optimizer.param_groups]
        self.iteration = 0

    def learning_rate(self, base_lr: float) -> float:
        """Rate at the current iteration of a group that starts from ``base_lr``."""
        raise NotImplementedError

    def step(self) -> None:
        """One more iteration is done."""
        self.iteration += 1
        self.apply()

    def observe(self, metric: float) -> None:
        """Hear the result of a validation; most schedules do not listen."""

    def apply(self) -> None:
        """Write the current rates into the optimizer."""
        for group, base_lr in zip(self.optimizer.param_groups, self.base_lrs):
            group["lr"] = self.learning_rate(base_lr)

    def state_dict(self) -> dict[str, Any]:
        return {"iteration": self.iteration}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        # Original checkpoints call the count last_epoch.
        self.iteration = state["iteration"] if "iteration" in state else state["last_epoch"]
        self.apply()


class WarmUpMultiStep(LRSchedule):
    """``base * warm_up(t) * gamma ** (number of milestones <= t)``."""

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        *,
        milestones: Sequence[int],
        gamma: float,
        warm_up: WarmUp,
    ) -> None:
        if list(milestones) != sorted(milestones):
            raise ConfigError(f"SOLVER.STEPS must increase, but give the iterations {milestones}")
        super().__init__(optimizer)
        self.milestones = list(milestones)
        self.gamma = gamma
        self.warm_up = warm_up
        self.apply()

    def learning_rate(self, base_lr: float) -> float:
        drops = bisect_right(self.milestones, self.iteration)
        return base_lr * self.warm_up(self.iteration) * self.gamma**drops


class WarmUpCosine(LRSchedule):
    """Warm-up for W iterations, then ``min + (base - min) * (1 + cos(pi (t - W) / T)) / 2``.

    As in the original, T is the whole length of training rather than what is left after the
    warm-up, so the last rate lies slightly above the minimum.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, *, max_iter: int, min_lr: float, warm_up: WarmUp
    ) -> None:
        super().__init__(optimizer)
        self.max_iter = max_iter
        self.min_lr = min_lr
        self.warm_up = warm_up
        self.apply()

    def learning_rate(self, base_lr: float) -> float:
        since_warm_up = self.iteration - self.warm_up.iterations
        if since_warm_up < 0:
            return base_lr * self.warm_up(self.iteration)
        cosine = math.cos(math.pi * since_warm_up / self.max_iter)
        return self.min_lr + (base_lr - self.min_lr) * (1 + cosine) / 2


class WarmUpPlateau(LRSchedule):
    """Warm-up, then a drop by ``gamma`` whenever validation has stopped improving.

    After more than ``patience`` results in a row that are not above ``best * 1.0001`` the rate is
    multiplied by ``gamma``, down to ``min_lr``. Results during the warm-up do not count. A result
    of exactly 0 counts like any other.
    """

    THRESHOLD = 1e-4
    SMALLEST_CHANGE = 1e-8

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        *,
        patience: int,
        gamma: float,
        min_lr: float,
        warm_up: WarmUp,
    ) -> None:
        super().__init__(optimizer)
        self.patience = patience
        self.gamma = gamma
        self.min_lr = min_lr
        self.warm_up = warm_up
        self.best: float | None = None
        self.bad_results = 0
        self.drops = 0
        self.apply()

    def learning_rate(self, base_lr: float) -> float:
        if self.iteration < self.warm_up.iterations:
            return base_lr * self.warm_up(self.iteration)
        lr = base_lr
        for _ in range(self.drops):
            lower = max(lr * self.gamma, self.min_lr)
            if lr - lower > self.SMALLEST_CHANGE:
                lr = lower
        return lr

    def observe(self, metric: float) -> None:
        """Hear the result of a validation, on every process the same."""
        if self.iteration < self.warm_up.iterations:
            return
        if self.best is None or metric > self.best * (1 + self.THRESHOLD):
            self.best = metric
            self.bad_results = 0
            return
        self.bad_results += 1
        if self.bad_results > self.patience:
            self.bad_results = 0
            self.drops += 1
            self.apply()

    def state_dict(self) -> dict[str, Any]:
        return {
            "iteration": self.iteration,
            "best": self.best,
            "bad_results": self.bad_results,
            "drops": self.drops,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best = state.get("best")
        self.bad_results = state.get("bad_results", 0)
        self.drops = state.get("drops", 0)
        super().load_state_dict(state)


class WeightDecaySchedule:
    """Lowers the weight decay a little before each drop of the learning rate (GLIP-L).

    At t iterations every group's decay is its starting value times ``gamma`` to the number of
    milestones m with ``t >= m * ratio``.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        *,
        milestones: Sequence[int],
        gamma: float,
        ratio: float,
    ) -> None:
        self.optimizer = optimizer
        self.turning_points = [milestone * ratio for milestone in milestones]
        self.gamma = gamma

    def apply(self, iteration: int) -> None:
        """Write the decay that holds after this many iterations into the optimizer."""
        factor = self.gamma ** bisect_right(self.turning_points, iteration)
        for group in self.optimizer.param_groups:
            group["weight_decay"] = group["initial_weight_decay"] * factor
