"""A training run in miniature, for tests that kill and continue it.

The model uses random numbers of every kind, the schedule, the average of weights and the
validation are on: whatever a checkpoint forgets changes the final weights.
"""

import os
import random
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset

from maskrcnn_benchmark.data.collate import Batch
from maskrcnn_benchmark.data.sample_key import SampleKey
from maskrcnn_benchmark.data.samplers import TrainingBatchSampler
from maskrcnn_benchmark.engine.hooks import Hook, Progress, Validation
from maskrcnn_benchmark.engine.loss_history import LossHistory
from maskrcnn_benchmark.engine.step import StepOptions, TrainingStep
from maskrcnn_benchmark.engine.training_loop import Trainer
from maskrcnn_benchmark.solver import GradientClipping, ModelEMA
from maskrcnn_benchmark.solver.lr_schedule import WarmUp, WarmUpPlateau
from maskrcnn_benchmark.solver.optimizer import ParameterRules, make_optimizer, parameter_groups
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.image_list import ImageList
from maskrcnn_benchmark.utils import comm
from maskrcnn_benchmark.utils.checkpoint import CheckpointFolder
from maskrcnn_benchmark.utils.random_state import seed_all

IMAGE_SIZE = 4


class TinyDataset(Dataset):
    """Images of noise whose single box has the image's mean as its place."""

    def __init__(self, length: int = 12, empty: tuple[int, ...] = (), bad: tuple[int, ...] = ()):
        self.length = length
        self.empty = empty
        self.bad = bad

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, key: SampleKey):
        generator = torch.Generator().manual_seed(key.seed % 2**63)
        image = torch.randn(3, IMAGE_SIZE, IMAGE_SIZE, generator=generator) + key.index / 10
        if key.index in self.bad:
            image[0, 0, 0] = torch.nan
        boxes = torch.zeros(0 if key.index in self.empty else 1, 4)
        target = BoxList(boxes, (IMAGE_SIZE, IMAGE_SIZE))
        target.add_field("value", torch.tensor(float(key.index)))
        return image, target, key.index


def collate(samples) -> Batch:
    images, targets, ids = zip(*samples)
    return Batch(
        ImageList(torch.stack(images), [(IMAGE_SIZE, IMAGE_SIZE)] * len(images)), targets, ids
    )


class TinyModel(nn.Module):
    """Regresses the value of an image, whatever its caption.

    ``noisy`` draws from the generators of all libraries.
    """

    def __init__(self, noisy: bool = True, batch_norm: bool = True) -> None:
        super().__init__()
        self.noisy = noisy
        self.first = nn.Linear(3 * IMAGE_SIZE**2, 8)
        self.norm = nn.BatchNorm1d(8) if batch_norm else nn.Identity()
        self.dropout = nn.Dropout(0.3 if noisy else 0.0)
        self.last = nn.Linear(8, 1)

    def forward(
        self, images: ImageList, targets=None, captions=None, positive_map=None, greenlight_map=None
    ):
        hidden = self.norm(self.first(images.tensors.flatten(1)))
        if self.noisy and self.training:
            hidden = hidden * (1 + 0.1 * random.random() + 0.1 * np.random.rand())  # noqa: NPY002
        predicted = self.last(self.dropout(hidden).tanh())[:, 0]
        if targets is None:
            return predicted
        wanted = torch.stack([target.get_field("value") for target in targets])
        error = predicted - wanted
        return {"loss_square": error.square().mean(), "loss_absolute": error.abs().mean()}


class KillAt(Hook):
    """Ends the process with a signal after a given iteration, as the outside world does."""

    def __init__(self, iteration: int, number: int = signal.SIGKILL) -> None:
        self.iteration = iteration
        self.number = number

    def after_iteration(self, trainer, losses) -> None:
        if trainer.iteration == self.iteration:
            os.kill(os.getpid(), self.number)


class Record(Hook):
    """Remembers the losses that were read."""

    def __init__(self) -> None:
        self.losses: list[tuple[int, dict[str, float]]] = []

    def after_iteration(self, trainer, losses) -> None:
        self.losses += losses


@dataclass
class TinyOptions:
    """What tests vary about the run."""

    max_iter: int = 20
    batch_size: int = 3
    save_period: int = 4
    validation_period: int = 5
    num_workers: int = 0
    noisy: bool = True
    batch_norm: bool = True
    patience: int | None = None
    amp_dtype: torch.dtype | None = None
    accumulation: int = 1
    optimizer: str = "ADAMW"
    empty: tuple[int, ...] = ()
    bad: tuple[int, ...] = ()
    length: int = 12
    non_finite_patience: int = 5
    keep_last: int | None = None
    base_lr: float = 0.05
    use_ema: bool = True


def make_trainer(folder: str | Path, options: TinyOptions, hooks: tuple[Hook, ...] = ()) -> Trainer:
    """The whole run, from its beginning."""
    seed_all(7)
    model = TinyModel(options.noisy, options.batch_norm)
    optimizer = make_optimizer(
        options.optimizer,
        parameter_groups(
            model, ParameterRules(base_lr=options.base_lr, lang_lr=0.01, weight_decay=0.01)
        ),
    )
    ema = ModelEMA(model, 0.9) if options.use_ema else None
    wrapped = DistributedDataParallel(model) if comm.get_world_size() > 1 else model
    loader = DataLoader(
        TinyDataset(options.length, options.empty, options.bad),
        batch_sampler=TrainingBatchSampler(
            options.length,
            options.batch_size,
            options.max_iter * options.accumulation,
            seed=3,
            rank=comm.get_rank(),
            world_size=comm.get_world_size(),
            accumulation_steps=options.accumulation,
        ),
        collate_fn=collate,
        num_workers=options.num_workers,
        # In a process that came from a fork server, the default would be that very server.
        multiprocessing_context="fork" if options.num_workers else None,
    )
    seed_all(7 + comm.get_rank())
    return Trainer(
        step=TrainingStep(
            wrapped,
            optimizer,
            torch.device("cpu"),
            StepOptions(options.amp_dtype, options.accumulation, GradientClipping(max_norm=5.0)),
        ),
        loader=loader,
        max_iter=options.max_iter,
        schedule=WarmUpPlateau(
            optimizer, patience=0, gamma=0.5, min_lr=1e-6, warm_up=WarmUp(6, 0.1)
        ),
        history=LossHistory(
            options.non_finite_patience,
            overflow_is_ordinary=options.amp_dtype is torch.float16,
        ),
        checkpoints=CheckpointFolder(folder, options.keep_last),
        save_period=options.save_period,
        ema=ema,
        hooks=[
            Validation(
                lambda: as_result(validate(model)),
                period=options.validation_period,
                patience=options.patience,
                use_ema=options.use_ema,
            ),
            Progress(period=5),
            *hooks,
        ],
        seed=7,
    )


def as_result(value: float) -> dict:
    """A value in the form of an evaluator's summary."""
    return {"value": value, "primary": "AP", "metrics": {"AP": value}}


def validate(model: nn.Module) -> float:
    """A number that goes up and down with the weights."""
    model.eval()
    with torch.no_grad():
        torch.rand(3)  # a validation may draw numbers; training must not notice
        return float(model(ImageList(torch.ones(2, 3, IMAGE_SIZE, IMAGE_SIZE), [(4, 4)] * 2)).sum())


def run(
    folder: str | Path,
    options: TinyOptions,
    hooks: tuple[Hook, ...] = (),
    prepare: Callable[[Trainer], None] | None = None,
) -> Trainer:
    """Start the run, or continue it if the folder has a checkpoint."""
    torch.set_num_threads(1)
    trainer = make_trainer(folder, options, hooks)
    saved = trainer.checkpoints.latest()
    if saved is not None:
        trainer.load_state_dict(saved.contents)
    if prepare is not None:
        prepare(trainer)
    if not trainer.finished:
        trainer.train()
    return trainer
