"""First stage of the shapes world: encoders learn what words look like, from close-ups of single objects.

The published GLIP starts from a Swin that knows ImageNet and a BERT that has read a library. The
shapes world has neither, and a head that learns boxes from random features overwrites them before the
words have found what they mean. Here backbone, pyramid, text encoder and the projection of the
dot product learn region-word alignment alone, as a classification: which of the tokens of a caption
stands for this object?
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from maskrcnn_benchmark.data.shapes import ObjectKind, all_kinds
from maskrcnn_benchmark.data.shapes.crops import (
    ATTRIBUTES,
    Crops,
    attribute_of,
    draw_crops,
    name_holds,
    names_for,
    to_grey,
)
from maskrcnn_benchmark.grounding.prompts import join_names
from maskrcnn_benchmark.grounding.token_maps import create_positive_map
from maskrcnn_benchmark.modeling.detector.generalized_vl_rcnn import GeneralizedVLRCNN
from maskrcnn_benchmark.utils.checkpoint import CheckpointFolder

logger = logging.getLogger(__name__)

# Objects that share a caption, and the number of its names.
GROUP = 12
# Share of batches in grey among those whose captions name no colour: nothing about a shape can then
# be guessed from the colours it is seen with.
GREY_SHARE = 0.25
# Batches that ask for one attribute only, with all its words in the caption, come first: what is
# learned last of a mixture, texture, takes a hundred of them. A third of the stage consists of
# nothing else, of the rest this share.
DRILL_SHARE = 0.3
DRILLS = {"shape": 0.4, "colour": 0.15, "texture": 0.3, "size": 0.15}
# Objects of the shapes world belong to the three finest levels of the pyramid.
LEVELS = 3
# A model that fuses in the backbone holds both encoders in one module.
_LEARNED = (
    "backbone.",
    "language_backbone.",
    "fusion_backbone.",
    "rpn.head.dot_product_projection_text.",
)
_TEXT = ("language_backbone.", "fusion_backbone.language_backbone.")


@dataclass(frozen=True)
class AlignmentPlan:
    """Settings of the stage.

    Attributes:
        iterations: number of steps.
        batch_size: objects per step, a multiple of 12.
        learning_rate, text_learning_rate: of AdamW at their height, for the image side and for the
            text encoder; both warm up over 50 steps and fall to zero along a cosine.
        pool: number of close-ups drawn at the start.
        seed: decides the close-ups and the batches.
        save_every: steps between checkpoints to continue from.
    """

    iterations: int = 1500
    batch_size: int = 48
    learning_rate: float = 1e-3
    text_learning_rate: float = 3e-4
    pool: int = 16000
    seed: int = 0
    save_every: int = 250

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.batch_size % GROUP:
            raise ValueError(f"batch size {self.batch_size} is not a multiple of {GROUP}")
        if self.iterations < 1 or self.pool < self.batch_size:
            raise ValueError("the stage needs an iteration, and a pool larger than a batch")

    def rate(self, iteration: int) -> float:
        """Factor of the learning rates in step ``iteration`` (1 is the first)."""
        cosine = 0.5 * (1 + math.cos(math.pi * iteration / self.iterations))
        return min(1.0, iteration / 50) * cosine


def alignment_logits(
    model: GeneralizedVLRCNN, images: Tensor, boxes: Tensor, captions: Sequence[str]
) -> Tensor:
    """Similarity of the object in each image to the tokens of its caption, before any tower.

    Args:
        images: ``[B, 3, H, W]`` normalised.
        boxes: ``[B, 4]`` xyxy in pixels; features are read at their centres.
        captions: ``B`` sentences.

    Returns:
        ``[B, LEVELS, T]``, one row for each of the finest pyramid levels.
    """
    features, text = model.fuse(model.encode_images(images), model.encode_distinct(captions))
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2 / images.shape[-1]
    rows = torch.arange(len(images), device=images.device)
    at_centre = []
    for level in features[:LEVELS]:
        column, row = (centres * level.shape[-1]).long().clamp(max=level.shape[-1] - 1).unbind(1)
        at_centre.append(level[rows, :, row, column])
    pixels = torch.stack(at_centre, dim=2)[..., None]  # a map of LEVELS x 1 pixels
    (logits,) = model.rpn.head.token_similarity([pixels], F.normalize(text.hidden, dim=-1))
    return logits


def alignment_loss(logits: Tensor, positive: Tensor, word: Tensor) -> Tensor:
    """Cross-entropy over the words of a caption, the target even over the tokens that are true.

    Args:
        logits: ``[B, LEVELS, T]``.
        positive: bool ``[B, T]``, tokens of names that hold for the object; some in every row.
        word: bool ``[B, T]``, tokens of any name.
    """
    target = positive / positive.sum(dim=1, keepdim=True)
    likelihood = logits.masked_fill(~word[:, None], float("-inf")).log_softmax(-1)
    return -torch.where(positive[:, None], target[:, None] * likelihood, 0.0).sum(-1).mean()


class WordAlignment:
    """The stage: pool of close-ups, steps, checkpoints, accuracy.

    Every batch is decided by the seed and its number, so a run that was interrupted continues as if
    it had not been.

    Args:
        model: backbone, text encoder and head, whose tower is left alone.
        plan: settings.
        mean, std: of the pixels in the order of the model's channels.
        bgr: whether these are blue, green, red.
    """

    def __init__(
        self,
        model: GeneralizedVLRCNN,
        plan: AlignmentPlan,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        bgr: bool = True,
    ) -> None:
        self.model = model
        self.plan = plan
        self.mean, self.std = (torch.tensor(v)[:, None, None] for v in (mean, std))
        self.bgr = bgr
        rng = np.random.default_rng([plan.seed, 0])
        self.pool = draw_crops(rng, all_kinds(held_out=False), plan.pool)
        learned = {n: p for n, p in model.named_parameters() if n.startswith(_LEARNED)}
        text = [p for n, p in learned.items() if n.startswith(_TEXT)]
        image = [p for n, p in learned.items() if not n.startswith(_TEXT)]
        self.parameters = [*image, *text]
        self.optimizer = torch.optim.AdamW(
            [
                {"params": image, "height": plan.learning_rate},
                {"params": text, "height": plan.text_learning_rate},
            ],
            weight_decay=0.01,
            betas=(0.9, 0.999),
        )

    def run(self, folder: CheckpointFolder) -> None:
        """Train to the end, from the newest checkpoint of the folder if it has one."""
        first = 1
        saved = folder.latest()
        if saved is not None:
            self.model.load_state_dict(saved.contents["model"])
            self.optimizer.load_state_dict(saved.contents["optimizer"])
            first = saved.contents["iteration"] + 1
            logger.info("continuing after iteration %d", first - 1)
        start, losses, correct = time.perf_counter(), [], []
        for iteration in range(first, self.plan.iterations + 1):
            loss, share = self.step(iteration)
            losses.append(loss)
            correct.append(share)
            if iteration % 50 == 0 or iteration == self.plan.iterations:
                seconds = (time.perf_counter() - start) / len(losses)
                logger.info(
                    "iteration %d/%d  loss %.3f  right %.1f %%  %.2f s per step",
                    iteration,
                    self.plan.iterations,
                    np.mean(losses),
                    100 * np.mean(correct),
                    seconds,
                )
                start, losses, correct = time.perf_counter(), [], []
            if iteration % self.plan.save_every == 0 or iteration == self.plan.iterations:
                folder.save(
                    f"model_{iteration:07d}",
                    {
                        "model": self.model.state_dict(),
                        "optimizer": self.optimizer.state_dict(),
                        "iteration": iteration,
                    },
                )

    def step(self, iteration: int) -> tuple[float, float]:
        """One step; returns the loss and the share of objects whose best token is a true one."""
        rng = np.random.default_rng([self.plan.seed, 1, iteration])
        self.model.train()
        for group in self.optimizer.param_groups:
            group["lr"] = group["height"] * self.plan.rate(iteration)
        drill = None
        if iteration <= self.plan.iterations // 3 or rng.random() < DRILL_SHARE:
            drill = str(rng.choice(list(DRILLS), p=list(DRILLS.values())))
        grey = drill != "colour" and bool(rng.random() < GREY_SHARE * (2 if drill else 1))
        chosen = rng.integers(len(self.pool), size=self.plan.batch_size)
        captions, spans = [], []
        for start in range(0, len(chosen), GROUP):
            objects = [(self.pool.kinds[i], self.pool.sizes[i]) for i in chosen[start:][:GROUP]]
            if drill:
                names = [str(name) for name in rng.permutation(ATTRIBUTES[drill])]
            else:
                names = names_for(rng, objects, GROUP, colour=not grey)
            wording = join_names(names, ". ")
            captions += [wording.caption] * len(objects)
            spans += [
                [span for n, span in zip(names, wording.spans) if name_holds(n, *item)]
                for item in objects
            ]
        logits, positive, word = self._logits(self.pool, chosen, captions, spans, grey=grey)
        loss = alignment_loss(logits, positive, word)
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        best = logits.detach().sum(1).masked_fill(~word, float("-inf")).argmax(1, keepdim=True)
        return loss.item(), positive.gather(1, best).float().mean().item()

    def _logits(
        self,
        crops: Crops,
        chosen: np.ndarray,
        captions: Sequence[str],
        spans: Sequence[Sequence[tuple[int, int]]],
        *,
        grey: bool = False,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Logits of some crops, their true tokens, and the tokens that belong to any name."""
        pixels = crops.pixels[chosen]
        pixels = to_grey(pixels) if grey else pixels
        pixels = pixels[..., ::-1] if self.bgr else pixels
        images = torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2).float()
        images = (images - self.mean) / self.std
        boxes = torch.from_numpy(crops.boxes[chosen])
        logits = alignment_logits(self.model, images, boxes, captions)
        slots = logits.shape[-1]
        positive = torch.empty(len(captions), slots, dtype=torch.bool)
        word = torch.empty(len(captions), slots, dtype=torch.bool)
        read = {}
        for caption in dict.fromkeys(captions):  # a group shares one
            encoding = self.model.tokenizer(caption)
            names = [(begin, begin + len(name)) for begin, name in _names_in(caption)]
            read[caption] = encoding, _tokens_of(encoding, names, slots)
        for index, (caption, true_spans) in enumerate(zip(captions, spans)):
            encoding, words = read[caption]
            positive[index] = _tokens_of(encoding, true_spans, slots)
            word[index] = words
        return logits, positive, word

    @torch.no_grad()
    def accuracy(self, *, held_out: bool, number: int = 480) -> dict[str, float]:
        """Share of new objects whose best name is right, in percent, by what is asked.

        An attribute: among all its words; ``name``: among 12 whole names.

        Args:
            held_out: objects of kinds that were never trained on.
            number: of objects, a multiple of 12.
        """
        self.model.eval()
        rng = np.random.default_rng([self.plan.seed, 2, int(held_out)])
        kinds = all_kinds(held_out=held_out)
        crops = draw_crops(rng, kinds, number)
        results = {}
        for question in (*ATTRIBUTES, "name"):
            right = 0
            for start in range(0, number, GROUP):
                chosen = np.arange(start, start + GROUP)
                if question == "name":
                    truth = [crops.kinds[i].name for i in chosen]
                    offered = _names_around(rng, kinds, truth)
                else:
                    truth = [attribute_of(question, crops.kinds[i], crops.sizes[i]) for i in chosen]
                    offered = list(ATTRIBUTES[question])
                wording = join_names(offered, ". ")
                logits, _, _ = self._logits(
                    crops, chosen, [wording.caption] * GROUP, [wording.spans] * GROUP
                )
                encoding = self.model.tokenizer(wording.caption)
                tokens = [
                    _tokens_of(encoding, [span], logits.shape[-1]).nonzero()[:, 0]
                    for span in wording.spans
                ]
                scores = torch.stack([logits[..., t].sigmoid().mean((1, 2)) for t in tokens], 1)
                right += sum(offered[i] == t for i, t in zip(scores.argmax(1).tolist(), truth))
            results[question] = round(100 * right / number, 1)
        return results


def learned_weights(model: nn.Module) -> dict[str, Tensor]:
    """What the stage taught, by the names of the model's state: all but the rest of the head."""
    return {n: t for n, t in model.state_dict().items() if n.startswith(_LEARNED)}


def output_path(folder: Path) -> Path:
    """Where the stage leaves its weights."""
    return folder / "encoders.safetensors"


def _tokens_of(encoding, spans: Sequence[tuple[int, int]], slots: int) -> Tensor:
    return create_positive_map(encoding, [list(spans)], slots)[0] > 0


def _names_in(caption: str) -> list[tuple[int, str]]:
    """Position and text of every name of a caption that ``join_names`` wrote."""
    position, found = 0, []
    for name in caption.split(". "):
        found.append((position, name))
        position += len(name) + 2
    return found


def _names_around(
    rng: np.random.Generator, kinds: Sequence[ObjectKind], truth: Sequence[str]
) -> list[str]:
    names = list(dict.fromkeys(truth))
    while len(names) < GROUP:
        name = kinds[int(rng.integers(len(kinds)))].name
        if name not in names:
            names.append(name)
    return names
