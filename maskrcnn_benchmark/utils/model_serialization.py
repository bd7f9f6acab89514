"""Fit weights from a file to the names of a model, and report in one table what did not fit."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from maskrcnn_benchmark.errors import DataError

from .mmdet_layout import from_mmdet_layout, is_mmdet_layout
from .sharding import like, local

# Names of values that the model computes by itself, which files of various ages do or do not hold.
RECOMPUTED = re.compile(
    r"(position_ids|relative_position_index|relative_coords_table|attn_mask|cell_anchors\.\d+"
    r"|num_batches_tracked|pooler\.dense\.(weight|bias))$"
)
# FIBER's first-stage files name its two towers by these parts, which the model does not have.
_FIBER_PARTS = ("text_transformer.", "vit_model.")
_WRAPPERS = ("module.", "_orig_mod.")


@dataclass
class LoadReport:
    """What happened to each name when weights were fitted to a model.

    Attributes:
        loaded: model name to the name in the file that filled it.
        missing: model names that the file lacks; they keep their initial values.
        unexpected: names in the file that no model name took.
        reshaped: (model name, shape in the file, shape in the model); they keep initial values.
    """

    loaded: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    reshaped: list[tuple[str, tuple[int, ...], tuple[int, ...]]] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """True when every model value was filled and nothing was left over."""
        return not (self.missing or self.unexpected or self.reshaped)

    def share_filled(self) -> float:
        """Part of the model's values, between 0 and 1, that the file filled."""
        total = len(self.loaded) + len(self.missing) + len(self.reshaped)
        return len(self.loaded) / total if total else 1.0

    def summary(self) -> str:
        """One line of counts."""
        return (
            f"{len(self.loaded)} loaded, {len(self.missing)} missing, "
            f"{len(self.unexpected)} unexpected, {len(self.reshaped)} reshaped"
        )

    def table(self, rows_per_kind: int = 12) -> str:
        """A text table of everything that did not fit, numbered names gathered into one row."""
        rows = [("what", "names", "entries", "shape")]
        for kind, names in (
            ("missing (keeps its initial value)", self.missing),
            ("unexpected (ignored)", self.unexpected),
        ):
            groups = _gather_numbered(names)
            rows += [(kind, name, str(count), "") for name, count in groups[:rows_per_kind]]
            rows += _rest(kind, groups[rows_per_kind:])
        shapes: dict[str, str] = {}
        for name, in_file, in_model in self.reshaped:
            shapes[_pattern(name)] = f"{list(in_file)} in the file, {list(in_model)} in the model"
        groups = _gather_numbered([name for name, _, _ in self.reshaped])
        kind = "reshaped (keeps its initial value)"
        rows += [(kind, name, str(n), shapes.get(name, "")) for name, n in groups[:rows_per_kind]]
        rows += _rest(kind, groups[rows_per_kind:])
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)) for row in rows]
        return "\n".join(line.rstrip() for line in [lines[0], "-" * len(lines[0]), *lines[1:]])


def _pattern(name: str) -> str:
    return re.sub(r"(?<=\.)\d+(?=\.|$)", "*", name)


def _gather_numbered(names: list[str]) -> list[tuple[str, int]]:
    counts: dict[str, int] = {}
    for name in names:
        counts[_pattern(name)] = counts.get(_pattern(name), 0) + 1
    return list(counts.items())


def _rest(kind: str, groups: list[tuple[str, int]]) -> list[tuple[str, str, str, str]]:
    if not groups:
        return []
    return [(kind, f"... and {len(groups)} more names", str(sum(n for _, n in groups)), "")]


def find_weights(contents: Mapping[str, Any], key: str = "model") -> dict[str, torch.Tensor]:
    """Take the weights out of a checkpoint and name them the way the model does.

    Unwraps ``key`` or ``state_dict`` (else the checkpoint itself is the weights), drops the
    prefixes of wrappers (``module.``), and turns the layout of mmdetection files into ours.

    Raises:
        DataError: there are no tensors, or the asked ``key`` (other than "model") is absent.
    """
    if key != "model" and key not in contents:
        raise DataError(f"the checkpoint has no {key!r}; it has: {', '.join(map(str, contents))}")
    candidates = [contents.get(key), contents.get("state_dict"), contents]
    weights = next((dict(c) for c in candidates if isinstance(c, Mapping) and c), {})
    if isinstance(weights.get("state_dict"), Mapping):
        weights = dict(weights["state_dict"])
    weights = {name: value for name, value in weights.items() if torch.is_tensor(value)}
    if not weights:
        raise DataError(f"it holds no weights; its entries are: {', '.join(map(str, contents))}")
    for wrapper in _WRAPPERS:
        if all(name.startswith(wrapper) for name in weights):
            weights = {name[len(wrapper) :]: value for name, value in weights.items()}
    if is_mmdet_layout(weights):
        weights = from_mmdet_layout(weights)
    return {_without_fiber_parts(name): value for name, value in weights.items()}


def _without_fiber_parts(name: str) -> str:
    for part in _FIBER_PARTS:
        name = name.replace(part, "")
    return name


def align(model_names: list[str], file_names: set[str]) -> dict[str, str]:
    """For each model name, the longest name in the file that it ends with, counted in whole parts.

    So a backbone's own file fills ``backbone.body.*`` without anybody naming the prefix. A lone
    last part (``weight``) is no match, it would fit everything.
    """
    matches = {}
    for name in model_names:
        candidate = name
        while candidate not in file_names:
            _, dot, candidate = candidate.partition(".")
            if not dot or "." not in candidate:
                break
        else:
            matches[name] = candidate
    return matches


def _require_finite(weights: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor]) -> None:
    """Refuse values with which every prediction is nothing; ``weights`` have the model's names."""
    for name, value in weights.items():
        if value.shape != state[name].shape or not value.is_floating_point() or not value.numel():
            continue
        # Both are not numbers where one value is none, and unlike isfinite they need no memory.
        smallest, largest = local(value).aminmax()
        if not (smallest.isfinite() and largest.isfinite()):
            raise DataError(f"{name} holds values that are infinite or not numbers")


@torch.no_grad()
def load_weights_into(model: nn.Module, weights: Mapping[str, torch.Tensor]) -> LoadReport:
    """Copy fitting weights into a model, converting type and device; leave the rest as it is.

    Args:
        model: not wrapped in DistributedDataParallel.
        weights: names as :func:`find_weights` gives them.
    Raises:
        DataError: a value that would be copied is infinite or not a number; nothing is copied then.
    """
    state = model.state_dict()
    matches = align(sorted(state), set(weights))
    _require_finite({n: weights[m] for n, m in matches.items() if not RECOMPUTED.search(n)}, state)
    report = LoadReport()
    for name, target in state.items():
        if name not in matches:
            if not RECOMPUTED.search(name):
                report.missing.append(name)
            continue
        value = weights[matches[name]]
        if value.shape != target.shape:
            if not RECOMPUTED.search(name):
                report.reshaped.append((name, tuple(value.shape), tuple(target.shape)))
            continue
        target.copy_(like(value, target))
        report.loaded[name] = matches[name]
    used = set(matches.values())
    report.unexpected = [n for n in weights if n not in used and not RECOMPUTED.search(n)]
    return report
