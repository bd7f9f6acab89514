"""The optimizer: which rate and decay each parameter gets, gradient clipping, saved state.

Parameters that share learning rate and weight decay share one group, so that a step is a few
fused kernels instead of one Python round per parameter. The saved state is keyed by parameter
name, therefore independent of that grouping and of the order of parameters.
"""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from maskrcnn_benchmark.errors import ConfigError
from maskrcnn_benchmark.utils.sharding import like, whole

logger = logging.getLogger(__name__)

LANGUAGE = "language_backbone"
LANGUAGE_BODY = "language_backbone.body"
IMAGE_BODY = "backbone.body"

_OWN_ENTRIES = ("params", "param_names", "positions")


@dataclass(frozen=True)
class ParameterRules:
    """Learning rate and weight decay by parameter name, as GLIP and FIBER were trained.

    The rules read substrings of the full name. That is wider than it looks and must stay so for
    published recipes: "bias" also covers Swin's ``relative_position_bias_table`` and the head's
    ``bias_lang`` and ``bias0``.

    Attributes:
        base_lr: learning rate of everything that no rule names.
        lang_lr: learning rate of the text encoder.
        backbone_body_lr_factor: times ``base_lr`` is the learning rate of the image backbone.
        bias_lr_factor: multiplies the learning rate of biases.
        weight_decay: decay of everything that no rule names.
        weight_decay_bias: decay of biases.
        weight_decay_norm_factor: multiplies the decay of normalisation layers.
    """

    base_lr: float
    lang_lr: float
    backbone_body_lr_factor: float = 1.0
    bias_lr_factor: float = 2.0
    weight_decay: float = 0.0
    weight_decay_bias: float = 0.0
    weight_decay_norm_factor: float = 1.0

    def settings(self, name: str) -> tuple[float, float]:
        """Learning rate and weight decay of the parameter of this name."""
        lr, weight_decay = self.base_lr, self.weight_decay
        if LANGUAGE in name:
            lr = self.lang_lr
        if IMAGE_BODY in name and LANGUAGE_BODY not in name:
            lr = self.base_lr * self.backbone_body_lr_factor
        if "bias" in name:
            lr, weight_decay = lr * self.bias_lr_factor, self.weight_decay_bias
        if "norm" in name or "Norm" in name:
            weight_decay *= self.weight_decay_norm_factor
        return lr, weight_decay


def parameter_groups(model: nn.Module, rules: ParameterRules) -> list[dict[str, Any]]:
    """Trainable parameters in groups of equal settings, by first appearance in the model.

    Returns:
        dicts with ``params`` (pairs of name and parameter), ``positions`` (their numbers among
        the trainable parameters of the model), ``lr``, ``weight_decay`` and the starting values
        ``initial_lr`` and ``initial_weight_decay``, which schedules build on.
    Raises:
        ConfigError: nothing in the model can be trained.
    """
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    trainable = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    for position, (name, parameter) in enumerate(trainable):
        lr, weight_decay = rules.settings(name)
        group = groups.setdefault(
            (lr, weight_decay),
            {
                "params": [],
                "positions": [],
                "lr": lr,
                "initial_lr": lr,
                "weight_decay": weight_decay,
                "initial_weight_decay": weight_decay,
            },
        )
        group["params"].append((name, parameter))
        group["positions"].append(position)
    if not groups:
        raise ConfigError("every parameter of the model is frozen: there is nothing to train")
    return list(groups.values())


def make_optimizer(
    kind: str, groups: list[dict[str, Any]], momentum: float = 0.9
) -> torch.optim.Optimizer:
    """Make the optimizer over groups of (name, parameter) pairs.

    Args:
        kind: "SGD" or "ADAMW" (betas 0.9 and 0.999, eps 1e-8).
        momentum: for SGD.
    Raises:
        ConfigError: another kind.
    """
    if kind == "SGD":
        return torch.optim.SGD(groups, lr=groups[0]["lr"], momentum=momentum, fused=True)
    if kind == "ADAMW":
        return torch.optim.AdamW(groups, lr=groups[0]["lr"], fused=True)
    raise ConfigError(f"SOLVER.OPTIMIZER is {kind!r}; it must be 'SGD' or 'ADAMW'")


def named_parameters(optimizer: torch.optim.Optimizer) -> Iterable[tuple[str, nn.Parameter]]:
    """Name and parameter pairs of all groups."""
    for group in optimizer.param_groups:
        yield from zip(group["param_names"], group["params"])


def optimizer_state_by_name(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """State to save: ``{"state": {name: buffers}, "param_groups": [settings and names]}``."""
    groups = []
    for group in optimizer.param_groups:
        settings = {k: v for k, v in group.items() if k not in _OWN_ENTRIES}
        groups.append({"params": list(group["param_names"]), **settings})
    buffers = {
        name: dict(optimizer.state[parameter])
        for name, parameter in named_parameters(optimizer)
        if parameter in optimizer.state
    }
    return {"state": buffers, "param_groups": groups}


def load_optimizer_state(optimizer: torch.optim.Optimizer, saved: Mapping[str, Any]) -> None:
    """Take up the buffers (momenta, step counts) that were saved for each parameter.

    Reads :func:`optimizer_state_by_name` and also the layout of original GLIP checkpoints, one
    group per trainable parameter in model order. Learning rates and decays are not taken from the
    file: they follow from the configuration and the schedules.

    Raises:
        ValueError: the file's parameters cannot be told apart by name or number, or it is of
            another kind of optimizer.
    """
    parameters = dict(named_parameters(optimizer))
    buffers_by_name = _buffers_by_name(saved, optimizer)
    _require_same_kind(buffers_by_name, optimizer)
    unused = sorted(set(buffers_by_name) - set(parameters))
    fresh = sorted(set(parameters) - set(buffers_by_name))
    reshaped = []
    for name, buffers in buffers_by_name.items():
        if name not in parameters:
            continue
        parameter = parameters[name]
        if any(_has_other_shape(value, parameter) for value in buffers.values()):
            reshaped.append(name)
            continue
        optimizer.state[parameter] = {k: _buffer(k, v, parameter) for k, v in buffers.items()}
    for names, fate in (
        (unused, "are not trained here and were ignored"),
        (fresh, "have no saved optimizer state and start afresh"),
        (reshaped, "have another shape than their saved optimizer state and start afresh"),
    ):
        if names and buffers_by_name:
            logger.warning("%d parameters %s, the first is %s", len(names), fate, names[0])


def _buffers_by_name(
    saved: Mapping[str, Any], optimizer: torch.optim.Optimizer
) -> dict[str, dict[str, Any]]:
    keys = [key for group in saved["param_groups"] for key in group["params"]]
    if all(isinstance(key, str) for key in keys):
        return dict(saved["state"])
    # Numbers count the trainable parameters in model order, which merged groups have lost.
    name_at = {
        position: name
        for group in optimizer.param_groups
        for position, name in zip(group["positions"], group["param_names"])
    }
    if len(keys) != len(name_at):
        raise ValueError(
            f"the saved optimizer state is for {len(keys)} parameters, the model trains "
            f"{len(name_at)}: start without it (weights only)"
        )
    names = {key: name_at[position] for position, key in enumerate(keys)}
    return {names[key]: buffers for key, buffers in saved["state"].items()}


def _require_same_kind(
    buffers_by_name: Mapping[str, Mapping[str, Any]], optimizer: torch.optim.Optimizer
) -> None:
    is_sgd = isinstance(optimizer, torch.optim.SGD)
    if any(buffers and ("exp_avg" in buffers) == is_sgd for buffers in buffers_by_name.values()):
        raise ValueError(
            f"its optimizer state is not of {type(optimizer).__name__}: set SOLVER.OPTIMIZER as the "
            "earlier run had it, or start in another OUTPUT_DIR with these weights"
        )


def _has_other_shape(value: Any, parameter: nn.Parameter) -> bool:
    return torch.is_tensor(value) and value.dim() > 0 and value.shape != parameter.shape


def _buffer(key: str, value: Any, parameter: nn.Parameter) -> Any:
    """A copy that the optimizer may change in place, on the parameter's device."""
    if key == "step":  # a plain number in files of early torch versions
        return torch.tensor(float(value), dtype=torch.float32, device=parameter.device)
    if not torch.is_tensor(value):
        return value
    value = value.detach().clone()
    return like(value, parameter) if value.dim() else value.to(parameter.device)


@dataclass(frozen=True)
class GradientClipping:
    """Limits on gradients, applied between backward pass and optimizer step.

    Attributes:
        max_norm: largest norm over all gradients together; 0 sets no limit.
        norm_type: order of that norm.
        max_value: largest absolute value of a single number; 0 sets no limit.
    """

    max_norm: float = 0.0
    norm_type: float = 2.0
    max_value: float = 0.0

    def __call__(self, parameters: Iterable[nn.Parameter]) -> torch.Tensor:
        """Clip in place.

        Returns:
            the norm before clipping, a scalar on the parameters' device. It is not finite exactly
            if a gradient is not (or overflows the norm), so it serves as the check as well.
        """
        parameters = [p for p in parameters if p.grad is not None]
        gradients = [p.grad for p in parameters]
        total_norm = torch.nn.utils.get_total_norm(gradients, norm_type=self.norm_type)
        if self.max_value > 0:
            torch.nn.utils.clip_grad_value_(parameters, self.max_value)
        if self.max_norm > 0:
            torch.nn.utils.clip_grads_with_norm_(parameters, self.max_norm, total_norm)
        return whole(total_norm)
