"""What happens beside the learning: progress lines, TensorBoard, validation."""

import logging
import math
import resource
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch

from maskrcnn_benchmark.errors import ConfigError
from maskrcnn_benchmark.utils import comm
from maskrcnn_benchmark.utils.metric_logger import MetricLogger, ScalarWriter, SmoothedValue
from maskrcnn_benchmark.utils.random_state import preserved_random_state
from maskrcnn_benchmark.utils.sharding import whole_on_main_process

if TYPE_CHECKING:
    from .training_loop import Trainer

logger = logging.getLogger(__name__)

LossRows = list[tuple[int, dict[str, float]]]


class Hook:
    """Something that looks on while training runs. Its state travels in the checkpoint."""

    def before_train(self, trainer: "Trainer") -> None:
        """The loop is about to start or to continue."""

    def after_iteration(self, trainer: "Trainer", losses: LossRows) -> None:
        """An iteration is done.

        Args:
            losses: (iteration, values by name) of what was read since the last call; often empty.
        """

    def takes_long(self, trainer: "Trainer") -> bool:
        """True if ``after_iteration`` will do so much now that the state should be safe before."""
        return False

    def after_train(self, trainer: "Trainer") -> None:
        """The loop has ended, for whatever reason."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Progress(Hook):
    """Logs a line every ``period`` iterations and at the end; writes curves if there is a writer.

    Args:
        period: iterations between lines.
        make_writer: makes a TensorBoard writer, given the first iteration it will see.
    """

    def __init__(
        self, period: int = 20, make_writer: Callable[[int], ScalarWriter] | None = None
    ) -> None:
        self.period = period
        self.make_writer = make_writer
        self.writer: ScalarWriter | None = None
        self.meters = MetricLogger()
        self.data_time = SmoothedValue()
        self.iteration_time = SmoothedValue()
        self.start_time = 0.0
        self.start_iteration = 0

    def before_train(self, trainer: "Trainer") -> None:
        self.start_time = time.perf_counter()
        self.start_iteration = trainer.iteration
        if self.make_writer is not None and comm.is_main_process():
            self.writer = self.make_writer(trainer.iteration + 1)
        logger.info("training from iteration %d to %d", trainer.iteration, trainer.max_iter)

    def after_iteration(self, trainer: "Trainer", losses: LossRows) -> None:
        for iteration, values in losses:
            self.meters.update(values)
            self._write(iteration, values)
        self._write(trainer.iteration, trainer.scalars)
        trainer.scalars.clear()
        self.data_time.update(trainer.data_seconds)
        if trainer.iteration > self.start_iteration + 1:
            self.iteration_time.update(trainer.iteration_seconds)
        if trainer.iteration % self.period == 0 or trainer.iteration == trainer.max_iter:
            self._log(trainer)

    def _write(self, iteration: int, values: dict[str, float]) -> None:
        if self.writer is not None:
            for name, value in values.items():
                self.writer.add_scalar(name, value, iteration)

    def _log(self, trainer: "Trainer") -> None:
        group = trainer.step.optimizer.param_groups[0]
        done = max(1, trainer.iteration - self.start_iteration)
        elapsed = time.perf_counter() - self.start_time
        left = elapsed / done * (trainer.max_iter - trainer.iteration)
        seconds = {"time": self.iteration_time.average, "data": self.data_time.average}
        self._write(trainer.iteration, {**seconds, "lr": group["lr"]})
        logger.info(
            "eta: %s  iter: %d/%d  %s  time: %.3f  data: %.3f  lr: %.6f  wd: %.6f  max mem: %.0f",
            timedelta(seconds=int(left)),
            trainer.iteration,
            trainer.max_iter,
            self.meters,
            seconds["time"],
            seconds["data"],
            group["lr"],
            group["weight_decay"],
            peak_memory(trainer.step.device),
        )

    def after_train(self, trainer: "Trainer") -> None:
        done = trainer.iteration - self.start_iteration
        elapsed = time.perf_counter() - self.start_time
        logger.info(
            "training time: %s (%.4f s / iteration)",
            timedelta(seconds=int(elapsed)),
            elapsed / max(1, done),
        )
        if self.writer is not None:
            self.writer.close()
            self.writer = None


def peak_memory(device: torch.device) -> float:
    """Largest memory of this process so far in MiB: on the CUDA device, or resident on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


class Validation(Hook):
    """Evaluates every ``period`` iterations and at the end, keeps the best weights, may end the run.

    A result that is not worse than the best so far is the new best, and its weights become
    ``model_best.pth``.

    Args:
        evaluate: evaluates the model as it is; returns what an evaluator's ``summarize`` gives
            ("value" decides, "primary" is its name, "metrics" has all), equal on all processes.
            May raise :class:`.stop_request.EvaluationInterrupted` on all of them.
        period: iterations between evaluations.
        patience: end the run after this many results in a row below the best; None never does.
        use_ema: evaluate the averaged weights.
    """

    def __init__(
        self,
        evaluate: Callable[[], dict[str, Any]],
        *,
        period: int,
        patience: int | None = None,
        use_ema: bool = False,
    ) -> None:
        self.evaluate = evaluate
        self.period = period
        self.patience = patience
        self.use_ema = use_ema
        self.best: float | None = None
        self.below_best = 0

    def after_iteration(self, trainer: "Trainer", losses: LossRows) -> None:
        if not self.takes_long(trainer):
            return
        result = self._evaluate(trainer)
        value, name = result["value"], result["primary"]
        if math.isnan(value):
            raise ConfigError(
                "the validation set has no annotations to score: give DATASETS.TEST another set, "
                "or turn TEST.DURING_TRAINING off"
            )
        trainer.scalars.update({f"val/{k}": v for k, v in result["metrics"].items()})
        trainer.schedule.observe(value)
        if self.best is None or value >= self.best:
            self.best, self.below_best = value, 0
            self._save_best(trainer, result["metrics"])
        else:
            self.below_best += 1
        logger.info(
            "iteration %d: %s %.4f, best %.4f, %d result(s) below the best since",
            trainer.iteration,
            name,
            value,
            self.best,
            self.below_best,
        )
        if self.patience is not None and self.below_best >= self.patience:
            trainer.terminated = (
                f"auto termination at iteration {trainer.iteration}: {self.below_best} results in "
                f"a row below the best {name} of {self.best:.4f}"
            )
            logger.info(trainer.terminated)

    def takes_long(self, trainer: "Trainer") -> bool:
        return trainer.iteration % self.period == 0 or trainer.iteration == trainer.max_iter

    def _evaluate(self, trainer: "Trainer") -> dict[str, Any]:
        with preserved_random_state():
            if self.use_ema and trainer.ema is not None:
                with trainer.ema.applied_to(trainer.model):
                    return self.evaluate()
            return self.evaluate()

    def _save_best(self, trainer: "Trainer", metrics: dict[str, float]) -> None:
        contents = {
            "model": trainer.model.state_dict(),
            "iteration": trainer.iteration,
            "eval_result": metrics,
        }
        if trainer.ema is not None:
            contents["model_ema"] = trainer.ema.state_dict()
        trainer.checkpoints.save("model_best", whole_on_main_process(contents), resumable=False)

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "below_best": self.below_best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best = state.get("best")
        self.below_best = state.get("below_best", 0)
