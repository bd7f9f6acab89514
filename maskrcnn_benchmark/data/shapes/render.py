"""Drawing: scenes to pictures, with the tight box of what was really drawn."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from .attributes import COLOURS
from .scene import IMAGE_SIZE, PlacedObject

_SUPERSAMPLE = 3


def draw_scene(
    rng: np.random.Generator, scene: Sequence[PlacedObject], *, image_size: int = IMAGE_SIZE
) -> tuple[Image.Image, list[tuple[int, int, int, int]]]:
    """Draw a scene on a cluttered background.

    Returns:
        The RGB picture and, for each object, its box (x, y, width, height) in pixels: the
        smallest rectangle around the pixels that the object covers by at least half.
    """
    picture = _background(rng, image_size)
    boxes = []
    for item in scene:
        mask = _mask(item)
        picture.paste(_surface(rng, item), (item.left, item.top), mask)
        left, top, right, bottom = mask.point(lambda v: 255 if v >= 128 else 0).getbbox()
        boxes.append((item.left + left, item.top + top, right - left, bottom - top))
    pixels = np.asarray(picture, dtype=np.float32)
    pixels = pixels * rng.uniform(0.88, 1.08) + rng.normal(0.0, 4.0, pixels.shape)
    return Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8)), boxes


def _background(rng: np.random.Generator, image_size: int) -> Image.Image:
    """Greyish, softly coloured noise with lines and blots that are no shapes of the world."""
    coarse = rng.normal(0.0, 1.0, (7, 7, 3)) * 14 + rng.uniform(70, 150)
    coarse += rng.normal(0.0, 8.0, 3)
    image = Image.fromarray(np.clip(coarse, 0, 255).astype(np.uint8))
    image = image.resize((image_size, image_size), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(4, 11))):
        points = [tuple(int(v) for v in p) for p in rng.integers(0, image_size, (3, 2))]
        grey = int(rng.integers(45, 185))
        tint = tuple(int(np.clip(grey + d, 0, 255)) for d in rng.integers(-18, 19, 3))
        if rng.random() < 0.5:
            draw.line(points, fill=tint, width=int(rng.integers(1, 4)))
        else:
            x, y = points[0]
            width, height = (int(v) for v in rng.integers(5, 40, 2))
            draw.chord(
                (x, y, x + width, y + height), *sorted(rng.integers(0, 360, 2).tolist()), tint
            )
    return image.filter(ImageFilter.GaussianBlur(0.6))


def _surface(rng: np.random.Generator, item: PlacedObject) -> Image.Image:
    """Square patch with the colour and texture of an object."""
    colour = np.asarray(COLOURS[item.kind.colour], dtype=np.float32)
    colour = np.clip(colour + rng.normal(0.0, 7.0, 3), 0, 255)
    dark = colour * 0.38
    rows, columns = np.mgrid[0 : item.side, 0 : item.side].astype(np.float32)
    if item.kind.texture == "plain":
        on = np.zeros((item.side, item.side), dtype=bool)
    elif item.kind.texture == "striped":
        direction = rng.uniform(0, np.pi)
        phase = columns * np.cos(direction) + rows * np.sin(direction)
        on = (phase + rng.uniform(0, 6)) % 6.0 < 2.4
    else:
        shift = rng.uniform(0, 7, 2)
        on = ((columns + shift[0]) % 7.0 - 3.5) ** 2 + ((rows + shift[1]) % 7.0 - 3.5) ** 2 < 4.4
    patch = np.where(on[..., None], dark, colour)
    return Image.fromarray(patch.astype(np.uint8))


def _mask(item: PlacedObject) -> Image.Image:
    """Coverage of an object inside its square, 0 to 255, anti-aliased."""
    side = item.side * _SUPERSAMPLE
    image = Image.new("L", (side, side), 0)
    draw = ImageDraw.Draw(image)
    outline = _OUTLINES.get(item.kind.shape)
    if outline is not None:
        draw.polygon([tuple(p) for p in _turn(outline, item.angle) * (side - 1)], fill=255)
    else:
        draw.ellipse((0, 0, side - 1, side - 1), fill=255)
        if item.kind.shape == "ring":
            inner = 0.27 * side
            draw.ellipse((inner, inner, side - 1 - inner, side - 1 - inner), fill=0)
    return image.resize((item.side, item.side), Image.Resampling.BOX)


def _turn(outline: np.ndarray, angle: float) -> np.ndarray:
    """Rotate an outline about its centre and stretch it to fill the unit square again."""
    cosine, sine = np.cos(angle), np.sin(angle)
    turned = (outline - 0.5) @ np.array([[cosine, sine], [-sine, cosine]])
    low, high = turned.min(axis=0), turned.max(axis=0)
    extent = (high - low).max()
    return (turned - (low + high) / 2) / extent + 0.5


def _star() -> np.ndarray:
    angles = np.arange(10) * np.pi / 5 - np.pi / 2
    radii = np.where(np.arange(10) % 2 == 0, 0.5, 0.2)
    return np.stack((0.5 + radii * np.cos(angles), 0.5 + radii * np.sin(angles)), axis=1)


def _cross() -> np.ndarray:
    a, b = 0.33, 0.67
    return np.array(
        [
            (a, 0),
            (b, 0),
            (b, a),
            (1, a),
            (1, b),
            (b, b),
            (b, 1),
            (a, 1),
            (a, b),
            (0, b),
            (0, a),
            (a, a),
        ]
    )


def _heart() -> np.ndarray:
    t = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack((0.5 + x / 34, 0.45 - y / 34), axis=1)


_OUTLINES = {
    "square": np.array([(0.0, 0.0), (1, 0), (1, 1), (0, 1)]),
    "triangle": np.array([(0.5, 0.0), (1, 0.92), (0, 0.92)]),
    "star": _star(),
    "cross": _cross(),
    # Narrower than high, so that a turned square is never mistaken for it.
    "diamond": np.array([(0.5, 0.0), (0.8, 0.5), (0.5, 1), (0.2, 0.5)]),
    "heart": _heart(),
}
