"""What an object of the shapes world can be, and which combinations are never trained on."""

from __future__ import annotations

from dataclasses import dataclass

SHAPES = ("circle", "square", "triangle", "star", "ring", "cross", "diamond", "heart")
PLURALS = {shape: f"{shape}s" for shape in SHAPES} | {"cross": "crosses"}

# Red, green, blue in 0..255; far apart so that a colour name is never a matter of taste.
COLOURS = {
    "red": (214, 30, 36),
    "green": (34, 150, 52),
    "blue": (36, 72, 220),
    "yellow": (244, 216, 36),
    "purple": (138, 40, 170),
    "orange": (246, 132, 20),
    "cyan": (40, 204, 220),
    "white": (246, 246, 246),
}

# Class names say "plain", or a class would be part of another; captions leave it out.
TEXTURES = ("plain", "striped", "dotted")

# Side of the bounding square in pixels of a 192-pixel image; the gap between the two ranges keeps the words apart.
SIZES = {"small": (20, 32), "large": (46, 68)}

# Colours that a shape never wears in training: two for every shape, every colour held out twice.
_HELD_OUT_STEPS = (0, 3)


@dataclass(frozen=True, order=True)
class ObjectKind:
    """A category of the detection sets: shape, colour and texture (size is not part of the name)."""

    shape: str
    colour: str
    texture: str

    @property
    def name(self) -> str:
        """Class name, for example ``striped red star``."""
        return f"{self.texture} {self.colour} {self.shape}"


def is_held_out(kind: ObjectKind) -> bool:
    """True for the combinations of shape and colour that only the unseen test set shows."""
    colours = tuple(COLOURS)
    position = SHAPES.index(kind.shape)
    held_out = {colours[(position + step) % len(colours)] for step in _HELD_OUT_STEPS}
    return kind.colour in held_out


def all_kinds(*, held_out: bool) -> list[ObjectKind]:
    """Every kind that is held out from training (48), or every kind that is not (144)."""
    kinds = [ObjectKind(s, c, t) for s in SHAPES for c in COLOURS for t in TEXTURES]
    return [kind for kind in kinds if is_held_out(kind) == held_out]
