"""Optimizer, schedules and clipping as the configuration asks."""

import logging

import torch
from torch import nn
from yacs.config import CfgNode

from maskrcnn_benchmark.errors import ConfigError

from .ema import ModelEMA
from .lr_schedule import (
    LRSchedule,
    WarmUp,
    WarmUpCosine,
    WarmUpMultiStep,
    WarmUpPlateau,
    WeightDecaySchedule,
)
from .optimizer import GradientClipping, ParameterRules, make_optimizer, parameter_groups

logger = logging.getLogger(__name__)


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """Optimizer over the trainable parameters of a model; freeze before calling this."""
    solver = cfg.SOLVER
    rules = ParameterRules(
        base_lr=solver.BASE_LR,
        lang_lr=solver.LANG_LR,
        backbone_body_lr_factor=solver.BACKBONE_BODY_LR_FACTOR,
        bias_lr_factor=solver.BIAS_LR_FACTOR,
        weight_decay=solver.WEIGHT_DECAY,
        weight_decay_bias=solver.WEIGHT_DECAY_BIAS,
        weight_decay_norm_factor=solver.WEIGHT_DECAY_NORM_FACTOR,
    )
    return make_optimizer(solver.OPTIMIZER, parameter_groups(model, rules), solver.MOMENTUM)


def build_lr_scheduler(cfg: CfgNode, optimizer: torch.optim.Optimizer) -> LRSchedule:
    """Schedule of the learning rate; SOLVER.MAX_ITER must be final (the loader may set it)."""
    solver = cfg.SOLVER
    if solver.MULTI_MAX_EPOCH:
        raise ConfigError(
            "SOLVER.MULTI_MAX_EPOCH asks for multi-stage training, which is not offered: "
            "leave it empty and run the stages one after another"
        )
    warm_up = WarmUp(solver.WARMUP_ITERS, solver.WARMUP_FACTOR, solver.WARMUP_METHOD)
    if solver.USE_COSINE:
        if solver.USE_AUTOSTEP:
            logger.warning(
                "SOLVER.USE_COSINE wins over SOLVER.USE_AUTOSTEP: the learning rate follows the "
                "cosine; set SOLVER.USE_COSINE False for steps by validation results"
            )
        return WarmUpCosine(
            optimizer, max_iter=solver.MAX_ITER, min_lr=solver.MIN_LR, warm_up=warm_up
        )
    if solver.USE_AUTOSTEP:
        return WarmUpPlateau(
            optimizer,
            patience=solver.STEP_PATIENCE,
            gamma=solver.GAMMA,
            min_lr=solver.MIN_LR,
            warm_up=warm_up,
        )
    return WarmUpMultiStep(
        optimizer, milestones=milestones(cfg), gamma=solver.GAMMA, warm_up=warm_up
    )


def milestones(cfg: CfgNode) -> list[int]:
    """Iterations at which the learning rate drops; steps below 1 are fractions of MAX_ITER."""
    return [
        round(step * cfg.SOLVER.MAX_ITER) if step < 1 else int(step) for step in cfg.SOLVER.STEPS
    ]


def build_weight_decay_schedule(
    cfg: CfgNode, optimizer: torch.optim.Optimizer
) -> WeightDecaySchedule | None:
    """Schedule of the weight decay; None unless it is on and the rate has milestones."""
    solver = cfg.SOLVER
    if not solver.WEIGHT_DECAY_SCHEDULE or solver.USE_COSINE or solver.USE_AUTOSTEP:
        return None
    return WeightDecaySchedule(
        optimizer,
        milestones=milestones(cfg),
        gamma=solver.GAMMA,
        ratio=solver.WEIGHT_DECAY_SCHEDULE_RATIO,
    )


def build_gradient_clipping(cfg: CfgNode) -> GradientClipping:
    """Limits from SOLVER.CLIP_GRADIENTS (norm over the full model) and SOLVER.GRAD_CLIP (values)."""
    clip = cfg.SOLVER.CLIP_GRADIENTS
    if clip.ENABLED and clip.CLIP_TYPE != "full_model":
        raise ConfigError(
            f"SOLVER.CLIP_GRADIENTS.CLIP_TYPE is {clip.CLIP_TYPE!r}; only 'full_model' exists"
        )
    return GradientClipping(
        max_norm=clip.CLIP_VALUE if clip.ENABLED else 0.0,
        norm_type=clip.NORM_TYPE,
        max_value=cfg.SOLVER.GRAD_CLIP,
    )


def build_ema(cfg: CfgNode, model: nn.Module) -> ModelEMA | None:
    """Average of the weights with decay SOLVER.MODEL_EMA; None when that is 0."""
    if cfg.SOLVER.MODEL_EMA <= 0:
        return None
    return ModelEMA(model, cfg.SOLVER.MODEL_EMA)
