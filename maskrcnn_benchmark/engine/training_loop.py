"""The training loop: a stateful whole that can be stopped anywhere and continued exactly."""

import logging
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from maskrcnn_benchmark.data.collate import Batch
from maskrcnn_benchmark.solver import (
    LRSchedule,
    ModelEMA,
    WeightDecaySchedule,
    load_optimizer_state,
    optimizer_state_by_name,
)
from maskrcnn_benchmark.utils import comm
from maskrcnn_benchmark.utils.checkpoint import CheckpointFolder
from maskrcnn_benchmark.utils.checkpoint_files import CheckpointError
from maskrcnn_benchmark.utils.model_serialization import find_weights, load_weights_into
from maskrcnn_benchmark.utils.random_state import (
    capture_random_state,
    restore_random_state,
    seed_all,
)
from maskrcnn_benchmark.utils.sharding import whole_on_main_process

from .batches import count_empty, name_images
from .hooks import Hook
from .loss_history import LossHistory, NonFiniteLossError
from .parallel import unwrapped
from .step import TrainingStep
from .stop_request import EvaluationInterrupted, StopRequest, ignore_stop_signals

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1


class Trainer:
    """Everything that a training run is made of, and the loop over its iterations.

    ``state_dict`` returns all that the rest of the run depends on. A run that is killed and
    continued from any of its checkpoints ends (on a CPU) with the same bits as an undisturbed one,
    provided that the loader's batches and the model depend on nothing else.

    Args:
        step: turns the batches of an iteration into an update.
        loader: its ``batch_sampler`` yields the batches of the whole run from number ``start`` on,
            always the same ones under the same number.
        max_iter: length of the run.
        schedule: learning rate, one step per iteration.
        history: where losses wait to be read, and the rule for bad ones.
        checkpoints: folder of the run.
        save_period: iterations between checkpoints.
        read_period: iterations between readings of the losses (1 on a CPU; each is a wait on CUDA).
        weight_decay_schedule, ema: optional.
        hooks: called after every iteration, in order.
        max_empty_share: largest share of images without boxes in a batch to learn from.
        seed: base seed of the run.
    """

    def __init__(
        self,
        *,
        step: TrainingStep,
        loader: DataLoader,
        max_iter: int,
        schedule: LRSchedule,
        history: LossHistory,
        checkpoints: CheckpointFolder,
        save_period: int,
        read_period: int = 1,
        weight_decay_schedule: WeightDecaySchedule | None = None,
        ema: ModelEMA | None = None,
        hooks: Sequence[Hook] = (),
        max_empty_share: float = 0.1,
        seed: int = 0,
    ) -> None:
        self.step = step
        self.loader = loader
        self.max_iter = max_iter
        self.schedule = schedule
        self.history = history
        self.checkpoints = checkpoints
        self.save_period = save_period
        self.read_period = read_period
        self.weight_decay_schedule = weight_decay_schedule
        self.ema = ema
        self.hooks = list(hooks)
        self.max_empty_share = max_empty_share
        self.seed = seed

        self.iteration = 0
        self.num_unusable = 0
        # What hooks want to have written beside the losses of this iteration.
        self.scalars: dict[str, float] = {}
        self.terminated: str | None = None
        self.hooks_pending = False
        # True once the state is that of model_final.pth.
        self.complete = False
        self.stop = StopRequest()
        self.data_seconds = self.iteration_seconds = 0.0
        self._random_state: dict[str, Any] | None = None

    @property
    def model(self) -> nn.Module:
        """The model itself, without the wrapper that exchanges gradients."""
        return unwrapped(self.step.model)

    @property
    def finished(self) -> bool:
        """True when there is nothing left to do: the last iteration is done and its state saved."""
        return self.complete and self._at_end

    @property
    def _at_end(self) -> bool:
        return self.iteration >= self.max_iter or self.terminated is not None

    def train(self) -> bool:
        """Run to the end, or until SIGTERM or SIGINT asks to stop; either way the state is saved.

        Returns:
            True at the end, False when a signal stopped the run.
        Raises:
            NonFiniteLossError: after saving the state.
        """
        self.complete = False  # a finished run may have been made longer
        with self.stop:
            for hook in self.hooks:
                hook.before_train(self)
            try:
                stopped = self._run()
            except NonFiniteLossError:
                self.save()
                raise
            finally:
                for hook in self.hooks:
                    hook.after_train(self)
            # Inside the block still: a second SIGTERM must not end the process while it saves.
            if stopped:
                self.save()
                logger.warning(
                    "stopped at iteration %d by a signal; start again to go on", self.iteration
                )
                return False
            self.complete = True
            self.save("model_final")
        return True

    def _run(self) -> bool:
        """The loop. Returns True if it was asked to stop."""
        try:
            if self.hooks_pending:
                self._run_hooks()
            for batches in self._iterations():
                weights = [self._weight(batch) for batch in batches]
                stop, usable = self._agree(any(weights))
                if stop:
                    return True
                if usable:
                    images = [name for batch in batches for name in name_images(batch)]
                    self.history.add(self.iteration + 1, images, self.step(batches, weights))
                self._count_iteration()
                self._run_hooks()
                if self.iteration % self.save_period == 0:
                    self.save()
                if self.terminated:
                    break
        except EvaluationInterrupted:
            return True
        return False

    def _iterations(self) -> Iterator[list[Batch]]:
        """Batches of each iteration to come; an empty list when a stop took the loader along."""
        self.step.model.train()
        accumulation = self.step.options.accumulation
        self.loader.batch_sampler.start = self.iteration * accumulation
        if self.loader.num_workers and self.loader.worker_init_fn is None:
            self.loader.worker_init_fn = ignore_stop_signals
        iterator = iter(self.loader)
        if self._random_state is not None:
            # Only now: making the iterator has drawn numbers, which an undisturbed run did earlier.
            restore_random_state(self._random_state)
            self._random_state = None
        previous_end = time.perf_counter()
        while not self._at_end:
            try:
                batches = list(islice(iterator, accumulation))
            except RuntimeError:
                if not self.stop:
                    raise
                batches = []
            if not batches and not self.stop:
                raise RuntimeError(
                    f"the loader has no batch for iteration {self.iteration + 1} of {self.max_iter}"
                )
            self.data_seconds = time.perf_counter() - previous_end
            yield batches
            self.iteration_seconds = time.perf_counter() - previous_end
            previous_end = time.perf_counter()

    def _agree(self, usable: bool) -> tuple[bool, bool]:
        """Whether any process must stop, and whether any can learn from what it has.

        A process whose own batches are of no use still runs them, with weight 0, as long as another
        can use its own: nobody is left waiting for gradients.
        """
        votes = torch.tensor([int(bool(self.stop)), int(usable)])
        stop, num_usable = comm.all_reduce_sum(votes).tolist()
        return stop > 0, num_usable > 0

    def _weight(self, batch: Batch) -> float:
        """1, or 0 for a batch with too many images without boxes, which is logged and counted."""
        empty, total = count_empty(batch.targets), len(batch.targets)
        if empty < total and empty <= total * self.max_empty_share:
            return 1.0
        self.num_unusable += 1
        logger.warning(
            "iteration %d: %d of %d images have no boxes, nothing is learnt from this batch "
            "(%d so far): %s",
            self.iteration + 1,
            empty,
            total,
            self.num_unusable,
            "; ".join(name_images(batch)),
        )
        return 0.0

    def _count_iteration(self) -> None:
        self.iteration += 1
        self.schedule.step()
        if self.weight_decay_schedule is not None:
            self.weight_decay_schedule.apply(self.iteration)
        if self.ema is not None:
            self.ema.update(self.model)

    def _run_hooks(self) -> None:
        already_saved = self.hooks_pending
        self.hooks_pending = True
        losses = []
        if self.iteration % self.read_period == 0 or self._at_end:
            losses = self.history.read()
        if not already_saved and any(hook.takes_long(self) for hook in self.hooks):
            self.save()  # a validation that fails or is killed costs no training
        for hook in self.hooks:
            hook.after_iteration(self, losses)
        self.step.model.train()  # a validation has put it into evaluation mode
        self.hooks_pending = False

    def restart_average(self) -> None:
        """Let the average of weights begin at the present ones, after these were loaded."""
        if self.ema is not None:
            self.ema = ModelEMA(self.model, self.ema.decay)

    def save(self, name: str | None = None) -> None:
        """Write a checkpoint to continue from; called by all processes together."""
        name = name or f"model_{self.iteration:07d}"
        self.checkpoints.save(name, whole_on_main_process(self.state_dict()))

    def state_dict(self) -> dict[str, Any]:
        """All that the rest of the run depends on; called by all processes together.

        What is shared out over the processes is so here too, see :func:`whole_on_main_process`.
        """
        state = {
            "format_version": FORMAT_VERSION,
            "model": self.model.state_dict(),
            "optimizer": optimizer_state_by_name(self.step.optimizer),
            "scheduler": self.schedule.state_dict(),
            "scaler": self.step.scaler.state_dict(),
            "iteration": self.iteration,
            "random_states": comm.all_gather(capture_random_state()),
            "trainer": {
                "terminated": self.terminated,
                "complete": self.complete,
                "hooks_pending": self.hooks_pending,
                "num_unusable": self.num_unusable,
                "history": self.history.state_dict(),
                "hooks": {type(hook).__name__: hook.state_dict() for hook in self.hooks},
            },
        }
        if self.ema is not None:
            state["model_ema"] = self.ema.state_dict()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue a run; also one of the original program, as far as its checkpoint tells.

        Raises:
            CheckpointError: the checkpoint is of another model or another kind of run.
        """
        report = load_weights_into(self.model, find_weights(state))
        if report.missing or report.reshaped:
            raise CheckpointError(
                "the checkpoint to continue from does not fit the configured model; use another "
                f"OUTPUT_DIR for another model.\n{report.table()}"
            )
        try:
            load_optimizer_state(self.step.optimizer, state["optimizer"])
            self.schedule.load_state_dict(state["scheduler"])
            self.iteration = state["iteration"]
            if self.ema is not None and "model_ema" in state:
                self.ema.load_state_dict(find_weights(state, "model_ema"))
            elif self.ema is not None:
                logger.warning("the checkpoint has no average of weights: it begins here")
                self.restart_average()
        except (KeyError, ValueError) as error:
            raise CheckpointError(f"cannot continue from the checkpoint: {error}") from error
        if self.weight_decay_schedule is not None:
            self.weight_decay_schedule.apply(self.iteration)
        if state.get("scaler") and self.step.scaler.is_enabled():
            self.step.scaler.load_state_dict(state["scaler"])
        self._load_own_state(state.get("trainer"))
        self._choose_random_state(state.get("random_states", []))

    def _load_own_state(self, own: dict[str, Any] | None) -> None:
        if own is None:
            return
        self.terminated = own["terminated"]
        self.complete = own.get("complete", False)  # older checkpoints do not tell
        self.hooks_pending = own["hooks_pending"]
        self.num_unusable = own["num_unusable"]
        self.history.load_state_dict(own["history"])
        for hook in self.hooks:
            hook.load_state_dict(own["hooks"].get(type(hook).__name__, {}))

    def _choose_random_state(self, states: list[dict[str, Any]]) -> None:
        if len(states) == comm.get_world_size():
            self._random_state = states[comm.get_rank()]
            return
        logger.warning(
            "continuing with %d process(es) what %d had begun: the images of a step are dealt to "
            "other processes and random numbers start afresh, so results are equivalent but not "
            "bit-equal",
            comm.get_world_size(),
            len(states),
        )
        seed_all(self.seed + comm.get_rank() + 1_000_003 * self.iteration)
