"""A whole training run from a configuration: build, resume or load, train."""

import logging
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from maskrcnn_benchmark.config import CfgNode
from maskrcnn_benchmark.data import make_data_loader
from maskrcnn_benchmark.errors import ConfigError
from maskrcnn_benchmark.modeling.compilation import compile_parts
from maskrcnn_benchmark.modeling.detector import GeneralizedVLRCNN, build_detection_model
from maskrcnn_benchmark.solver import (
    build_ema,
    build_gradient_clipping,
    build_lr_scheduler,
    build_optimizer,
    build_weight_decay_schedule,
)
from maskrcnn_benchmark.utils import comm
from maskrcnn_benchmark.utils.checkpoint import CheckpointFolder, load_weights, resolve_weight
from maskrcnn_benchmark.utils.metric_logger import make_tensorboard_writer
from maskrcnn_benchmark.utils.random_state import seed_all

from .class_sentences import refuse_class_sentences
from .device import choose_device
from .hooks import Hook, Progress, Validation
from .inference import inference, require_task
from .loss_history import LossHistory
from .parallel import replicate, shard, sharded
from .step import AMP_DTYPES, StepOptions, TrainingStep
from .training_loop import Trainer

logger = logging.getLogger(__name__)

LOG_PERIOD = 20


def do_train(cfg: CfgNode, *, use_tensorboard: bool = False, trust: bool = False) -> Trainer:
    """Train as configured in ``cfg.OUTPUT_DIR``, going on where an earlier run stopped.

    Called by all processes together. SOLVER.MAX_ITER and SOLVER.DATASET_LENGTH are written into
    ``cfg`` when SOLVER.MAX_EPOCH sets the length.

    Args:
        use_tensorboard: write event files into the output folder.
        trust: see :func:`maskrcnn_benchmark.utils.checkpoint_files.read_checkpoint`.
    Returns:
        the trainer, whose ``finished`` is False if a signal stopped it.
    """
    trainer = build_trainer(cfg, use_tensorboard=use_tensorboard)
    start_from(trainer, cfg.MODEL.WEIGHT, trust=trust)
    if trainer.finished:
        logger.info(
            "%s is finished (%s): nothing to do",
            cfg.OUTPUT_DIR,
            trainer.terminated or f"all {trainer.max_iter} iterations are done",
        )
        return trainer
    trainer.train()
    return trainer


def build_trainer(cfg: CfgNode, *, use_tensorboard: bool = False) -> Trainer:
    """Model, data, optimizer and hooks of a run, at its beginning."""
    refuse_class_sentences(cfg, "training")
    device = choose_device(cfg.MODEL.DEVICE, cfg.local_rank)
    # Equal weights everywhere, then different dropout and augmentation on each process.
    seed_all(cfg.SOLVER.SEED)
    model = build_detection_model(cfg)
    if cfg.MODEL.BACKBONE.RESET_BN:
        reset_batch_statistics(model)
    model.to(device)
    if cfg.SOLVER.COMPILE:
        _compile(cfg, model)
    shares = sharded(cfg)
    if shares:
        shard(model, device)
    seed_all(cfg.SOLVER.SEED + comm.get_rank())

    loader = make_data_loader(
        cfg, is_train=True, is_distributed=comm.is_distributed(), tokenizer=model.tokenizer
    )
    optimizer = build_optimizer(cfg, model)
    log_what_trains(model)
    amp_dtype = _amp_dtype(cfg)
    options = StepOptions(
        amp_dtype=amp_dtype,
        accumulation=cfg.SOLVER.ACCUMULATION_STEPS,
        clipping=build_gradient_clipping(cfg),
    )
    keep = cfg.SOLVER.KEEP_LAST_CHECKPOINTS
    trainer = Trainer(
        step=TrainingStep(
            model if shares else _replicate(cfg, model, device), optimizer, device, options
        ),
        loader=loader,
        max_iter=cfg.SOLVER.MAX_ITER,
        schedule=build_lr_scheduler(cfg, optimizer),
        weight_decay_schedule=build_weight_decay_schedule(cfg, optimizer),
        ema=build_ema(cfg, model),
        history=LossHistory(
            cfg.SOLVER.MAX_NON_FINITE_STEPS, overflow_is_ordinary=amp_dtype is torch.float16
        ),
        checkpoints=CheckpointFolder(cfg.OUTPUT_DIR, keep if keep > 0 else None),
        save_period=checkpoint_period(cfg),
        read_period=1 if device.type == "cpu" else LOG_PERIOD,
        max_empty_share=cfg.SOLVER.MAX_NEG_PER_BATCH,
        seed=cfg.SOLVER.SEED,
    )
    trainer.hooks = _hooks(cfg, trainer, model, use_tensorboard)
    return trainer


def start_from(trainer: Trainer, weight: str, *, trust: bool = False) -> None:
    """Continue the run of the output folder if there is one; else load the initial weights."""
    saved = trainer.checkpoints.latest()
    if saved is not None:
        trainer.load_state_dict(saved.contents)
        logger.warning(
            "continuing from %s at iteration %d (not from %s)",
            saved.path,
            trainer.iteration,
            weight or "new weights",
        )
    elif weight:
        path = resolve_weight(weight)
        logger.info("starting from the weights of %s", path)
        load_weights(trainer.model, path, trust=trust)
        trainer.restart_average()
    else:
        logger.info("no MODEL.WEIGHT is configured: training starts from new weights")


def checkpoint_period(cfg: CfgNode) -> int:
    """Iterations between checkpoints: CHECKPOINT_PER_EPOCH (a number of epochs) if that is set."""
    solver = cfg.SOLVER
    if solver.CHECKPOINT_PER_EPOCH != -1 and solver.MAX_EPOCH >= 1:
        return max(1, int(solver.MAX_ITER * solver.CHECKPOINT_PER_EPOCH // solver.MAX_EPOCH))
    if solver.CHECKPOINT_PERIOD < 1:
        raise ConfigError(
            f"SOLVER.CHECKPOINT_PERIOD must be 1 or more, not {solver.CHECKPOINT_PERIOD}"
        )
    return solver.CHECKPOINT_PERIOD


def reset_batch_statistics(model: nn.Module) -> None:
    """Set all running means to 0 and running variances to 1."""
    for name, buffer in model.named_buffers():
        if "running_mean" in name:
            buffer.zero_()
        elif "running_var" in name:
            buffer.fill_(1.0)


def log_what_trains(model: nn.Module) -> None:
    """One line per part of the model: trainable and frozen parameters."""
    for name, part in model.named_children():
        trainable = sum(p.numel() for p in part.parameters() if p.requires_grad)
        frozen = sum(p.numel() for p in part.parameters() if not p.requires_grad)
        logger.info("%s: %d parameters train, %d are frozen", name, trainable, frozen)


def _amp_dtype(cfg: CfgNode) -> torch.dtype | None:
    if cfg.SOLVER.AMP_DTYPE not in AMP_DTYPES:
        raise ConfigError(
            f"SOLVER.AMP_DTYPE is {cfg.SOLVER.AMP_DTYPE!r}, not one of {list(AMP_DTYPES)}"
        )
    return AMP_DTYPES[cfg.SOLVER.AMP_DTYPE] if cfg.SOLVER.USE_AMP else None


def _compile(cfg: CfgNode, model: GeneralizedVLRCNN) -> None:
    options = {"backend": cfg.SOLVER.COMPILE_BACKEND}
    if cfg.SOLVER.COMPILE_MODE:
        options["mode"] = cfg.SOLVER.COMPILE_MODE
    try:
        compile_parts(model, cfg.SOLVER.COMPILE, **options)
    except ValueError as error:
        raise ConfigError(f"SOLVER.COMPILE: {error}") from error
    logger.info("compiled at their first use: %s", ", ".join(cfg.SOLVER.COMPILE))


def _replicate(cfg: CfgNode, model: nn.Module, device: torch.device) -> nn.Module:
    return replicate(
        model,
        device,
        find_unused_parameters=cfg.SOLVER.FIND_UNUSED_PARAMETERS,
        share_buffers=cfg.MODEL.BACKBONE.USE_BN,
    )


def _hooks(
    cfg: CfgNode, trainer: Trainer, model: GeneralizedVLRCNN, use_tensorboard: bool
) -> list[Hook]:
    make_writer = None
    if use_tensorboard:

        def make_writer(first_iteration: int) -> Any:
            return make_tensorboard_writer(Path(cfg.OUTPUT_DIR), first_iteration)

    hooks: list[Hook] = [Progress(LOG_PERIOD, make_writer)]
    # The plateau schedule and the automatic end live on validation results.
    patience = cfg.SOLVER.AUTO_TERMINATE_PATIENCE
    if cfg.TEST.DURING_TRAINING or cfg.SOLVER.USE_AUTOSTEP:
        loader = _validation_loader(cfg, model)
        hooks.insert(
            0,
            Validation(
                lambda: inference(
                    cfg, model, loader, "validation", should_stop=lambda: bool(trainer.stop)
                ),
                period=trainer.save_period,
                patience=None if patience == -1 else patience,
                use_ema=cfg.SOLVER.USE_EMA_FOR_MONITOR,
            ),
        )
    elif patience != -1:
        raise ConfigError(
            "SOLVER.AUTO_TERMINATE_PATIENCE needs validation results: set TEST.DURING_TRAINING True"
        )
    return hooks


def _validation_loader(cfg: CfgNode, model: GeneralizedVLRCNN) -> DataLoader:
    """Loader of the first entry of DATASETS.TEST, once it is known to fit TEST.EVAL_TASK."""
    first = cfg.clone()
    first.defrost()
    first.DATASETS.TEST = first.DATASETS.TEST[:1]
    (loader,) = make_data_loader(
        first, is_train=False, is_distributed=comm.is_distributed(), tokenizer=model.tokenizer
    )
    require_task(cfg, loader.dataset)
    return loader
