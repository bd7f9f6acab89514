"""Close-ups of single objects, and words about them: what the encoders of the shapes world learn from first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .attributes import COLOURS, SHAPES, SIZES, TEXTURES, ObjectKind
from .render import draw_scene
from .scene import random_scene

CROP_SIZE = 64
# A name is one word, the whole class name, or any of the words that hold.
_ONE_WORD, _WHOLE_NAME = 0.35, 0.3
_GREY_WEIGHTS = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601


@dataclass(frozen=True)
class Crops:
    """Pictures of one object each.

    Attributes:
        pixels: ``[N, 64, 64, 3]`` uint8, RGB.
        boxes: ``[N, 4]`` float32, xyxy in pixels.
        kinds: what each object is.
        sizes: ``small`` or ``large``.
    """

    pixels: np.ndarray
    boxes: np.ndarray
    kinds: list[ObjectKind]
    sizes: list[str]

    def __len__(self) -> int:
        return len(self.kinds)


def draw_crops(rng: np.random.Generator, kinds: Sequence[ObjectKind], number: int) -> Crops:
    """Draw ``number`` objects of random kinds, each on a background of its own."""
    pixels = np.empty((number, CROP_SIZE, CROP_SIZE, 3), dtype=np.uint8)
    boxes = np.empty((number, 4), dtype=np.float32)
    objects = []
    for index in range(number):
        scene = random_scene(rng, kinds, 1, image_size=CROP_SIZE)
        picture, ((left, top, width, height),) = draw_scene(rng, scene, image_size=CROP_SIZE)
        pixels[index] = np.asarray(picture)
        boxes[index] = left, top, left + width, top + height
        objects.append(scene[0])
    return Crops(pixels, boxes, [o.kind for o in objects], [o.size for o in objects])


def to_grey(pixels: np.ndarray) -> np.ndarray:
    """Pictures ``[..., 3]`` without their colours, of the same shape and type."""
    grey = (pixels @ _GREY_WEIGHTS)[..., None]
    return np.repeat(np.rint(grey), 3, axis=-1).astype(pixels.dtype)


ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "shape": SHAPES,
    "colour": tuple(COLOURS),
    "texture": TEXTURES,
    "size": tuple(SIZES),
}


def attribute_of(attribute: str, kind: ObjectKind, size: str) -> str:
    """Word for an attribute of an object."""
    return size if attribute == "size" else getattr(kind, attribute)


def random_name(rng: np.random.Generator, kind: ObjectKind, size: str, *, colour: bool) -> str:
    """Words that hold for an object, in the order of class names; ``colour`` allows its colour."""
    words = [size, kind.texture, kind.colour if colour else None, kind.shape]
    choice = rng.random()
    if choice < _ONE_WORD:
        return str(rng.choice([word for word in words[1:] if word]))
    if choice < _ONE_WORD + _WHOLE_NAME:
        return " ".join(word for word in words[1:] if word)
    said = [w for w, share in zip(words, (0.25, 0.6, 0.7, 0.85)) if w and rng.random() < share]
    return " ".join(said) if said else kind.shape


def name_holds(name: str, kind: ObjectKind, size: str) -> bool:
    """Whether every word of a name is true of an object."""
    return set(name.split()) <= {size, kind.texture, kind.colour, kind.shape}


def names_for(
    rng: np.random.Generator,
    objects: Sequence[tuple[ObjectKind, str]],
    number: int,
    *,
    colour: bool = True,
) -> list[str]:
    """Distinct names in random order: one for each object, filled up with others.

    Half of the others differ from an object by one attribute, so that every word counts.

    Args:
        rng: source of randomness.
        objects: kind and size of each.
        number: how many names, or as many as the objects have if that is more.
        colour: whether colours may be named.
    """
    names = list(dict.fromkeys(random_name(rng, *item, colour=colour) for item in objects))
    while len(names) < number:
        kind, size = objects[int(rng.integers(len(objects)))]
        other, other_size = _random_object(rng)
        if rng.random() < 0.5:
            changed = rng.integers(3)
            other = ObjectKind(
                other.shape if changed == 0 else kind.shape,
                other.colour if changed == 1 else kind.colour,
                other.texture if changed == 2 else kind.texture,
            )
            other_size = size
        name = random_name(rng, other, other_size, colour=colour)
        if name not in names:
            names.append(name)
    return [names[int(i)] for i in rng.permutation(len(names))]


def _random_object(rng: np.random.Generator) -> tuple[ObjectKind, str]:
    kind = ObjectKind(*(str(rng.choice(list(values))) for values in (SHAPES, COLOURS, TEXTURES)))
    return kind, str(rng.choice(list(SIZES)))
