"""Exponential moving average of a model's weights."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn

from maskrcnn_benchmark.errors import ConfigError
from maskrcnn_benchmark.utils.sharding import like, local


class ModelEMA:
    """Keeps ``average = decay * average + (1 - decay) * value`` of everything in a state dict.

    Buffers are averaged too; whole numbers (counters, indices) are copied, since an average of
    them means nothing. Where the model is shared out over processes, so is the average.

    Args:
        model: its present weights are the first average.
        decay: between 0 and 1; GLIP uses 0.999.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        if not 0.0 < decay < 1.0:
            raise ConfigError(f"SOLVER.MODEL_EMA is {decay}; it must lie between 0 and 1")
        self.decay = decay
        self._averages = {name: value.detach().clone() for name, value in _entries(model)}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take in the present weights."""
        averages, values = [], []
        for name, value in _entries(model):
            average = self._averages[name]
            if average.is_floating_point():
                averages.append(local(average))
                values.append(local(value.detach()))
            else:
                average.copy_(value)
        torch._foreach_mul_(averages, self.decay)
        torch._foreach_add_(averages, values, alpha=1 - self.decay)

    @contextmanager
    def applied_to(self, model: nn.Module) -> Iterator[None]:
        """Give the model the averages inside the block and its own weights back afterwards."""
        self._swap(model)
        try:
            yield
        finally:
            self._swap(model)

    @torch.no_grad()
    def _swap(self, model: nn.Module) -> None:
        swapped = set()
        for name, entry in _entries(model):
            value, average = local(entry.detach()), local(self._averages[name])
            if value.data_ptr() in swapped:  # one tensor under two names must be swapped once
                continue
            swapped.add(value.data_ptr())
            kept = value.clone()
            value.copy_(average)
            average.copy_(kept)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The averages under the model's own names."""
        return dict(self._averages)

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Continue from saved averages.

        Raises:
            ValueError: an entry is missing or has another shape.
        """
        for name, average in self._averages.items():
            if name not in state or state[name].shape != average.shape:
                raise ValueError(f"the saved average of weights does not fit the model at {name}")
        for name, average in self._averages.items():
            average.copy_(like(state[name], average))


def _entries(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from model.state_dict().items()
