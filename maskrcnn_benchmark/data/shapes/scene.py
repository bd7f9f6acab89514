"""Scenes: which objects stand where. Pure geometry, no drawing and no words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .attributes import SIZES, ObjectKind

IMAGE_SIZE = 192
_MARGIN = 3
_GAP = 4
# A relation must be plain to see: the centres differ by this many pixels along its axis ...
_RELATION_DISTANCE = 24


@dataclass(frozen=True)
class PlacedObject:
    """An object with its bounding square: left, top, side in pixels; angle in radians."""

    kind: ObjectKind
    size: str
    left: int
    top: int
    side: int
    angle: float

    @property
    def centre(self) -> tuple[float, float]:
        """Centre (x, y) in pixels."""
        return self.left + self.side / 2, self.top + self.side / 2


RELATIONS = ("left of", "right of", "above", "below")


def stands(first: PlacedObject, relation: str, second: PlacedObject) -> bool:
    """Whether ``first`` stands clearly in ``relation`` to ``second``.

    Clearly: along the axis of the relation the centres are at least 24 pixels apart.
    """
    (x1, y1), (x2, y2) = first.centre, second.centre
    offset = {"left of": x2 - x1, "right of": x1 - x2, "above": y2 - y1, "below": y1 - y2}
    return offset[relation] >= _RELATION_DISTANCE


def opposite(relation: str) -> str:
    """The relation seen from the other side."""
    return {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}[
        relation
    ]


def random_scene(
    rng: np.random.Generator,
    kinds: Sequence[ObjectKind],
    num_objects: int,
    *,
    image_size: int = IMAGE_SIZE,
) -> list[PlacedObject]:
    """Place up to ``num_objects`` objects of random kinds without overlap; fewer where no room is left."""
    scene: list[PlacedObject] = []
    for _ in range(num_objects):
        kind = kinds[int(rng.integers(len(kinds)))]
        size = str(rng.choice(tuple(SIZES)))
        placed = place(rng, kind, size, scene, image_size=image_size)
        if placed is not None:
            scene.append(placed)
    return scene


def place(
    rng: np.random.Generator,
    kind: ObjectKind,
    size: str,
    scene: Sequence[PlacedObject],
    *,
    relation: tuple[str, PlacedObject] | None = None,
    attempts: int = 60,
    image_size: int = IMAGE_SIZE,
) -> PlacedObject | None:
    """Find a free place for an object, optionally in a relation to another one.

    Args:
        rng: source of randomness.
        kind: what to place.
        size: ``small`` or ``large``.
        scene: objects already there, none of which may be touched.
        relation: pair of relation and object that the new object must satisfy.
        attempts: how many random places are tried.
        image_size: side of the picture in pixels.

    Returns:
        The placed object, or None when no attempt found room.
    """
    low, high = SIZES[size]
    # In a small picture the largest objects have no room; the range is cut, not the picture.
    high = min(high, image_size - 2 * _MARGIN - 1)
    for _ in range(attempts):
        side = int(rng.integers(low, high + 1))
        left, top = (int(v) for v in rng.integers(_MARGIN, image_size - side - _MARGIN, size=2))
        angle = float(rng.uniform(-0.25, 0.25))
        candidate = PlacedObject(kind, size, left, top, side, angle)
        if any(_touch(candidate, other) for other in scene):
            continue
        if relation is not None and not stands(candidate, relation[0], relation[1]):
            continue
        return candidate
    return None


def _touch(first: PlacedObject, second: PlacedObject) -> bool:
    return (
        first.left < second.left + second.side + _GAP
        and second.left < first.left + first.side + _GAP
        and first.top < second.top + second.side + _GAP
        and second.top < first.top + first.side + _GAP
    )
