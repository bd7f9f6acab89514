"""Boxes for image-text pairs, found by a teacher: the data of self-training (section 3.3 of the
GLIP paper).

The noun phrases of a caption are looked for in its picture, with the whole caption as the query, so
that the words around a phrase help to find what the teacher never learned. Boxes are kept by the
filters that caption data are read with: score (DATASETS.CAPTION_CONF), overlap (CAPTION_NMS) and
number (CAPTION_MIN_BOX).
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader

from maskrcnn_benchmark.config import CfgNode
from maskrcnn_benchmark.data.datasets.caption_pairs import (
    CaptionPair,
    CaptionPairs,
    PairBatch,
    PairCollator,
)
from maskrcnn_benchmark.data.datasets.caption_record import BoxScreen, CaptionRecord
from maskrcnn_benchmark.data.datasets.record_source import RecordSource
from maskrcnn_benchmark.data.fast_pictures import read_pixels
from maskrcnn_benchmark.data.image_files import read_rgb
from maskrcnn_benchmark.data.transforms.build import build_transforms, picture_backend
from maskrcnn_benchmark.modeling.detector import GeneralizedVLRCNN
from maskrcnn_benchmark.structures.bounding_box import BoxList

from .detectors import CaptionDetector
from .inference import inference_dtype
from .stop_request import ignore_stop_signals

logger = logging.getLogger(__name__)

KEPT = "labelled"
TOO_FEW = "too few boxes"


@dataclass(frozen=True)
class LabelRules:
    """Which boxes of the teacher become labels.

    Attributes:
        confidence: boxes must score above.
        nms_overlap: of boxes that overlap more, whatever their phrases, the best stays; 0 or less:
            all stay.
        min_boxes: pairs with fewer boxes are left out.
    """

    confidence: float
    nms_overlap: float
    min_boxes: int

    @classmethod
    def from_config(cls, cfg: CfgNode) -> "LabelRules":
        """DATASETS.CAPTION_CONF, CAPTION_NMS and CAPTION_MIN_BOX."""
        datasets = cfg.DATASETS
        return cls(datasets.CAPTION_CONF, datasets.CAPTION_NMS, datasets.CAPTION_MIN_BOX)

    def facts(self) -> dict[str, float]:
        """The rules as plain values."""
        return asdict(self)


@dataclass(frozen=True)
class Label:
    """Result for one pair.

    Attributes:
        index: number of the sample.
        outcome: `KEPT`, `TOO_FEW`, or the reason of an `UnusablePair`.
        record: the caption record (v2), where it is kept.
        num_phrases, num_boxes: phrases looked for, boxes kept.
        message: what exactly was wrong with an unusable pair.
    """

    index: int
    outcome: str
    record: dict[str, Any] | None = None
    num_phrases: int = 0
    num_boxes: int = 0
    message: str = ""


class PseudoLabeller:
    """Labels samples of a source with what a model finds.

    Args:
        cfg: INPUT (for evaluation), DATALOADER.NUM_WORKERS and SIZE_DIVISIBILITY,
            MODEL.LANGUAGE_BACKBONE.MAX_QUERY_LEN, TEST.PRECISION.
        model: the teacher, in evaluation mode.
        source: image-text pairs.
        rules: which boxes are kept.
        batch_size: pictures per batch.
    """

    def __init__(
        self,
        cfg: CfgNode,
        model: GeneralizedVLRCNN,
        source: RecordSource,
        rules: LabelRules,
        batch_size: int,
    ):
        self.cfg = cfg
        self.dtype = inference_dtype(cfg)
        self.model = model
        self.source = source
        self.rules = rules
        self.batch_size = batch_size
        self._screen = BoxScreen(rules.confidence, rules.nms_overlap)

    def label(
        self, indices: Sequence[int], should_stop: Callable[[], bool] = lambda: False
    ) -> Iterator[Label]:
        """One label per sample; samples of a batch come together, batches in order.

        Args:
            indices: numbers of samples.
            should_stop: asked after every batch.
        """
        device = self.model.device.type
        detector = CaptionDetector(self.model, self.cfg.DATALOADER.SIZE_DIVISIBILITY)
        for group in self._loader(indices):
            with (
                torch.inference_mode(),
                torch.autocast(device, dtype=self.dtype, enabled=self.dtype is not None),
            ):
                found = [] if group.batch is None else detector(group.batch)
            yield from self._labels(group, found)
            if should_stop():
                return

    def _loader(self, indices: Sequence[int]) -> DataLoader:
        cfg = self.cfg
        fast = picture_backend(cfg) == "torchvision"
        pairs = CaptionPairs(
            self.source,
            indices,
            build_transforms(cfg, is_train=False),
            self.model.tokenizer,
            cfg.MODEL.LANGUAGE_BACKBONE.MAX_QUERY_LEN,
            read_picture=read_pixels if fast else read_rgb,
        )
        return DataLoader(
            pairs,
            batch_size=self.batch_size,
            num_workers=cfg.DATALOADER.NUM_WORKERS,
            collate_fn=PairCollator(cfg.DATALOADER.SIZE_DIVISIBILITY),
            pin_memory=self.model.device.type == "cuda",
            worker_init_fn=ignore_stop_signals,
        )

    def _labels(self, group: PairBatch, found: Sequence[BoxList]) -> Iterator[Label]:
        for pair, boxes in zip(group.pairs, found):
            kept = self._screen(_caption_record(pair, boxes))
            if len(kept.boxes) < self.rules.min_boxes:
                yield Label(pair.index, TOO_FEW, num_phrases=len(pair.phrases))
                continue
            record = group_by_phrase(kept)
            yield Label(pair.index, KEPT, record, len(pair.phrases), len(kept.boxes))
        for unusable in group.unusable:
            yield Label(unusable.index, unusable.reason, message=unusable.message)


def _caption_record(pair: CaptionPair, found: BoxList) -> CaptionRecord:
    """Detections of a pair in pixels of its stored picture, one span per box."""
    boxes = found.resize(pair.size).clip_to_image(remove_empty=True)
    phrases = [pair.phrases[label - 1] for label in boxes.get_field("labels").tolist()]
    return CaptionRecord(
        pair.target.get_field("caption"),
        boxes.bbox.float(),
        boxes.get_field("scores").float(),
        [[[phrase.start, phrase.end]] for phrase in phrases],
        pair.size,
    )


def group_by_phrase(record: CaptionRecord) -> dict[str, Any]:
    """The record in the form v2: boxes and scores grouped by phrase, best first."""
    groups: dict[tuple[int, int], list[int]] = {}
    for row in record.scores.argsort(descending=True, stable=True).tolist():
        (begin, end), *_ = record.spans[row]
        groups.setdefault((begin, end), []).append(row)
    boxes, scores = record.boxes.tolist(), record.scores.tolist()
    ordered = sorted(groups)
    return {
        "version": "v2",
        "img_w": record.image_size[0],
        "img_h": record.image_size[1],
        "caption": record.caption,
        "bboxes": [[[round(v, 2) for v in boxes[i]] for i in groups[span]] for span in ordered],
        "scores": [[round(scores[i], 4) for i in groups[span]] for span in ordered],
        "tokens_positive": [[list(span)] for span in ordered],
    }


def count_labels(labels: Sequence[Label]) -> Counter:
    """How often each outcome occurred, and numbers of phrases and boxes."""
    counts: Counter = Counter(label.outcome for label in labels)
    counts["phrases"] = sum(label.num_phrases for label in labels)
    counts["boxes"] = sum(label.num_boxes for label in labels)
    return counts
