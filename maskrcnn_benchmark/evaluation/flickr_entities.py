"""Flickr30k Entities: phrases of captions and their boxes, as the release stores them.

Folder layout: ``train.txt``, ``val.txt``, ``test.txt`` with one image id per line,
``Sentences/<id>.txt`` with one caption per line, ``Annotations/<id>.xml`` with the boxes.
Plummer et al., "Flickr30k Entities", IJCV 123(1), 2017.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from maskrcnn_benchmark.evaluation.ground_truth import AnnotationError
from maskrcnn_benchmark.utils.box_values import is_box
from maskrcnn_benchmark.utils.json_files import list_of_entries, read_json

SPLITS = ("train", "val", "test")
# "[/EN#2/animals two dogs]": id 2, types animals, text "two dogs".
_PHRASE = re.compile(r"\[/EN#(?P<id>\d+)/(?P<types>\S+)\s+(?P<text>[^\]]*)\]")


@dataclass(frozen=True)
class Phrase:
    """A marked phrase of a caption.

    Attributes:
        text: its words.
        first_word: place of its first word in the caption without marks.
        entity: id that the boxes carry.
        types: "people", "scene", ...; one or more.
    """

    text: str
    first_word: int
    entity: int
    types: tuple[str, ...]


@dataclass(frozen=True)
class GroundedPhrase:
    """A phrase that has boxes.

    Attributes:
        phrase: the phrase.
        boxes: ``(n, 4)`` float64 corners x1, y1, x2, y2, n at least 1.
    """

    phrase: Phrase
    boxes: np.ndarray


# (image id, number of the sentence in its file) to the phrases with boxes, in caption order.
GroundedSentences = Mapping[tuple[int, int], list[GroundedPhrase]]


def load_entities(folder: str | Path, split: str, *, merge_boxes: bool) -> GroundedSentences:
    """Read the captions and boxes of a split.

    Args:
        folder: as described above.
        split: "train", "val" or "test".
        merge_boxes: replace the boxes of a phrase by the one around them all.
    Returns:
        sentences with at least one phrase that has a box.
    Raises:
        FileNotFoundError: naming the file that is missing.
        AnnotationError: a file is malformed.
    """
    folder = Path(folder)
    sentences: dict[tuple[int, int], list[GroundedPhrase]] = {}
    for image_id in _split_ids(folder, split):
        boxes = read_boxes(_existing(folder / "Annotations" / f"{image_id}.xml"))
        if merge_boxes:
            boxes = {entity: _around(entity_boxes) for entity, entity_boxes in boxes.items()}
        lines = _existing(folder / "Sentences" / f"{image_id}.txt").read_text("utf-8").split("\n")
        captions = (line for line in lines if line.strip())
        for sentence_id, caption in enumerate(captions):
            grounded = [
                GroundedPhrase(phrase, boxes[phrase.entity])
                for phrase in parse_sentence(caption)
                if phrase.entity in boxes
            ]
            if grounded:
                sentences[image_id, sentence_id] = grounded
    return sentences


def sentences_of_annotations(path: str | Path, *, merge_boxes: bool = False) -> GroundedSentences:
    """Phrases and boxes of an MDETR-style annotation file itself, for sets of one's own.

    A box belongs to every phrase of the image entry whose spans in ``tokens_positive_eval`` are
    among its ``tokens_positive``: where two phrases mean one object, the files list it once.

    Raises:
        FileNotFoundError: the file is not there.
        AnnotationError: it is no JSON, an entry is malformed, or a phrase has no box.
    """
    data = read_json(path, error=AnnotationError)
    boxes_of_entry: dict[int, list[_BoxOfSpans]] = defaultdict(list)
    for number, row in enumerate(list_of_entries(data, "annotations", str(path), AnnotationError)):
        try:
            boxes_of_entry[row["image_id"]].append(_box_of_spans(row))
        except (KeyError, TypeError, ValueError) as problem:
            raise AnnotationError(
                f"{path}: annotation {row.get('id', number)!r} needs an image_id, a bbox "
                f"[x, y, width, height] and spans in tokens_positive: {problem!r}"
            ) from problem
    sentences: dict[tuple[int, int], list[GroundedPhrase]] = {}
    for number, entry in enumerate(list_of_entries(data, "images", str(path), AnnotationError)):
        try:
            phrases = list(_phrases(entry, boxes_of_entry[entry["id"]]))
            key = (int(entry["original_img_id"]), int(entry["sentence_id"])) if phrases else None
        except (KeyError, TypeError, ValueError, IndexError) as problem:
            raise AnnotationError(
                f"{path}: image {entry.get('id', number)!r} needs an id, a caption, "
                "original_img_id, sentence_id and lists of spans in tokens_positive_eval: "
                f"{problem!r}"
            ) from problem
        unboxed = [grounded.phrase.text for grounded in phrases if not len(grounded.boxes)]
        if unboxed:
            raise AnnotationError(
                f"{path}: no box of entry {entry['id']} has the tokens_positive of {unboxed[0]!r}, "
                "which its tokens_positive_eval asks for"
            )
        if merge_boxes:
            phrases = [replace(grounded, boxes=_around(grounded.boxes)) for grounded in phrases]
        if key is not None:
            sentences[key] = phrases
    return sentences


# Spans of a caption, and the corners of a box that they mean.
_BoxOfSpans = tuple[set[tuple[int, int]], list[float]]


def _box_of_spans(row: Mapping[str, Any]) -> _BoxOfSpans:
    if not is_box(row["bbox"]):
        raise ValueError(f"bbox is {row['bbox']!r}")
    x, y, width, height = row["bbox"]
    spans = {(begin, end) for begin, end in row.get("tokens_positive") or ()}
    return spans, [x, y, x + width, y + height]


def _phrases(entry: Mapping[str, Any], known: Sequence[_BoxOfSpans]) -> Iterator[GroundedPhrase]:
    """The phrases that an image entry asks for, some perhaps without box."""
    for number, spans in enumerate(entry.get("tokens_positive_eval") or ()):
        wanted = {(begin, end) for begin, end in spans}
        boxes = np.array([box for of_box, box in known if wanted <= of_box], np.float64)
        text = " ".join(entry["caption"][begin:end] for begin, end in spans)
        words_before = len(entry["caption"][: spans[0][0]].split())
        yield GroundedPhrase(Phrase(text, words_before, number, ()), boxes)


def split_of(folder: str | Path, image_ids: Set[int]) -> str:
    """The split that has some images.

    Raises:
        FileNotFoundError: the folder has no list of a split.
        AnnotationError: no split has any of the images, or several have.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder; Flickr30k Entities needs one")
    present = [split for split in SPLITS if (folder / f"{split}.txt").is_file()]
    if not present:
        raise FileNotFoundError(f"{folder} has none of {', '.join(f'{s}.txt' for s in SPLITS)}")
    matching = [split for split in present if not image_ids.isdisjoint(_split_ids(folder, split))]
    if len(matching) != 1:
        raise AnnotationError(
            f"the predicted images lie in {' and '.join(matching) or 'none'} of the splits "
            f"{', '.join(present)} of {folder}; name one"
        )
    return matching[0]


def parse_sentence(line: str) -> list[Phrase]:
    """The marked phrases of one caption, in order."""
    phrases = []
    words_before, end = 0, 0
    for match in _PHRASE.finditer(line):
        words_before += len(line[end : match.start()].split())
        text = match["text"].strip()
        phrases.append(
            Phrase(text, words_before, int(match["id"]), tuple(match["types"].split("/")))
        )
        words_before += len(text.split())
        end = match.end()
    return phrases


def read_boxes(path: Path) -> dict[int, np.ndarray]:
    """Boxes of every entity of an image, ``(n, 4)`` float64 corners in file order.

    Raises:
        AnnotationError: the file is no XML or a box lacks a corner.
    """
    boxes: dict[int, list[list[float]]] = defaultdict(list)
    try:
        for entry in ElementTree.parse(path).getroot().findall("object"):
            entities = [int(name.text) for name in entry.findall("name")]
            for corners in entry.findall("bndbox"):
                box = [float(corners.findtext(c)) for c in ("xmin", "ymin", "xmax", "ymax")]
                for entity in entities:
                    boxes[entity].append(box)
    except (ElementTree.ParseError, TypeError, ValueError) as error:
        raise AnnotationError(f"{path} is not a Flickr30k Entities annotation: {error}") from error
    return {entity: np.array(rows) for entity, rows in boxes.items()}


def _split_ids(folder: Path, split: str) -> list[int]:
    path = _existing(folder / f"{split}.txt")
    try:
        return [int(line) for line in path.read_text().split()]
    except ValueError as error:
        raise AnnotationError(f"{path} must hold one image id per line: {error}") from error


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist; the folder of Flickr30k Entities needs <split>.txt, "
            "Annotations/<id>.xml and Sentences/<id>.txt (DATASETS.FLICKR_ENTITIES_DIR)"
        )
    return path


def _around(boxes: np.ndarray) -> np.ndarray:
    return np.concatenate([boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)])[None]
