"""Where a fine-tuning run begins: its weights, a force that holds it near them, its few images."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset

from maskrcnn_benchmark.config import CfgNode
from maskrcnn_benchmark.data.datasets.json_dataset import JsonDataset
from maskrcnn_benchmark.errors import ConfigError
from maskrcnn_benchmark.utils import comm
from maskrcnn_benchmark.utils.checkpoint import load_weights, resolve_weight
from maskrcnn_benchmark.utils.checkpoint_files import (
    CheckpointError,
    read_checkpoint,
    write_atomically,
)
from maskrcnn_benchmark.utils.model_serialization import find_weights

logger = logging.getLogger(__name__)

_OF_DETECTORS = ("rpn.head.", "bbox_head.head.")


def load_start_weights(model: nn.Module, weight: str, *, trust: bool = False) -> Path | None:
    """Fill the model with MODEL.WEIGHT; a whole detector in the file must be this very detector.

    A file that holds a part only (an ImageNet backbone, say) may leave the rest as initialised.

    Returns:
        the file; None where no weight is configured.
    Raises:
        FileNotFoundError, CheckpointError: no such file, or one of another architecture.
    """
    if not weight:
        return None
    path = resolve_weight(weight)
    try:
        names = find_weights(read_checkpoint(path, trust=trust))
    except ValueError as error:
        raise CheckpointError(f"{path} is not a checkpoint of a model: {error}") from error
    whole = any(part in name for name in names for part in _OF_DETECTORS)
    load_weights(model, path, partial=not whole, trust=trust)
    return path


class PullToStart:
    """Decoupled L2 pull towards the starting weights, after every update of the optimizer.

    ``w <- w - lr * strength * (w - w_start)`` for every trainable parameter, with the learning rate
    of its group: weight decay whose origin is the start instead of zero (L2-SP, Li et al., ICML
    2018, in the decoupled form of AdamW). What fine-tuning does not need to change stays.

    Args:
        optimizer: its parameters hold the starting weights now.
        strength: 0 pulls not at all; from ``1 / lr`` on nothing can move.
    Raises:
        ConfigError: a strength below 0.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, strength: float) -> None:
        if strength < 0:
            raise ConfigError(f"SOLVER.PULL_TO_START is {strength}; it must not be below 0")
        self.strength = strength
        self._start = {
            parameter: parameter.detach().clone()
            for group in optimizer.param_groups
            for parameter in group["params"]
        }
        optimizer.register_step_post_hook(self._pull)

    @torch.no_grad()
    def _pull(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        for group in optimizer.param_groups:
            parameters = group["params"]
            starts = [self._start[parameter] for parameter in parameters]
            torch._foreach_lerp_(parameters, starts, min(1.0, group["lr"] * self.strength))


def build_pull_to_start(cfg: CfgNode, optimizer: torch.optim.Optimizer) -> PullToStart | None:
    """Pull of strength SOLVER.PULL_TO_START; None when that is 0."""
    if cfg.SOLVER.PULL_TO_START == 0:
        return None
    return PullToStart(optimizer, cfg.SOLVER.PULL_TO_START)


def describe_few_shot(dataset: Dataset, config: CfgNode) -> dict[str, Any] | None:
    """The images that few-shot selection has chosen; None where all data are used.

    Args:
        dataset: of the training loader, possibly copied or joined.
    """
    if config.DATASETS.FEW_SHOT <= 0:
        return None
    sets = []
    for part in getattr(dataset, "datasets", [dataset]):
        single = getattr(part, "dataset", part)
        if isinstance(single, JsonDataset):
            sets.append(_describe_choice(single))
    return {
        "shots": config.DATASETS.FEW_SHOT,
        "seed": config.DATASETS.SHUFFLE_SEED,
        "sets": sets,
    }


def _describe_choice(dataset: JsonDataset) -> dict[str, Any]:
    file = dataset.annotation_file
    counts: dict[int, int] = {}
    for row in dataset.rows:
        for category in file.category_ids_of(row):
            counts[category] = counts.get(category, 0) + 1
    names = dataset.categories()
    ids = dataset.category_table.label_to_json
    return {
        "name": dataset.name,
        "ann_file": dataset.ann_file,
        "image_ids": dataset.ids,
        "file_names": [file.entry(row)["file_name"] for row in dataset.rows],
        "images_of_class": {name: counts.get(ids[label], 0) for label, name in names.items()},
    }


def log_few_shot(dataset: Dataset, config: CfgNode, path: Path) -> None:
    """Write the chosen images to a file, and say how many of each class there are."""
    choice = describe_few_shot(dataset, config)
    if choice is None or not comm.is_main_process():
        return
    write_json(path, choice)
    for part in choice["sets"]:
        logger.info(
            "%s: %d image(s) for %d shot(s), seed %d: %s (%s)",
            part["name"],
            len(part["image_ids"]),
            choice["shots"],
            choice["seed"],
            part["image_ids"][:20],
            path,
        )
        for name, count in part["images_of_class"].items():
            if count < choice["shots"]:
                logger.warning(
                    "%s: only %d image(s) of %r for %d shot(s)",
                    part["name"],
                    count,
                    name,
                    choice["shots"],
                )


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file whole or not at all."""
    text = json.dumps(content, indent=1, default=str)
    write_atomically(path, lambda file: file.write(text.encode()))
