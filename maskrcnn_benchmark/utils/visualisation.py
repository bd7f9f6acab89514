"""Pictures with boxes, names and scores, readable at any image size."""

from __future__ import annotations

import math
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

_PALETTE = (2**25 - 1, 2**15 - 1, 2**21 - 1)

# Pictures whose longer side is below this are enlarged, or a label would hide what it names.
_SMALLEST_SIDE = 640

_Rectangle = tuple[float, float, float, float]


def label_colour(label: int) -> tuple[int, int, int]:
    """Colour of a label, 0 to 255 each; the same label always has the same colour.

    ``(30 (label - 1) + 1) * (2^25 - 1, 2^15 - 1, 2^21 - 1) mod 255``: (1, 127, 31) for label 1.
    """
    factor = 30 * (label - 1) + 1
    red, green, blue = (factor * p % 255 for p in _PALETTE)
    return red, green, blue


def enlarge_small(
    image: Image.Image, boxes: Sequence[Sequence[float]]
) -> tuple[Image.Image, list[list[float]]]:
    """Enlarge a small picture and its boxes by a whole factor, so that labels do not hide what they name.

    Returns:
        The picture, its longer side at least 640 pixels, and the boxes in its pixels.
    """
    factor = max(1, math.ceil(_SMALLEST_SIDE / max(image.size)))
    size = (image.width * factor, image.height * factor)
    scaled = [[factor * v for v in box] for box in boxes]
    return (image if factor == 1 else image.resize(size, Image.Resampling.BICUBIC)), scaled


def draw_detections(
    image: Image.Image,
    boxes: Sequence[Sequence[float]],
    captions: Sequence[str],
    colours: Sequence[tuple[int, int, int]],
    *,
    line_width: int | None = None,
    text_scale: float = 1.0,
    alpha: float = 1.0,
) -> Image.Image:
    """Draw boxes with their captions on a copy of the picture.

    Line width and letters follow the picture's size. A caption goes above its box, or where no other
    caption stands already.

    Args:
        image: RGB picture.
        boxes: (x1, y1, x2, y2) in pixels of ``image``, one per caption.
        captions: text per box; an empty one draws the box only.
        colours: per box.
        line_width: pixels of the drawn picture; None chooses by its size.
        text_scale: factor on the size of the letters.
        alpha: 1 draws opaque, 0 draws nothing.

    Raises:
        ValueError: the three sequences differ in length, or ``alpha`` is not in 0..1.
    """
    if not len(boxes) == len(captions) == len(colours):
        raise ValueError(
            f"{len(boxes)} boxes, {len(captions)} captions and {len(colours)} colours: give one of each per box"
        )
    if not 0.0 <= alpha <= 1.0:
        raise ValueError(f"alpha must lie in 0..1, not {alpha}")
    canvas = image.convert("RGB")
    drawn = canvas.copy()
    draw = ImageDraw.Draw(drawn)
    reference = math.sqrt(canvas.width * canvas.height)
    width = line_width or max(2, round(reference / 350))
    font = ImageFont.load_default(size=max(11.0, reference / 48) * text_scale)
    rectangles = [_clip(box, canvas.size) for box in boxes]
    for rectangle, colour in zip(rectangles, colours, strict=True):
        draw.rectangle(rectangle, outline=colour, width=width)
    taken: list[_Rectangle] = []
    for rectangle, caption, colour in zip(rectangles, captions, colours, strict=True):
        if caption:
            taken.append(_draw_caption(draw, canvas.size, rectangle, caption, colour, font, taken))
    return drawn if alpha == 1.0 else Image.blend(canvas, drawn, alpha)


def _clip(box: Sequence[float], size: tuple[int, int]) -> _Rectangle:
    x1, x2 = (min(max(v, 0.0), size[0] - 1.0) for v in (box[0], box[2]))
    y1, y2 = (min(max(v, 0.0), size[1] - 1.0) for v in (box[1], box[3]))
    # Degenerate boxes still show as a dot; the drawing library refuses a right side left of the left one.
    return x1, y1, max(x1, x2), max(y1, y2)


def _draw_caption(
    draw: ImageDraw.ImageDraw,
    size: tuple[int, int],
    box: _Rectangle,
    caption: str,
    colour: tuple[int, int, int],
    font: ImageFont.ImageFont | ImageFont.FreeTypeFont,
    taken: Sequence[_Rectangle],
) -> _Rectangle:
    left, top, right, bottom = draw.textbbox((0, 0), caption, font=font)
    pad = max(2, round((bottom - top) / 6))
    width, height = right - left + 2 * pad, bottom - top + 2 * pad
    spot = _free_spot(box, width, height, size, taken)
    draw.rectangle(spot, fill=colour)
    luminance = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]
    ink = (0, 0, 0) if luminance > 140 else (255, 255, 255)
    draw.text((spot[0] + pad - left, spot[1] + pad - top), caption, fill=ink, font=font)
    return spot


def _free_spot(
    box: _Rectangle,
    width: float,
    height: float,
    size: tuple[int, int],
    taken: Sequence[_Rectangle],
) -> _Rectangle:
    """Above the box, inside it, below it, or further down: the first place inside the picture that is free."""
    x1, y1, x2, y2 = box
    x = min(max(x1, 0), max(size[0] - width, 0))
    from_the_right = min(max(x2 - width, 0), max(size[0] - width, 0))
    candidates = [
        (x, y1 - height),
        (x, y1),
        (x, y2),
        (from_the_right, y1 - height),
        (x, y2 - height),
    ]
    candidates += [(x, y1 + k * height) for k in range(1, 12)]
    spots = [(px, py, px + width, py + height) for px, py in candidates]
    inside = [s for s in spots if s[1] >= 0 and s[3] <= size[1]]
    free = [s for s in inside if not any(_overlap(s, other) for other in taken)]
    fallback = (x, min(max(y1, 0), max(size[1] - height, 0)))
    return (free or inside or [(*fallback, fallback[0] + width, fallback[1] + height)])[0]


def _overlap(a: _Rectangle, b: _Rectangle) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
