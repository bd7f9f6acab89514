"""Phrase grounding on Flickr30k Entities: recall at 1, 5, 10 and of all boxes."""

from __future__ import annotations

import json
import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from maskrcnn_benchmark.evaluation.base import (
    DatasetEvaluator,
    EvaluationError,
    Scores,
    to_arrays,
)
from maskrcnn_benchmark.evaluation.detections import Detections, ImageDetections
from maskrcnn_benchmark.evaluation.files import (
    write_metric_lines,
    write_predictions,
    write_text,
)
from maskrcnn_benchmark.evaluation.flickr_entities import GroundedSentences, load_entities
from maskrcnn_benchmark.evaluation.overlap import iou
from maskrcnn_benchmark.structures.bounding_box import BoxList

logger = logging.getLogger(__name__)

IOU_THRESHOLD = 0.5
# How many boxes of a phrase are looked at; None: all of them.
CUTS = {"Recall@1": 1, "Recall@5": 5, "Recall@10": 10, "Upper_bound": None}
NO_BOX = (0.0, 0.0, 0.0, 0.0)
SHOWN = 5

Sentence = tuple[int, int]
RankedBoxes = Sequence[Sequence[Sequence[float]]]


@dataclass(frozen=True)
class CaptionItem:
    """One caption of the dataset: an image entry of the grounding annotations.

    Attributes:
        original_img_id: id of the photo.
        sentence_id: number of its caption.
        size: (width, height) of the photo.
        num_phrases: phrases that the model was asked for, None where that is not known.
    """

    original_img_id: int
    sentence_id: int
    size: tuple[int, int]
    num_phrases: int | None = None

    @property
    def sentence(self) -> Sentence:
        """What the phrases and boxes of Flickr30k Entities are found by."""
        return self.original_img_id, self.sentence_id


class FlickrEvaluator(DatasetEvaluator):
    """Recall of phrases; a phrase is hit when a box reaches IoU 0.5 with one of its boxes.

    Predictions are keyed by the id of the caption's entry in the grounding annotations; the label
    of a box is the number of its phrase among those with a box, from 1.

    Files: ``bbox.csv``, ``flickr_results.json``, ``predictions.pth``, ``metrics.json``.

    Args:
        sentences: what :func:`load_entities` gives.
        items: caption id to :class:`CaptionItem`.
        output_folder, only_predicted: see :class:`DatasetEvaluator`; without ``only_predicted``
            a caption without prediction is an error.
    Raises:
        EvaluationError: an item asks for another number of phrases than the entities have.
    """

    kind = "flickr"
    primary = "Recall@1_all"

    def __init__(
        self,
        sentences: GroundedSentences,
        items: Mapping[int, CaptionItem],
        *,
        output_folder: str | Path | None = None,
        only_predicted: bool = False,
    ) -> None:
        super().__init__(output_folder, only_predicted=only_predicted)
        self.sentences = sentences
        self.items = items
        for item in items.values():
            known = sentences.get(item.sentence)
            if known is not None and item.num_phrases not in (None, len(known)):
                raise EvaluationError(
                    f"caption {item.sentence_id} of image {item.original_img_id} is asked for "
                    f"{item.num_phrases} phrases, Flickr30k Entities has boxes for {len(known)}"
                )

    @classmethod
    def from_folder(
        cls,
        folder: str | Path,
        split: str,
        items: Mapping[int, CaptionItem],
        *,
        merge_boxes: bool = False,
        output_folder: str | Path | None = None,
        only_predicted: bool = False,
    ) -> FlickrEvaluator:
        """With the ground truth of a folder of Flickr30k Entities, see :func:`load_entities`."""
        sentences = load_entities(folder, split, merge_boxes=merge_boxes)
        return cls(sentences, items, output_folder=output_folder, only_predicted=only_predicted)

    def _convert(self, image_id: int, boxes: BoxList) -> ImageDetections:
        item = self.items.get(image_id)
        if item is None:
            raise EvaluationError(f"predictions name caption {image_id}, which the dataset lacks")
        found = to_arrays(boxes, item.size)
        phrases = self.sentences.get(item.sentence, ())
        beyond = found.labels[(found.labels < 1) | (found.labels > len(phrases))]
        if len(beyond) and item.sentence in self.sentences:
            raise EvaluationError(
                f"a box of caption {item.sentence_id} of image {item.original_img_id} is for "
                f"phrase {beyond[0]}; the caption has {len(phrases)} phrases with boxes"
            )
        return found

    def ranked_boxes(self, detections: Detections) -> dict[Sentence, list[list[list[float]]]]:
        """Boxes of every phrase of every predicted caption that has phrases, best first.

        Each list is closed by a box of zeros, as in the files of the original.
        """
        ranked = {}
        for image_id, found in detections.image_rows():
            sentence = self.items[image_id].sentence
            if sentence not in self.sentences:
                continue
            order = np.argsort(-found.scores, kind="stable")
            boxes, labels = found.boxes[order], found.labels[order]
            ranked[sentence] = [
                [*boxes[labels == number].tolist(), list(NO_BOX)]
                for number in range(1, len(self.sentences[sentence]) + 1)
            ]
        return ranked

    def _write_predictions(self, detections: Detections) -> None:
        form = "x1, y1, x2, y2 in pixels of the photo; keys are caption ids, labels phrases from 1"
        write_predictions(self.output_folder / "predictions.pth", detections, form)
        rows = [
            {"image_id": image_id, "sentence_id": sentence_id, "boxes": boxes}
            for (image_id, sentence_id), boxes in self.ranked_boxes(detections).items()
        ]
        write_text(self.output_folder / "flickr_results.json", json.dumps(rows) + "\n")

    def _score(self, detections: Detections) -> Scores:
        scores = phrase_recall(
            self.sentences, self.ranked_boxes(detections), only_predicted=self.only_predicted
        )
        if self.output_folder is not None:
            write_metric_lines(
                self.output_folder / "bbox.csv",
                (f"{name}, {value} " for name, value in scores.metrics.items()),
            )
        return scores


def phrase_recall(
    sentences: GroundedSentences,
    predictions: Mapping[Sentence, RankedBoxes],
    *,
    only_predicted: bool = False,
) -> Scores:
    """Recall in total and by phrase type; a phrase counts once for each of its types.

    Args:
        sentences: ground truth.
        predictions: (image id, sentence id) to one list of boxes x1, y1, x2, y2 per phrase that
            has a box, phrases in caption order, boxes best first.
        only_predicted: leave out sentences without prediction instead of refusing.
    Returns:
        metrics ``Recall@1_all`` ... ``Upper_bound_vehicles``, fractions of 1.
    Raises:
        EvaluationError: sentences are missing or have a wrong number of phrases.
    """
    missing = [sentence for sentence in sentences if sentence not in predictions]
    if missing and not only_predicted:
        raise EvaluationError(
            f"{len(missing)} of {len(sentences)} sentences have no prediction (first, as image id "
            f"and sentence id: {missing[:SHOWN]})"
        )
    unexpected = [sentence for sentence in predictions if sentence not in sentences]
    if unexpected:
        logger.warning(
            "%d predicted sentences have no phrase with a box and are left out (first: %s)",
            len(unexpected),
            unexpected[:SHOWN],
        )
    hits: dict[str, dict[str, int]] = {name: defaultdict(int) for name in CUTS}
    totals: dict[str, int] = defaultdict(int)
    for sentence, phrases in sentences.items():
        if sentence not in predictions:
            continue
        if len(predictions[sentence]) != len(phrases):
            raise EvaluationError(
                f"sentence {sentence[1]} of image {sentence[0]} has {len(phrases)} phrases with "
                f"boxes, the prediction has {len(predictions[sentence])} lists of boxes"
            )
        for phrase, boxes in zip(phrases, predictions[sentence]):
            groups = ("all", *phrase.phrase.types)
            rank = _first_hit(np.asarray(boxes, np.float64).reshape(-1, 4), phrase.boxes)
            for group in groups:
                totals[group] += 1
                for name, cut in CUTS.items():
                    hits[name][group] += rank is not None and (cut is None or rank < cut)
    metrics = {
        f"{name}_{group}": hits[name][group] / totals[group]
        for name in CUTS
        for group in sorted(totals)
    }
    return Scores(metrics, _table(metrics, sorted(totals)))


def read_predictions(rows: Iterable[Mapping[str, Any]]) -> dict[Sentence, RankedBoxes]:
    """Predictions of a result file by sentence; one that comes again is left out with a warning.

    Args:
        rows: ``{"image_id", "sentence_id", "boxes"}`` each.
    Raises:
        EvaluationError: an entry lacks a field.
    """
    predictions: dict[Sentence, RankedBoxes] = {}
    repeated = 0
    for number, row in enumerate(rows):
        try:
            sentence = int(row["image_id"]), int(row["sentence_id"])
            boxes = row["boxes"]
        except (KeyError, TypeError, ValueError) as error:
            raise EvaluationError(
                f"entry {number} needs image_id, sentence_id and boxes: {error!r}"
            ) from error
        repeated += sentence in predictions
        predictions.setdefault(sentence, boxes)
    if repeated:
        logger.warning("%d predictions repeat a sentence and are left out", repeated)
    return predictions


def _first_hit(ranked: np.ndarray, targets: np.ndarray) -> int | None:
    """Rank of the first box that overlaps one of the targets enough, None if there is none."""
    hit = (iou(ranked, targets) >= IOU_THRESHOLD).any(axis=1)
    return int(hit.argmax()) if hit.any() else None


def _table(metrics: Mapping[str, float], groups: Sequence[str]) -> str:
    widths = [max(len(group), 6) for group in groups]
    lines = [" ".join([f"{'':<12}", *(f"{g:>{w}}" for g, w in zip(groups, widths))])]
    for name in CUTS:
        cells = (f"{metrics[f'{name}_{g}']:>{w}.4f}" for g, w in zip(groups, widths))
        lines.append(" ".join([f"{name:<12}", *cells]))
    return "\n".join(lines)
