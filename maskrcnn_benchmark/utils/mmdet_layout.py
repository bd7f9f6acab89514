"""GLIP weights as mmdetection stores them: other names, and another order in patch merging."""

import re
from collections.abc import Mapping

import torch

_MARKS = ("bbox_head.", "neck.lateral_convs.", "language_model.language_backbone.")
_FPN_LEVELS = {"0": "2", "1": "3", "2": "4"}
_TOP_LEVELS = {"3": "p6", "4": "p7"}
_NEIGHBOUR_ORDER = [0, 2, 1, 3]


def is_mmdet_layout(weights: Mapping[str, torch.Tensor]) -> bool:
    """True if the names are those of an mmdetection GLIP file."""
    return any(name.startswith(_MARKS) for name in weights)


def from_mmdet_layout(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same weights under the official names and in the official order."""
    official = {}
    for name, value in weights.items():
        if re.match(r"backbone\.stages\.\d+\.downsample\.(reduction|norm)\.", name):
            value = _official_neighbour_order(value)
        official[_official_name(name)] = value
    return official


def _official_name(name: str) -> str:
    if name.startswith("language_model."):
        return name.removeprefix("language_model.")
    if name.startswith("bbox_head."):
        return "rpn." + name.removeprefix("bbox_head.")
    lateral = re.match(r"neck\.lateral_convs\.([012])\.conv\.(.*)", name)
    if lateral:
        return f"backbone.fpn.fpn_inner{_FPN_LEVELS[lateral[1]]}.{lateral[2]}"
    output = re.match(r"neck\.fpn_convs\.([0-4])\.conv\.(.*)", name)
    if output and output[1] in _TOP_LEVELS:
        return f"backbone.fpn.top_blocks.{_TOP_LEVELS[output[1]]}.{output[2]}"
    if output:
        return f"backbone.fpn.fpn_layer{_FPN_LEVELS[output[1]]}.{output[2]}"
    if name.startswith("backbone."):
        return "backbone.body." + _official_swin_name(name.removeprefix("backbone."))
    return name


def _official_swin_name(name: str) -> str:
    for theirs, ours in (
        ("patch_embed.projection", "patch_embed.proj"),
        ("stages.", "layers."),
        ("ffn.layers.0.0", "mlp.fc1"),
        ("ffn.layers.1", "mlp.fc2"),
        ("attn.w_msa", "attn"),
    ):
        name = name.replace(theirs, ours)
    return name


def _official_neighbour_order(value: torch.Tensor) -> torch.Tensor:
    """Undo mmdetection's order of the 2 x 2 neighbours in the last dimension (4 C).

    There channels come first and the neighbours run row by row; officially the neighbours come
    first, in the order top left, bottom left, top right, bottom right.
    """
    *leading, length = value.shape
    neighbours_first = value.reshape(*leading, length // 4, 4).transpose(-1, -2)
    return neighbours_first[..., _NEIGHBOUR_ORDER, :].reshape(*leading, length)
