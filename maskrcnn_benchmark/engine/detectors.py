"""From a batch of a test set to detections, computing nothing twice."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from maskrcnn_benchmark.data.collate import Batch
from maskrcnn_benchmark.errors import ConfigError
from maskrcnn_benchmark.grounding import Query, build_queries, label_to_tokens_from_positive_map
from maskrcnn_benchmark.modeling.detector import GeneralizedVLRCNN
from maskrcnn_benchmark.modeling.language_backbone.text_features import TextFeatures, join_captions
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.boxlist_ops import cat_boxlist
from maskrcnn_benchmark.structures.image_list import ImageList

from .batches import groups_of_equal_padding

Detector = Callable[[Batch], list[BoxList]]

_CPU = torch.device("cpu")


class ImageDetector(Protocol):
    """What finds boxes in normalised images, whoever resized them."""

    def detect(self, images: ImageList, targets: Sequence[BoxList]) -> list[BoxList]:
        """Detections of every image on the CPU, in pixels of the (unpadded) input."""


@dataclass(frozen=True)
class EncodedQuery:
    """Text that asks for classes, as the model reads it.

    Attributes:
        text: features of one sentence.
        label_to_tokens: label -> positions of its tokens.
    """

    text: TextFeatures
    label_to_tokens: dict[int, list[int]]


@dataclass(frozen=True)
class _PlacedQuery(EncodedQuery):
    place: int


class ClassDetector:
    """Looks for a list of classes in every image.

    A caption is encoded once, on construction; the image once, whatever the number of queries.
    Several queries go through the head at once. Detections of all queries are joined without a
    further suppression.

    Args:
        model: in evaluation mode.
        queries: captions of class names, or what is encoded already.
        size_divisible: multiple to which a lone image is padded.
        pairs_at_once: pairs of image and query in the head at a time; more only where there are
            more images. Bounds the memory, changes no detection. 0: one on a CPU, whose caches do
            not hold the maps of several, eight elsewhere.

    Raises:
        ConfigError: for a negative number of pairs.
    """

    def __init__(
        self,
        model: GeneralizedVLRCNN,
        queries: Sequence[Query | EncodedQuery],
        size_divisible: int,
        pairs_at_once: int = 0,
    ) -> None:
        if pairs_at_once < 0:
            raise ConfigError(f"TEST.CHUNKS_PER_FORWARD must not be negative, got {pairs_at_once}")
        self.model = model
        self.size_divisible = size_divisible
        self.pairs_at_once = pairs_at_once or (1 if model.device.type == "cpu" else 8)
        encoded = [
            _PlacedQuery(_encode(model, query), query.label_to_tokens, place)
            for place, query in enumerate(queries)
        ]
        # Those that share a forward pass are padded to the longest: neighbours in length do.
        self.queries = sorted(encoded, key=lambda query: query.text.masks.shape[1])

    def __call__(self, batch: Batch) -> list[BoxList]:
        """Detections of every image on the CPU, in the order of the batch."""
        return self.detect(batch.images, batch.targets)

    def detect(self, images: ImageList, targets: Sequence[BoxList]) -> list[BoxList]:
        """Detections of every image on the CPU; the targets are not read."""
        found: dict[int, BoxList] = {}
        for places, group in groups_of_equal_padding(images, self.size_divisible):
            features = self.model.encode_images(group)
            count = max(1, self.pairs_at_once // len(group))
            per_query: list[list[BoxList]] = [[]] * len(self.queries)
            for begin in range(0, len(self.queries), count):
                queries = self.queries[begin : begin + count]
                for query, boxes in zip(queries, self._look_for(queries, group, features)):
                    per_query[query.place] = boxes
            for place, parts in zip(places, zip(*per_query)):
                found[place] = cat_boxlist([part.to(_CPU) for part in parts])
        return [found[place] for place in range(len(images))]

    def _look_for(
        self, queries: Sequence[_PlacedQuery], images: ImageList, features: Sequence[torch.Tensor]
    ) -> list[list[BoxList]]:
        """Detections by query and image, in one forward pass of all pairs."""
        number = len(images)
        text = join_captions([query.text for query in queries for _ in range(number)])
        boxes = self.model.detect(
            ImageList(images.tensors, images.image_sizes * len(queries)),
            [torch.cat([level] * len(queries)) for level in features],
            text,
            [query.label_to_tokens for query in queries for _ in range(number)],
        )
        return [boxes[begin : begin + number] for begin in range(0, len(boxes), number)]


def _encode(model: GeneralizedVLRCNN, query: Query | EncodedQuery) -> TextFeatures:
    return query.text if isinstance(query, EncodedQuery) else model.encode_text([query.caption])


class CaptionDetector:
    """Looks in every image for the phrases of its own caption.

    The label of a box is the number of its phrase, from 1: the row of ``positive_map_eval`` (of
    ``positive_map``, where the dataset has no phrases apart from its boxes).

    Args:
        model: in evaluation mode.
        size_divisible: multiple to which a lone image is padded.
        pictures: number of the picture that each sample shows; samples of one picture that are in
            one batch, or in the next, share its features. None: every sample has its own.
    """

    def __init__(
        self,
        model: GeneralizedVLRCNN,
        size_divisible: int,
        pictures: Sequence[int] | None = None,
    ) -> None:
        self.model = model
        self.size_divisible = size_divisible
        self.pictures = pictures
        self._kept: dict[int, list[torch.Tensor]] = {}

    def __call__(self, batch: Batch) -> list[BoxList]:
        """Detections of every image on the CPU, in the order of the batch."""
        if self.pictures is None:
            return self.detect(batch.images, batch.targets)
        shown = [int(self.pictures[index]) for index in batch.ids]
        found = self._search(batch.images, batch.targets, shown)
        self._kept = {picture: self._kept[picture] for picture in shown}
        return found

    def detect(self, images: ImageList, targets: Sequence[BoxList]) -> list[BoxList]:
        """Detections of every image on the CPU; its target has the caption and the phrases."""
        self._kept = {}
        return self._search(images, targets, range(len(images)))

    def _search(
        self, images: ImageList, targets: Sequence[BoxList], pictures: Sequence[int]
    ) -> list[BoxList]:
        found: dict[int, BoxList] = {}
        for places, group in groups_of_equal_padding(images, self.size_divisible):
            features = self._features(group, [pictures[place] for place in places])
            for row, place in enumerate(places):
                target = targets[place]
                # Alone, so that the longest caption of a batch does not set the length of the rest.
                (boxes,) = self.model.detect(
                    ImageList(group.tensors[row : row + 1], [group.image_sizes[row]]),
                    features[row],
                    self.model.encode_text([target.get_field("caption")]),
                    label_to_tokens_from_positive_map(_phrase_map(target)),
                )
                found[place] = boxes.to(_CPU)
        return [found[place] for place in range(len(images))]

    def _features(self, images: ImageList, pictures: Sequence[int]) -> list[list[torch.Tensor]]:
        """Pyramid of each image alone; what is not kept yet is computed once per picture."""
        rows = {pic: row for row, pic in enumerate(pictures) if pic not in self._kept}
        if rows:
            chosen = list(rows.values())
            encoded = self.model.encode_images(
                ImageList(images.tensors[chosen], [images.image_sizes[row] for row in chosen])
            )
            for number, picture in enumerate(rows):
                self._kept[picture] = [level[number : number + 1] for level in encoded]
        return [self._kept[picture] for picture in pictures]


def _phrase_map(target: BoxList) -> torch.Tensor:
    name = "positive_map_eval" if target.has_field("positive_map_eval") else "positive_map"
    return target.get_field(name)


def queries_of_dataset(cfg: Any, dataset: Any, tokenizer: Any) -> list[Query]:
    """Captions that name all classes of a detection set, split as configured and as they fit."""
    return build_queries(
        dataset.categories(),
        tokenizer,
        separation_tokens=cfg.DATASETS.SEPARATION_TOKENS,
        chunk_size=cfg.TEST.CHUNKED_EVALUATION,
        caption_prompt=cfg.DATASETS.CAPTION_PROMPT if cfg.DATASETS.USE_CAPTION_PROMPT else None,
        suppress=cfg.DATASETS.SUPRESS_QUERY if cfg.DATASETS.USE_SUPRESS_QUERY else (),
        max_tokens=cfg.MODEL.LANGUAGE_BACKBONE.MAX_QUERY_LEN,
    )
