"""The Python API behind the demo: type a sentence, get boxes and a picture."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from PIL import Image
from yacs.config import CfgNode

from maskrcnn_benchmark.data.transforms import Compose, Resize, ToTensor, build_normalize
from maskrcnn_benchmark.grounding import (
    CaptionRequest,
    Query,
    RandomSource,
    build_queries,
    read_request,
    request_query,
    token_count,
)
from maskrcnn_benchmark.modeling.detector import build_detection_model
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.boxlist_ops import cat_boxlist
from maskrcnn_benchmark.structures.image_list import to_image_list
from maskrcnn_benchmark.utils.checkpoint import DetectronCheckpointer
from maskrcnn_benchmark.utils.visualisation import draw_detections, label_colour

from .class_sentences import refuse_class_sentences
from .device import choose_device

logger = logging.getLogger(__name__)

Caption = str | Sequence[str]

# Unlike in evaluation the longer side is bounded by the shorter one only: what is asked for is one
# picture, and only strips would need memory without end.
_LONGEST_STRIP = 8
_CACHED_TEXTS = 32


class GLIPDemo:
    """Finds in a picture what a sentence, or a list of names, asks for.

    Pictures are uint8 arrays (height, width, 3) in blue, green, red order, as OpenCV reads them.
    Labels of the returned boxes count the entities from 1; ``entities`` names them in order.

    Args:
        cfg: configuration; a copy is kept.
        confidence_threshold: boxes need a higher score to be shown. A list of several gives one per
            entity and then wins over the ``thresh`` arguments below.
        min_image_size: shorter side in pixels that pictures are resized to; None takes
            ``INPUT.MIN_SIZE_TEST``.
        show_mask_heatmaps, masks_per_dim: accepted for calls written for the original; there is no
            mask head, so asking for heat maps is an error.
        load_model: build the model and load ``MODEL.WEIGHT``. Without, set ``model`` and
            ``tokenizer`` yourself, or only draw given predictions.

    Raises:
        ValueError: mask heat maps are asked for.
        ConfigError: the shorter side is not positive, or there is no such device.
        FileNotFoundError, CheckpointError: the weights are not there or belong to another model.
    """

    def __init__(
        self,
        cfg: CfgNode,
        confidence_threshold: float | Sequence[float] = 0.7,
        min_image_size: int | None = None,
        show_mask_heatmaps: bool = False,
        masks_per_dim: int = 5,
        load_model: bool = True,
    ) -> None:
        if show_mask_heatmaps:
            raise ValueError("show_mask_heatmaps: there is no mask head, only boxes can be shown")
        refuse_class_sentences(cfg, "pictures with a caption")
        self.cfg = cfg.clone()
        self.confidence_threshold = confidence_threshold
        self.device = choose_device(cfg.MODEL.DEVICE)
        self.entities: list[str] = []
        shorter_side = cfg.INPUT.MIN_SIZE_TEST if min_image_size is None else min_image_size
        self.transforms = Compose(
            [
                Resize(shorter_side, _LONGEST_STRIP * shorter_side),
                ToTensor(),
                build_normalize(cfg),
            ]
        )
        self._text_cache: OrderedDict[str, object] = OrderedDict()
        self.model = None
        self.tokenizer = None
        if load_model:
            self.model = build_detection_model(self.cfg).to(self.device).eval()
            self.tokenizer = self.model.tokenizer
            DetectronCheckpointer(self.cfg, self.model, save_dir="").load(partial=False)

    def run_ner(self, caption: str) -> list[tuple[int, int]]:
        """Character spans [begin, end) of the caption's noun phrases; ``entities`` names them."""
        request = read_request(caption)
        self.entities = request.names
        return [(entity.start, entity.end) for entity in request.entities]

    def compute_prediction(
        self,
        image: np.ndarray,
        caption: Caption,
        custom_entity: Sequence[Mapping] | None = None,
    ) -> BoxList:
        """All boxes that the model finds, best first, in pixels of the picture.

        Args:
            image: uint8 (height, width, 3), blue, green, red.
            caption: a sentence, whose noun phrases are looked for, or a list of names of any length.
            custom_entity: for a sentence, what to look for instead: items
                ``{"char_bounds": [begin, end]}`` or ``{"span": "words of the sentence"}``.

        Raises:
            ValueError: no picture, nothing asked for, or a sentence longer than the text encoder takes.
        """
        request = read_request(caption, custom_entity)
        self.entities = request.names
        return self._detect(_as_rgb(image), self._queries(caption, request))

    def inference(self, image: np.ndarray, caption: Caption) -> BoxList:
        """`compute_prediction`, cut at the constructor's threshold."""
        return self._select(self.compute_prediction(image, caption), None)

    def run_on_web_image(
        self,
        image: np.ndarray,
        caption: Caption,
        thresh: float = 0.5,
        custom_entity: Sequence[Mapping] | None = None,
        alpha: float = 1.0,
    ) -> tuple[np.ndarray, BoxList]:
        """Detect and draw.

        Returns:
            The drawn picture (a copy, same size and channel order) and the boxes above ``thresh``.
        """
        predictions = self.compute_prediction(image, caption, custom_entity)
        return self.visualize_with_predictions(image, predictions, thresh, alpha)

    def visualize_with_predictions(
        self,
        image: np.ndarray,
        predictions: BoxList,
        thresh: float = 0.5,
        alpha: float = 1.0,
        box_pixel: int | None = None,
        text_size: float = 1.0,
        text_pixel: int = 2,
        text_offset: int = 10,
        text_offset_original: int = 4,
        color: int | None = None,
    ) -> tuple[np.ndarray, BoxList]:
        """Draw the boxes above ``thresh`` with name and score.

        Args:
            image: uint8 (height, width, 3), blue, green, red.
            predictions: boxes with ``scores`` and ``labels`` in pixels of the picture.
            thresh: boxes need a higher score.
            alpha: 1 draws opaque, 0 draws nothing.
            box_pixel: width of the lines; None follows the picture's size.
            text_size: factor on the size of the letters.
            text_pixel, text_offset, text_offset_original: accepted for calls written for the
                original; labels find a free place by themselves.
            color: grey level 0 to 255 for all boxes; None gives every label its own colour.

        Returns:
            The drawn picture and the boxes that were drawn.
        """
        shown = self._select(predictions, thresh)
        labels = shown.get_field("labels").tolist()
        scores = shown.get_field("scores").tolist()
        colours = [label_colour(n) if color is None else (color,) * 3 for n in labels]
        captions = [f"{self.entity_name(n)}:{s:.2f}" for n, s in zip(labels, scores, strict=True)]
        drawn = draw_detections(
            Image.fromarray(_as_rgb(image)),
            shown.convert("xyxy").bbox.tolist(),
            captions,
            colours,
            line_width=box_pixel,
            text_scale=text_size,
            alpha=alpha,
        )
        return np.asarray(drawn)[:, :, ::-1].copy(), shown

    def entity_name(self, label: int) -> str:
        """Name of a label for display; ``object`` where the label names nothing that was asked for."""
        if not 1 <= label <= len(self.entities):
            return "object"
        return self.entities[label - 1].replace("_", " ").replace("(", "").replace(")", "")

    def _select(self, predictions: BoxList, thresh: float | None) -> BoxList:
        """Boxes above their threshold, best first."""
        scores, labels = predictions.get_field("scores"), predictions.get_field("labels")
        own = self.confidence_threshold
        if isinstance(own, Sequence) and len(own) > 1:
            if len(labels) and int(labels.max()) > len(own):
                raise ValueError(
                    f"confidence_threshold has {len(own)} values, but label {int(labels.max())} was found"
                )
            threshold = torch.tensor(own, dtype=scores.dtype)[labels.cpu() - 1].to(scores.device)
        elif thresh is not None:
            threshold = torch.full_like(scores, thresh)
        else:
            threshold = torch.full_like(scores, own[0] if isinstance(own, Sequence) else own)
        kept = torch.nonzero(scores > threshold).flatten()
        return predictions[kept[scores[kept].argsort(descending=True, stable=True)]]

    def _queries(self, caption: Caption, request: CaptionRequest) -> list[Query]:
        """One query, or several where a list of names is too long for the text encoder."""
        limit = self.cfg.MODEL.LANGUAGE_BACKBONE.MAX_QUERY_LEN
        if isinstance(caption, str) or token_count(request.caption, self.tokenizer) <= limit:
            return [request_query(request, self.tokenizer, limit)]
        names = dict(enumerate(request.names, start=1))
        return build_queries(names, self.tokenizer, separation_tokens=" . ", max_tokens=limit)

    @torch.no_grad()
    def _detect(self, image: np.ndarray, queries: Sequence[Query]) -> BoxList:
        height, width = image.shape[:2]
        pixels, _ = self.transforms(Image.fromarray(image), None, RandomSource())
        if max(height, width) > _LONGEST_STRIP * min(height, width):
            logger.warning(
                "the picture of %d x %d pixels is a long strip: it is looked at in %d x %d pixels",
                *(width, height, pixels.shape[2], pixels.shape[1]),
            )
        images = to_image_list([pixels], self.cfg.DATALOADER.SIZE_DIVISIBILITY).to(self.device)
        features = self.model.encode_images(images)
        found = [
            self.model.detect(images, features, self._text(query.caption), query.label_to_tokens)[0]
            for query in queries
        ]
        boxes = cat_boxlist(found).to("cpu").resize((width, height)).clip_to_image(False)
        return boxes[boxes.get_field("scores").argsort(descending=True, stable=True)]

    def _text(self, caption: str):
        """Text features of a caption, kept for the sentences asked last."""
        if caption not in self._text_cache:
            self._text_cache[caption] = self.model.encode_text([caption])
            if len(self._text_cache) > _CACHED_TEXTS:
                self._text_cache.popitem(last=False)
        self._text_cache.move_to_end(caption)
        return self._text_cache[caption]


def _as_rgb(image: np.ndarray) -> np.ndarray:
    """Check a picture and turn its channels into red, green, blue."""
    if not isinstance(image, np.ndarray) or image.ndim != 3 or image.shape[2] != 3:
        shape = getattr(image, "shape", type(image).__name__)
        raise ValueError(f"a picture is an array (height, width, 3), not {shape}")
    if image.dtype != np.uint8:
        raise ValueError(f"a picture holds uint8 values, not {image.dtype}")
    if 0 in image.shape:
        raise ValueError(f"the picture is empty: {image.shape}")
    return np.ascontiguousarray(image[:, :, ::-1])
