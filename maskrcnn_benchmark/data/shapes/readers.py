"""Readers that know one attribute only: what they reach is no evidence of having read the words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def read_with_one_attribute(
    ground_truth: Mapping[str, Any], attribute: str
) -> list[dict[str, Any]]:
    """Results of a reader with perfect boxes that sees only ``attribute`` of object and class name.

    It gives every class name that agrees in this attribute the same score.

    Args:
        ground_truth: COCO-format annotations whose categories carry ``attributes``.
        attribute: ``shape``, ``colour`` or ``texture``.

    Returns:
        COCO result records (``image_id, category_id, bbox, score``).

    Raises:
        KeyError: the categories carry no such attribute.
    """
    categories: Sequence[Mapping[str, Any]] = ground_truth["categories"]
    value_of = {c["id"]: c["attributes"][attribute] for c in categories}
    agreeing: dict[str, list[int]] = {}
    for category_id, value in value_of.items():
        agreeing.setdefault(value, []).append(category_id)
    return [
        {"image_id": a["image_id"], "category_id": c, "bbox": a["bbox"], "score": 1.0}
        for a in ground_truth["annotations"]
        for c in agreeing[value_of[a["category_id"]]]
    ]
