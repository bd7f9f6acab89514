"""How weights change: parameter groups, schedules, clipping, averaging."""

from .build import (
    build_ema,
    build_gradient_clipping,
    build_lr_scheduler,
    build_optimizer,
    build_weight_decay_schedule,
)
from .ema import ModelEMA
from .lr_schedule import LRSchedule, WeightDecaySchedule
from .optimizer import GradientClipping, load_optimizer_state, optimizer_state_by_name
