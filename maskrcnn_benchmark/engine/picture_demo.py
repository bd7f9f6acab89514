"""Pictures on disk in, annotated pictures and JSON out: what the demo commands share."""

from __future__ import annotations

import json
import logging
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from maskrcnn_benchmark.data.image_files import UnreadableImageError, read_upright_rgb
from maskrcnn_benchmark.engine.command_line import FAILED
from maskrcnn_benchmark.engine.predictor_glip import Caption, GLIPDemo
from maskrcnn_benchmark.errors import ConfigError
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.utils.checkpoint_files import write_atomically
from maskrcnn_benchmark.utils.visualisation import draw_detections, enlarge_small, label_colour

logger = logging.getLogger(__name__)

PICTURE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})


@dataclass(frozen=True)
class Written:
    """What was found in one picture and the files that show it.

    Attributes:
        source: the picture that was read.
        picture: annotated picture, None when none was asked for.
        record: JSON of the boxes, None when none was asked for.
        num_shown: boxes above the threshold.
        content: what the JSON holds.
    """

    source: Path
    picture: Path | None
    record: Path | None
    num_shown: int
    content: dict[str, Any]


def list_pictures(path: Path) -> list[Path]:
    """The picture at ``path``, or all pictures of a folder in the order of their names.

    Raises:
        FileNotFoundError: nothing is there, or the folder holds no picture.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise FileNotFoundError(f"{path} does not exist")
    found = sorted(p for p in path.iterdir() if p.suffix.lower() in PICTURE_SUFFIXES)
    if not found:
        raise FileNotFoundError(f"{path} holds no picture ({', '.join(sorted(PICTURE_SUFFIXES))})")
    return found


def annotate_pictures(
    predictor: GLIPDemo,
    pictures: Sequence[Path],
    caption: Caption,
    threshold: float,
    *,
    picture_folder: Path | None,
    record_folder: Path | None,
    custom_entity: Sequence[dict[str, Any]] | None = None,
    unreadable: list[Path] | None = None,
    keep_names: bool = False,
) -> Iterator[Written]:
    """Detect in one picture after another and write what was found.

    JSON per picture: ``caption``, ``entities`` (names), ``width``, ``height`` and, best first,
    ``bboxes`` (x1, y1, x2, y2 in pixels), ``scores``, ``labels`` (0-based entity numbers) and
    ``label_names``; all kept boxes stand there, the threshold decides only what is drawn.

    Args:
        unreadable: filled with the pictures that cannot be read, which are logged and passed over;
            None ends the work at the first one.
        keep_names: drawings have name and format of their pictures; else they are PNG files.
    Raises:
        ConfigError: what is written would replace one of the pictures; nothing is written then.
        FileNotFoundError, UnreadableImageError: a picture cannot be read.
        DataError: nothing to find, or the sentence is too long.
    """
    names = _output_names(pictures)
    drawings = [
        picture_folder
        and picture_folder / (path.name if keep_names and _can_be_written(path) else f"{name}.png")
        for path, name in zip(pictures, names, strict=True)
    ]
    records = [record_folder and record_folder / f"{name}.json" for name in names]
    _refuse_to_overwrite(pictures, [path for path in (*drawings, *records) if path is not None])
    for folder in (picture_folder, record_folder):
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
    for path, drawing, record in zip(pictures, drawings, records, strict=True):
        try:
            image = read_upright_rgb(path, str(path))
        except (FileNotFoundError, UnreadableImageError) as error:
            if unreadable is None:
                raise
            logger.error("passed over: %s", error)
            unreadable.append(path)
            continue
        bgr = np.asarray(image)[:, :, ::-1]
        found = predictor.compute_prediction(bgr, caption, custom_entity)
        shown = found[found.get_field("scores") > threshold]
        content = _content(predictor, found, caption)
        if record is not None:
            text = json.dumps(content, indent=1)
            write_atomically(record, lambda file, text=text: file.write(text.encode()))
        if drawing is not None:
            _save_drawing(_draw(predictor, image, shown), drawing)
        yield Written(path, drawing, record, len(shown), content)


def report_unreadable(pictures: Sequence[Path]) -> int:
    """Name the pictures that could not be read on the error stream; exit status of the command."""
    if not pictures:
        return 0
    names = ", ".join(path.name for path in pictures)
    print(f"error: {len(pictures)} picture(s) could not be read: {names}", file=sys.stderr)
    return FAILED


def _output_names(pictures: Sequence[Path]) -> list[str]:
    """What the files of each picture are called, without suffix."""
    counts = Counter(path.stem for path in pictures)
    # Two pictures of one folder may differ in their suffix only.
    return [path.stem if counts[path.stem] == 1 else path.name for path in pictures]


def _format_of(path: Path) -> str:
    """Pillow's name of the format that the suffix stands for; empty where there is none."""
    return Image.registered_extensions().get(path.suffix.lower(), "")


def _can_be_written(path: Path) -> bool:
    return _format_of(path) in Image.SAVE


def _save_drawing(drawn: Image.Image, path: Path) -> None:
    file_format = _format_of(path)
    # Pillow's default of 75 blurs the thin lines of boxes.
    options = {"quality": 95} if file_format in ("JPEG", "WEBP") else {}
    write_atomically(path, lambda file: drawn.save(file, file_format, **options))


def _refuse_to_overwrite(pictures: Sequence[Path], targets: Sequence[Path]) -> None:
    sources = {path.resolve() for path in pictures}
    for target in targets:
        if target.resolve() in sources:
            raise ConfigError(
                f"{target} is one of the pictures and would be overwritten: name another folder "
                "for the output"
            )


def _content(predictor: GLIPDemo, found: BoxList, caption: Caption) -> dict[str, Any]:
    labels = found.get_field("labels").tolist()
    return {
        "caption": caption if isinstance(caption, str) else list(caption),
        "entities": list(predictor.entities),
        "width": found.size[0],
        "height": found.size[1],
        "labels": [label - 1 for label in labels],
        "label_names": [predictor.entity_name(label) for label in labels],
        "scores": [round(s, 6) for s in found.get_field("scores").tolist()],
        "bboxes": [[round(v, 3) for v in box] for box in found.convert("xyxy").bbox.tolist()],
    }


def _draw(predictor: GLIPDemo, image: Image.Image, shown: BoxList) -> Image.Image:
    labels = shown.get_field("labels").tolist()
    scores = shown.get_field("scores").tolist()
    canvas, boxes = enlarge_small(image, shown.convert("xyxy").bbox.tolist())
    names = [f"{predictor.entity_name(n)} {s:.2f}" for n, s in zip(labels, scores, strict=True)]
    return draw_detections(canvas, boxes, names, [label_colour(n) for n in labels])
