"""The detector: images and captions in, boxes tied to words out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from maskrcnn_benchmark.errors import ConfigError
from maskrcnn_benchmark.modeling.language_backbone.masking import mask_tokens
from maskrcnn_benchmark.modeling.language_backbone.text_features import TextFeatures
from maskrcnn_benchmark.modeling.language_backbone.tokenizer import encode_captions
from maskrcnn_benchmark.modeling.language_backbone.untrained import warn_if_untrained
from maskrcnn_benchmark.modeling.rpn.losses import shared_normalizers
from maskrcnn_benchmark.modeling.rpn.vldyhead import PositiveMap, VLDyHeadModule
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.image_list import ImageList, to_image_list

# Parameters of the head that a linear probe trains.
PROBED = (
    "bbox_pred",
    "cls_logits",
    "centerness",
    "cosine_scale",
    "dot_product_projection_text",
    "head.log_scale",
    "head.bias_lang",
    "head.bias0",
)


@dataclass(frozen=True)
class Freezing:
    """What does not train.

    Attributes:
        backbone_body: the visual body, put into evaluation mode too.
        fpn: the feature pyramid, put into evaluation mode too.
        rpn: the dense head, whose tower is put into evaluation mode too.
        language_backbone: the text encoder, put into evaluation mode too.
        linear_probe: of the dense head train the last layers only, also where ``rpn`` is on.
        prompt_offsets: train the learned offsets of the text, also where ``rpn`` is on.
    """

    backbone_body: bool = False
    fpn: bool = False
    rpn: bool = False
    language_backbone: bool = False
    linear_probe: bool = False
    prompt_offsets: bool = False


@dataclass(frozen=True)
class TextOptions:
    """How captions become token features.

    Attributes:
        max_tokens: token slots of a caption, special tokens included; more is cut with a warning.
        trim: run on as many slots as the longest caption of a batch needs instead of all; changes
            no detection and no loss.
        multiple: round the trimmed length up to a multiple of this.
        mask_special: treat the special tokens as padding.
        one_hot_classes: treat the first so many slots, and no others, as real tokens; 0: off.
        mask_for_prediction: corrupt tokens in training, for the head to predict them.
        only_greenlit: corrupt only where the greenlight map of the data allows it.
    """

    max_tokens: int = 256
    trim: bool = True
    multiple: int = 8
    mask_special: bool = False
    one_hot_classes: int = 0
    mask_for_prediction: bool = False
    only_greenlit: bool = True


class GeneralizedVLRCNN(nn.Module):
    """Visual backbone, text encoder and the dense head in which they meet.

    The stages are exposed for callers that reuse their results: ``encode_images``,
    ``encode_text``, ``detect``. ``forward`` composes them. Where image and text meet before the
    head (``FusedVLRCNN``), the first two stop before they do, and ``fuse`` continues from both.

    Args:
        encoders: modules by the names that checkpoints give them. ``backbone`` is a Sequential of
            ``body`` and possibly ``fpn``, images to pyramid maps; ``language_backbone`` maps tokens
            to text features.
        rpn: the dense head.
        tokenizer: a tokenizer of transformers, the one the text encoder was trained with.
        text: how captions become features.
        freezing: what does not train.

    Raises:
        ConfigError: for a linear probe on a backbone that trains.
    """

    def __init__(
        self,
        encoders: Mapping[str, nn.Module],
        rpn: VLDyHeadModule,
        tokenizer: Any,
        *,
        text: TextOptions | None = None,
        freezing: Freezing | None = None,
    ) -> None:
        super().__init__()
        for name, encoder in encoders.items():
            self.add_module(name, encoder)
        self.tokenizer = tokenizer
        self.rpn = rpn
        self.text = text or TextOptions()
        self.freezing = freezing or Freezing()
        self._text_in_use = False
        has_fpn = hasattr(self.backbone, "fpn")
        frozen = self.freezing.backbone_body and (self.freezing.fpn or not has_fpn)
        if self.freezing.linear_probe and not frozen:
            raise ConfigError(
                "a linear probe needs a frozen backbone: set MODEL.BACKBONE.FREEZE"
                + (" and MODEL.FPN.FREEZE" if has_fpn else "")
                + " with MODEL.LINEAR_PROB"
            )
        self.train()

    @property
    def prompt_offsets(self) -> nn.Module | None:
        """What prompt tuning trains, None without."""
        return self.rpn.tunable_linear

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.parameters()).device

    # ---- stages ---------------------------------------------------------------------------------

    def encode_images(self, images: ImageList | Tensor | Sequence[Tensor]) -> Sequence[Tensor]:
        """Pyramid maps ``[B, C, H_l, W_l]``, finest first, of a padded batch of images."""
        return self.backbone(to_image_list(images).pixels().to(self.device))

    def encode_text(
        self, captions: Sequence[str], greenlight_map: Tensor | None = None
    ) -> TextFeatures:
        """Features of captions, on the device of the model.

        In evaluation mode a caption that occurs several times is encoded once. The first call
        warns of a text encoder that no weights were loaded into.

        Args:
            captions: ``B`` sentences.
            greenlight_map: ``[B, max_tokens]``, read where tokens are masked for prediction, see
                ``mask_tokens``.

        Returns:
            Features of ``B`` captions and ``T`` token slots, see ``TextOptions``.
        """
        if not self._text_in_use:
            warn_if_untrained(self.language_backbone)
            self._text_in_use = True
        if not self.training and len(set(captions)) < len(captions):
            return self.encode_distinct(captions)
        tokens = encode_captions(self.tokenizer, captions, self.text.max_tokens)
        input_ids, mlm_labels = tokens["input_ids"], None
        if self.text.mask_for_prediction and self.training:
            input_ids, mlm_labels = mask_tokens(
                input_ids,
                vocabulary=self._vocabulary,
                mask_token_id=self.tokenizer.mask_token_id,
                pad_token_id=self.tokenizer.pad_token_id,
                greenlight_map=greenlight_map if self.text.only_greenlit else None,
            )
        length = self._slots(tokens["attention_mask"])
        device = self.device
        tokenized = {
            "input_ids": input_ids[:, :length].to(device),
            "attention_mask": tokens["attention_mask"][:, :length].to(device),
        }
        text = self.encode_tokens(tokenized)
        if mlm_labels is not None:
            text = text._replace(mlm_labels=mlm_labels[:, :length].to(device))
        if self.text.one_hot_classes:
            slots = torch.arange(length, device=device) < self.text.one_hot_classes
            text = text._replace(masks=slots.to(text.masks.dtype).expand_as(text.masks))
        if self.text.mask_special:
            special = tokens["special_tokens_mask"][:, :length].to(device)
            text = text._replace(masks=1 - special)
        return text

    def encode_distinct(self, captions: Sequence[str]) -> TextFeatures:
        """As ``encode_text``, in training too every caption once however often it occurs.

        Captions that are equal share what is random about the encoding, as its dropout.
        """
        number = {caption: index for index, caption in enumerate(dict.fromkeys(captions))}
        return self.encode_text(list(number)).select([number[caption] for caption in captions])

    def encode_tokens(self, tokens: Mapping[str, Tensor]) -> TextFeatures:
        """Features of ``input_ids`` and ``attention_mask``, each ``[B, T]``."""
        with torch.no_grad() if self.freezing.language_backbone else nullcontext():
            return self.language_backbone(tokens)

    def fuse(
        self, features: Sequence[Tensor], text: TextFeatures
    ) -> tuple[Sequence[Tensor], TextFeatures]:
        """Finish the encoding where image and text need each other for it; here they do not.

        Args:
            features: from ``encode_images``, ``B`` images.
            text: from ``encode_text``, ``B`` captions.

        Returns:
            what the head reads: pyramid maps and text features.
        """
        return features, text

    def detect(
        self,
        images: ImageList,
        features: Sequence[Tensor],
        text: TextFeatures,
        positive_map: PositiveMap | Sequence[PositiveMap] | None,
    ) -> list[BoxList]:
        """Detections from encoded images and text.

        Args:
            images: the batch ``features`` were made from; only the sizes are read.
            features: from ``encode_images``, ``B`` images.
            text: from ``encode_text``, ``B`` captions or one for all images.
            positive_map: label (1 or more) to token positions, the same for all images or, in a
                sequence, one for each; None detects nothing.

        Returns:
            Per image the boxes with the fields ``scores`` and ``labels``.
        """
        features, text = self.fuse(features, _for_batch(text, len(images)))
        return self.rpn.detect(images, features, text, positive_map)

    def forward(
        self,
        images: ImageList | Tensor | Sequence[Tensor],
        targets: Sequence[BoxList | None] | None = None,
        captions: Sequence[str] | None = None,
        positive_map: Tensor | Mapping[int, Sequence[int]] | None = None,
        greenlight_map: Tensor | None = None,
        normalizers: Tensor | None = None,
    ) -> dict[str, Tensor] | list[BoxList]:
        """Losses in training, detections in evaluation.

        Args:
            images: ``B`` normalised images, as a batch or one by one.
            targets: per image the ground truth with the field ``labels``; in training.
            captions: one per image.
            positive_map: in training ``[boxes of the batch, 256]``, images in order, non-zero where
                a token describes a box; in evaluation label to token positions.
            greenlight_map: ``[B, 256]``, tokens that may be masked for prediction.
            normalizers: from ``loss_normalizers``, where the batch is a part of a larger one.

        Returns:
            Scalars by name whose sum is to be minimised, or per image the boxes found with
            ``scores`` and ``labels``.

        Raises:
            ValueError: without captions for every image, or targets in training.
        """
        images = to_image_list(images)
        if isinstance(captions, str) or captions is None or len(captions) != len(images):
            found = captions if captions is None or isinstance(captions, str) else len(captions)
            raise ValueError(
                f"captions: a list of {len(images)} sentences, one per image, is needed, "
                f"got {found!r}"
            )
        if self.training and targets is None:
            raise ValueError("targets are needed in training mode; call eval() to detect")

        features = self.encode_images(images)
        text = self.encode_text(captions, greenlight_map)
        if not self.training:
            return self.detect(images, features, text, positive_map)
        device = self.device
        targets = [target.to(device) for target in targets if target is not None]
        if positive_map is not None:
            positive_map = positive_map.to(device)
        features, text = self.fuse(features, text)
        return self.rpn.losses(features, text, targets, positive_map, normalizers)

    def loss_normalizers(
        self, parts: Sequence[tuple[ImageList, Sequence[BoxList]]], weights: Sequence[float]
    ) -> Tensor:
        """What ``forward`` divides by, for batches whose gradients are averaged into one update.

        With it the mean of their losses is the loss of the one batch that they are parts of, on all
        ranks together; every rank has to call it.

        Args:
            parts: images and targets of every batch of this rank.
            weights: factor of the loss of each.
        """
        counts = torch.zeros(2, device=self.device)
        for (images, targets), weight in zip(parts, weights):
            targets = [target.to(self.device) for target in targets]
            counts += weight * self.rpn.count(tuple(images.tensors.shape[-2:]), targets)
        return shared_normalizers(counts, len(parts))

    @cached_property
    def _vocabulary(self) -> list[int]:
        return list(self.tokenizer.get_vocab().values())

    def _slots(self, attention_mask: Tensor) -> int:
        """Token slots that the batch is run on."""
        if not self.text.trim or self.text.one_hot_classes:
            return attention_mask.shape[1]
        longest = int(attention_mask.sum(1).max())
        rounded = -(-longest // self.text.multiple) * self.text.multiple
        return min(rounded, attention_mask.shape[1])

    # ---- what trains ----------------------------------------------------------------------------

    def train(self, mode: bool = True) -> GeneralizedVLRCNN:
        """Set the mode, then freeze again what does not train."""
        super().train(mode)
        freezing, rpn = self.freezing, self.rpn
        if freezing.backbone_body:
            _freeze(self.backbone.body)
        if freezing.fpn and hasattr(self.backbone, "fpn"):
            _freeze(self.backbone.fpn)
        if freezing.rpn:
            # The head as a whole stays in training mode, so that it returns losses.
            rpn.head.eval()
            rpn.requires_grad_(False)
        if freezing.linear_probe:
            for name, parameter in rpn.named_parameters():
                probed = any(part in name for part in PROBED)
                if freezing.rpn or not probed:
                    parameter.requires_grad_(probed)
        if not rpn.head.predict_classes or rpn.head.dot_product:
            _freeze(rpn.head.cls_logits)
        if freezing.prompt_offsets and self.prompt_offsets is not None:
            self.prompt_offsets.requires_grad_(True)
        if freezing.language_backbone:
            _freeze(self.language_backbone)
        return self


def _freeze(module: nn.Module) -> None:
    module.eval()
    module.requires_grad_(False)


def _for_batch(text: TextFeatures, batch_size: int) -> TextFeatures:
    """Repeat the features of a single caption for every image."""
    found = len(text.masks)
    if found == batch_size:
        return text
    if found != 1:
        raise ValueError(f"{found} captions for {batch_size} images: one, or one per image")
    return text.expand(batch_size)
