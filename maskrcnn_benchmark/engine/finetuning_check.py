"""Dry run of fine-tuning: look at the data as the model sees them, and overfit one batch."""

import logging
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from maskrcnn_benchmark.config import CfgNode
from maskrcnn_benchmark.data.transforms.build import build_normalize
from maskrcnn_benchmark.data.transforms.transforms import Normalize
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.utils import comm
from maskrcnn_benchmark.utils.visualisation import draw_detections, enlarge_small, label_colour

from .finetuning import FinetuningRun, describe_tuning
from .finetuning_data import derive_class_count, inspect_run, require_usable
from .finetuning_prompt import describe_prompt
from .finetuning_run import FEW_SHOT_FILE, PARAMETERS_FILE, log_trainable
from .finetuning_start import load_start_weights, log_few_shot
from .main_process import on_main_process
from .trainer import build_trainer
from .training_loop import Trainer

logger = logging.getLogger(__name__)

PICTURES = 6
STEPS = 20
# Masks and dropout make single losses noisy: begin and end are means of this many.
_AVERAGED = 3


@dataclass(frozen=True)
class Check:
    """What a dry run found.

    Attributes:
        losses: total loss on the same batch, step by step.
        folder: where the drawn pictures are.
        prompt: caption and token map in words.
        notes: what is odd about the data.
    """

    losses: list[float]
    folder: Path
    prompt: str
    notes: list[str]

    @property
    def learns(self) -> bool:
        """True if the loss has fallen."""
        first, last = _mean(self.losses[:_AVERAGED]), _mean(self.losses[-_AVERAGED:])
        return last < first

    @property
    def text(self) -> str:
        """All of it for the screen."""
        notes = "\n".join(f"note: {note}" for note in self.notes)
        curve = " ".join(f"{loss:.3f}" for loss in self.losses)
        verdict = (
            "the loss falls: learning works"
            if self.learns
            else "THE LOSS DOES NOT FALL: check the boxes in the pictures, and SOLVER.BASE_LR"
        )
        parts = [
            self.prompt,
            notes,
            f"training pictures with their boxes and phrases: {self.folder}",
            f"loss on one batch, {len(self.losses)} steps: {curve}",
            verdict,
        ]
        return "\n".join(part for part in parts if part)


def check_run(
    run: FinetuningRun, opts: list[str], *, steps: int = STEPS, trust: bool = False
) -> Check:
    """Validate data, weights and settings of a run, draw, and train on one batch.

    Everything goes to ``<folder>/check``; the run itself is neither begun nor changed.

    Args:
        opts: KEY VALUE pairs of the command line.
        steps: updates on the batch.
    Raises:
        ConfigError, CheckpointError, AnnotationError, FileNotFoundError: what a run would raise.
    """
    reports = inspect_run(run.config)
    on_main_process(lambda: require_usable(reports))
    config = run.config.clone()
    config.defrost()
    derive_class_count(config, reports, opts)
    folder = run.folder / "check"
    config.OUTPUT_DIR = str(folder)
    config.DATALOADER.NUM_WORKERS = 0
    # The full rate from the first step on; one batch needs no validation.
    config.SOLVER.WARMUP_ITERS = 0
    config.SOLVER.USE_AUTOSTEP = config.TEST.DURING_TRAINING = False
    config.SOLVER.AUTO_TERMINATE_PATIENCE = -1
    config.freeze()
    prompt = describe_prompt(config, reports)
    logger.info("%s\n%s", prompt, describe_tuning(config))
    trainer = build_trainer(config)
    load_start_weights(trainer.model, config.MODEL.WEIGHT, trust=trust)
    log_trainable(trainer.model, folder / PARAMETERS_FILE)
    log_few_shot(trainer.loader.dataset, config, folder / FEW_SHOT_FILE)
    if comm.is_main_process():
        draw_training_pictures(trainer, config, folder)
    losses = overfit_one_batch(trainer, steps)
    notes = [f"{report.name}: {note}" for report in reports for note in report.notes]
    return Check(losses, folder, prompt, notes)


def overfit_one_batch(trainer: Trainer, steps: int) -> list[float]:
    """Total loss of the same batch at every step."""
    trainer.step.model.train()
    batch = next(iter(trainer.loader))
    losses = []
    for _ in range(steps):
        result = trainer.step([batch], [1.0])
        total = torch.stack(list(result.losses.values())).sum()
        losses.append(float(comm.all_reduce_mean(total.detach().clone())))
    return losses


def draw_training_pictures(
    trainer: Trainer, config: CfgNode, folder: Path, count: int = PICTURES
) -> list[Path]:
    """Draw what the loader hands to the model: resized and mirrored, boxes named by their tokens."""
    folder.mkdir(parents=True, exist_ok=True)
    dataset = trainer.loader.dataset
    normalize = build_normalize(config)
    paths = []
    labels: dict[str, int] = {}  # a phrase has one colour in all pictures
    for number in range(min(count, len(dataset))):
        image, target, _ = dataset[number]
        picture = pixels_to_picture(image, normalize)
        phrases = phrases_of_boxes(target, trainer.model.tokenizer)
        picture, boxes = enlarge_small(picture, target.convert("xyxy").bbox.tolist())
        colours = [label_colour(labels.setdefault(name, len(labels) + 1)) for name in phrases]
        paths.append(folder / f"training_{number}.jpg")
        draw_detections(picture, boxes, phrases, colours).save(paths[-1], quality=90)
    return paths


def pixels_to_picture(image: torch.Tensor, normalize: Normalize) -> Image.Image:
    """Undo the normalisation of a ``[3, H, W]`` image."""
    pixels = image * normalize.std + normalize.mean
    if "255" not in normalize.pixel_format:
        pixels = pixels * 255
    if "bgr" in normalize.pixel_format:
        pixels = pixels.flip(0)
    pixels = pixels.round().clamp(0, 255).to(torch.uint8)
    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())


def phrases_of_boxes(target: BoxList, tokenizer) -> list[str]:
    """The words that the token map gives to each box; "?" where it gives none."""
    if not target.has_field("positive_map"):
        return [str(label) for label in target.get_field("labels").tolist()]
    ids = tokenizer(target.get_field("caption"))["input_ids"]
    phrases = []
    for row in target.get_field("positive_map"):
        chosen = [ids[position] for position in row.nonzero().flatten().tolist()]
        phrases.append(tokenizer.decode(chosen).strip() or "?")
    return phrases


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else float("nan")
