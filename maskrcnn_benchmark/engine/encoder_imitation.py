"""Encoders learn to give what the encoders of another model give.

A model whose image and text encoders are new, but whose pyramid and text features have the widths of
a trained one's, starts from there: it regresses the other's features on pictures and captions
(feature distillation; Romero et al., FitNets, ICLR 2015). Every position of every map is a
target, which teaches far more per picture than boxes or words do. FIBER's small model starts so.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskrcnn_benchmark.data.collate import Batch
from maskrcnn_benchmark.errors import ConfigError
from maskrcnn_benchmark.modeling.detector import FusedVLRCNN, GeneralizedVLRCNN
from maskrcnn_benchmark.utils.checkpoint import CheckpointFolder
from maskrcnn_benchmark.utils.random_state import capture_random_state, restore_random_state

from .batches import captions_of

logger = logging.getLogger(__name__)

# Weight of the text beside the image: its squared distances are between unit vectors.
TEXT_WEIGHT = 4.0
LOG_PERIOD = 20


@dataclass(frozen=True)
class ImitationPlan:
    """Settings of the stage.

    Attributes:
        iterations: number of steps.
        learning_rate: of AdamW at its height; it warms up and falls to zero along a cosine.
        warm_up: steps.
        save_every: steps between checkpoints to continue from.
    """

    iterations: int = 500
    learning_rate: float = 1e-3
    warm_up: int = 30
    save_every: int = 100

    def __post_init__(self) -> None:
        if self.iterations < 1 or self.save_every < 1:
            raise ConfigError("the stage needs an iteration, and one between two checkpoints")

    def rate(self, iteration: int) -> float:
        """Learning rate of step ``iteration`` (1 is the first)."""
        cosine = 0.5 * (1 + math.cos(math.pi * iteration / self.iterations))
        return self.learning_rate * min(1.0, iteration / self.warm_up) * cosine


def image_distance(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """Mean squared difference of pyramids in units of the teacher's variance, mean over the levels.

    Args:
        student, teacher: maps ``[B, C, H_l, W_l]``, of the same shapes.
    """
    parts = [F.mse_loss(ours, theirs) / theirs.var() for ours, theirs in zip(student, teacher)]
    return torch.stack(parts).mean()


def text_distance(student: Tensor, teacher: Tensor, masks: Tensor) -> Tensor:
    """Mean squared distance of the directions of tokens.

    Args:
        student, teacher: ``[B, T, C]``.
        masks: ``[B, T]``, non-zero where a token stands.
    """
    difference = F.normalize(student, dim=-1) - F.normalize(teacher, dim=-1)
    squared = difference.square().sum(-1) * masks
    return squared.sum() / masks.sum()


class EncoderImitation:
    """The stage: both models, the steps, checkpoints.

    Weights of the student's text encoder and of its head's text projection start as those of the
    teacher that have the same name and shape.

    Args:
        student: what learns.
        teacher: what it learns from; it is put into evaluation mode.
        plan: settings.

    Raises:
        ConfigError: if the two do not read the same tokens.
    """

    def __init__(
        self, student: GeneralizedVLRCNN, teacher: GeneralizedVLRCNN, plan: ImitationPlan
    ) -> None:
        _require_equal("tokens", *(model.tokenizer.get_vocab() for model in (student, teacher)))
        self.student, self.plan = student, plan
        self.teacher = teacher.eval().requires_grad_(False)
        copied = _copy_text_encoder(student, teacher)
        logger.info("%d tensors of the text encoder start as the teacher's", copied)
        self.parameters = [p for p in encoders_of(student).parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.parameters, weight_decay=0.01)
        self.iteration = 0
        self._random_state: dict[str, Any] | None = None

    def resume(self, folder: CheckpointFolder) -> None:
        """Continue from the newest checkpoint of the folder, if it has one."""
        saved = folder.latest()
        if saved is None:
            return
        self.student.load_state_dict(saved.contents["model"])
        self.optimizer.load_state_dict(saved.contents["optimizer"])
        self.iteration = saved.contents["iteration"]
        self._random_state = saved.contents["random_state"]
        logger.info("continuing after iteration %d", self.iteration)

    def run(self, batches: Iterable[Batch], folder: CheckpointFolder) -> None:
        """Train to the end.

        Args:
            batches: of training, from the one after ``self.iteration`` on.
            folder: for checkpoints.
        """
        self.student.train()
        iterator = iter(batches)
        if self._random_state is not None:  # the iterator has drawn a number of its own
            restore_random_state(self._random_state)
        start, records = time.perf_counter(), []
        for batch in iterator:
            if self.iteration >= self.plan.iterations:
                break
            self.iteration += 1
            records.append(self.step(batch))
            last = self.iteration == self.plan.iterations
            if self.iteration % LOG_PERIOD == 0 or last:
                image, text = (sum(column) / len(records) for column in zip(*records))
                logger.info(
                    "iteration %d/%d  image %.3f  text %.4f  %.2f s per step",
                    *(self.iteration, self.plan.iterations, image, text),
                    (time.perf_counter() - start) / len(records),
                )
                start, records = time.perf_counter(), []
            if self.iteration % self.plan.save_every == 0 or last:
                contents = {
                    "model": self.student.state_dict(),
                    "optimizer": self.optimizer.state_dict(),
                    "iteration": self.iteration,
                    "random_state": capture_random_state(),
                }
                folder.save(f"model_{self.iteration:07d}", contents)

    def step(self, batch: Batch) -> tuple[float, float]:
        """One step; returns the distances of image and text.

        Raises:
            ConfigError: if pyramids or text features of the two have other shapes.
        """
        captions = captions_of(batch.targets)
        with torch.no_grad():
            theirs = self.teacher.fuse(
                self.teacher.encode_images(batch.images), self.teacher.encode_text(captions)
            )
        ours = self.student.fuse(
            self.student.encode_images(batch.images), self.student.encode_text(captions)
        )
        _require_equal(
            "shapes of pyramid maps", *([m.shape[1:] for m in f[0]] for f in (ours, theirs))
        )
        _require_equal("widths of text features", *(f[1].hidden.shape[-1] for f in (ours, theirs)))
        image = image_distance(ours[0], theirs[0])
        text = text_distance(ours[1].hidden, theirs[1].hidden, theirs[1].masks)
        for group in self.optimizer.param_groups:
            group["lr"] = self.plan.rate(self.iteration)
        self.optimizer.zero_grad()
        (image + TEXT_WEIGHT * text).backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        return image.item(), text.item()


def encoders_of(model: GeneralizedVLRCNN) -> nn.ModuleList:
    """What makes pyramid and text features."""
    if isinstance(model, FusedVLRCNN):
        return nn.ModuleList([model.fusion_backbone])
    return nn.ModuleList([model.backbone, model.language_backbone])


def _copy_text_encoder(student: GeneralizedVLRCNN, teacher: GeneralizedVLRCNN) -> int:
    ours, theirs = _text_weights(student), _text_weights(teacher)
    fitting = [n for n, value in theirs.items() if n in ours and ours[n].shape == value.shape]
    for name in fitting:
        ours[name].copy_(theirs[name])
    return len(fitting)


def _text_weights(model: GeneralizedVLRCNN) -> dict[str, Tensor]:
    head = model.rpn.head.state_dict()
    projection = {n: v for n, v in head.items() if n.startswith("dot_product_projection_text")}
    return {**model.language_backbone.state_dict(), **projection}


def _require_equal(what: str, ours: object, theirs: object) -> None:
    if ours != theirs:
        raise ConfigError(
            f"{what} of the model and of its teacher differ; a teacher needs the same tokenizer, pyramid "
            "and text width (MODEL.BACKBONE.OUT_CHANNELS, MODEL.LANGUAGE_BACKBONE)"
        )
