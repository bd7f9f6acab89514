"""One update of the weights, for any precision, on any number of processes."""

import contextlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from maskrcnn_benchmark.data.collate import Batch
from maskrcnn_benchmark.solver import GradientClipping

from .batches import captions_of, move_batch
from .parallel import gradients_stay, unwrapped

logger = logging.getLogger(__name__)

AMP_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class StepOptions:
    """How batches become an update.

    Attributes:
        amp_dtype: compute type of the forward pass under autocast; None computes as stored.
        accumulation: number of batches that make one update: parts of one large batch, if the
            model can tell what its losses divide by (``loss_normalizers``), else averaged.
        clipping: limits on the gradients.
    """

    amp_dtype: torch.dtype | None = None
    accumulation: int = 1
    clipping: GradientClipping = field(default_factory=GradientClipping)


@dataclass(frozen=True)
class StepResult:
    """What a step leaves behind, still on the device so that nobody waits for it.

    Attributes:
        losses: scalar per loss term of this process.
        gradient_norm: norm of all gradients before clipping, over all processes.
        skipped: 0-dimensional bool, True if the update was left out because a loss or gradient
            was not finite. Equal on all processes.
    """

    losses: dict[str, torch.Tensor]
    gradient_norm: torch.Tensor
    skipped: torch.Tensor


class TrainingStep:
    """Forward, backward, clipping, update.

    An update whose gradients are not finite is left out, and so on every process: a non-finite
    loss is made to spoil all gradients of its process, and averaging carries that to the others.
    On CUDA the decision stays on the device (the fused optimizers take a flag), so no step waits.

    Args:
        model: called as ``model(images, targets, captions, positive_map, greenlight_map=...)``,
            returns a dict of scalar losses.
        optimizer: over the parameters of ``model``, fused.
        device: where to compute.
        options: see :class:`StepOptions`.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        device: torch.device,
        options: StepOptions,
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self.device = device
        self.options = options
        # Only float16 has so small a range that gradients vanish without scaling.
        self.scaler = torch.amp.GradScaler(device.type, enabled=options.amp_dtype is torch.float16)

    def __call__(self, batches: Sequence[Batch], weights: Sequence[float]) -> StepResult:
        """Update the weights once.

        Args:
            batches: on any device; their losses are averaged.
            weights: factor of the loss of each; 0 lets a process take part in the exchange of
                gradients with a batch that it must not learn from.
        """
        self.optimizer.zero_grad(set_to_none=True)
        normalizers = self._shared_normalizers(batches, weights)
        sums: dict[str, torch.Tensor] = {}
        for number, (batch, weight) in enumerate(zip(batches, weights)):
            last = number == len(batches) - 1
            # Gradients are averaged over the processes once per update, with the last batch.
            with contextlib.nullcontext() if last else gradients_stay(self.model):
                losses = self._losses(move_batch(batch, self.device), normalizers)
                total = torch.stack(list(losses.values())).sum()
                spoil = torch.where(total.detach().isfinite(), weight, torch.nan)
                self.scaler.scale(total * spoil / len(batches)).backward()
            for name, loss in losses.items():
                sums[name] = sums.get(name, 0.0) + loss.detach() / len(batches)
        norm, skipped = self._update()
        return StepResult(sums, norm, skipped)

    def _shared_normalizers(
        self, batches: Sequence[Batch], weights: Sequence[float]
    ) -> dict[str, torch.Tensor]:
        """Keyword argument that makes the batches parts of a larger one; a lone one needs none."""
        count = getattr(unwrapped(self.model), "loss_normalizers", None)
        if len(batches) == 1 or count is None:
            return {}
        return {"normalizers": count([(b.images, b.targets) for b in batches], weights)}

    def _losses(
        self, batch: Batch, normalizers: dict[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        with torch.autocast(
            self.device.type,
            dtype=self.options.amp_dtype,
            enabled=self.options.amp_dtype is not None,
        ):
            return self.model(
                batch.images,
                batch.targets,
                captions_of(batch.targets),
                batch.positive_map,
                greenlight_map=batch.greenlight_map,
                **normalizers,
            )

    def _update(self) -> tuple[torch.Tensor, torch.Tensor]:
        self.scaler.unscale_(self.optimizer)
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        norm = self.options.clipping(parameters)
        skipped = ~norm.isfinite()
        if self.scaler.is_enabled():
            self.scaler.step(self.optimizer)
            self.scaler.update()
        elif self.device.type == "cuda":
            self.optimizer.found_inf = skipped.float()
            self.optimizer.step()
        elif not skipped:
            self.optimizer.step()
        return norm, skipped
