"""The first update of a real but small model, for tests that compare ways to compute it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from maskrcnn_benchmark.engine.hooks import Hook
from maskrcnn_benchmark.engine.trainer import build_trainer
from maskrcnn_benchmark.engine.training_loop import Trainer
from maskrcnn_benchmark.utils.sharding import whole
from tests.engine.small_world import read_config, write_config, write_detection_set

# Nothing random, and images of one size, so that no way pads more than another.
EVEN = (
    *("MODEL.SWINT.DROP_PATH_RATE", 0.0, "MODEL.FPN.DROP_BLOCK", False),
    *("SOLVER.MAX_ITER", 1, "SOLVER.CHECKPOINT_PERIOD", 10, "TEST.DURING_TRAINING", False),
    *("SOLVER.CLIP_GRADIENTS.ENABLED", False),
    *("AUGMENT.MULT_MIN_SIZE_TRAIN", (64,), "INPUT.MAX_SIZE_TRAIN", 64),
)


@dataclass
class Update:
    """What one or more updates did, on the CPU.

    Attributes:
        losses: mean over processes of every term, by iteration.
        gradients: of the last update, by name.
        weights: after it, by name.
    """

    losses: list[dict[str, float]]
    gradients: dict[str, torch.Tensor]
    weights: dict[str, torch.Tensor]


class _Watch(Hook):
    def __init__(self) -> None:
        self.losses: list[dict[str, float]] = []
        self.gradients: dict[str, torch.Tensor] = {}

    def after_iteration(self, trainer, losses) -> None:
        self.losses += [values for _, values in losses]
        self.gradients = {
            name: whole(parameter.grad).clone()
            for name, parameter in trainer.model.named_parameters()
            if parameter.grad is not None
        }


def write_even_world(folder: Path, count: int = 8, **settings: Any) -> Path:
    """A detection set and a configuration under which every way must compute the same."""
    write_detection_set(folder, count)
    return write_config(
        folder,
        DATALOADER__SIZE_DIVISIBILITY=64,
        DATALOADER__ASPECT_RATIO_GROUPING=False,
        **settings,
    )


def without_dropout(trainer: Trainer) -> Trainer:
    """Switch off what draws numbers, which processes would draw differently."""
    for module in trainer.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        elif isinstance(getattr(module, "dropout", None), float):
            module.dropout = 0.0
        elif hasattr(module, "dropout_prob"):  # attention of transformers before version 5
            module.dropout_prob = 0.0
    return trainer


def first_updates(config_file: str, output: str, *opts: Any) -> Update:
    """Train from the beginning with everything random switched off."""
    torch.set_num_threads(1)
    config = read_config(Path(config_file), "OUTPUT_DIR", output, *EVEN, *opts)
    trainer = without_dropout(build_trainer(config))
    watch = _Watch()
    trainer.hooks = [watch]
    trainer.train()
    weights = {name: whole(value).clone() for name, value in trainer.model.state_dict().items()}
    return Update(watch.losses, watch.gradients, weights)


def assert_same_gradients(found: Update, expected: Update, tolerance: float = 1e-5) -> None:
    """Every gradient is equal up to a share of its norm (or of 1 % of all gradients together)."""
    assert found.gradients.keys() == expected.gradients.keys()
    flat = [value.flatten() for value in expected.gradients.values()]
    total = torch.linalg.vector_norm(torch.cat(flat))
    for name, gradient in expected.gradients.items():
        difference = torch.linalg.vector_norm(gradient - found.gradients[name])
        assert difference <= tolerance * max(gradient.norm(), 0.01 * total), name
