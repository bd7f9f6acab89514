"""The detector whose encoders look at each other (FIBER)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from maskrcnn_benchmark.modeling.detector.generalized_vl_rcnn import (
    Freezing,
    GeneralizedVLRCNN,
    TextOptions,
)
from maskrcnn_benchmark.modeling.fusion.fused_backbone import FusedBackbone
from maskrcnn_benchmark.modeling.language_backbone.text_features import TextFeatures
from maskrcnn_benchmark.modeling.rpn.vldyhead import VLDyHeadModule
from maskrcnn_benchmark.structures.image_list import ImageList, to_image_list


class FusedVLRCNN(GeneralizedVLRCNN):
    """A detector in which image and text meet in the backbone instead of the head.

    ``encode_images`` and ``encode_text`` give what comes before the first fused layer, which
    depends on the image or on the text alone; ``fuse``, and with it ``detect``, does the rest.

    Args:
        fusion_backbone: both encoders.
        rpn, tokenizer, text, freezing: see ``GeneralizedVLRCNN``.
    """

    def __init__(
        self,
        fusion_backbone: FusedBackbone,
        rpn: VLDyHeadModule,
        tokenizer: Any,
        *,
        text: TextOptions | None = None,
        freezing: Freezing | None = None,
    ) -> None:
        encoders = {"fusion_backbone": fusion_backbone}
        super().__init__(encoders, rpn, tokenizer, text=text, freezing=freezing)

    @property
    def backbone(self) -> nn.Sequential:
        """The visual encoder: ``body`` and ``fpn``."""
        return self.fusion_backbone.backbone

    @property
    def language_backbone(self) -> nn.Sequential:
        """The text encoder: ``body``."""
        return self.fusion_backbone.language_backbone

    @property
    def prompt_offsets(self) -> nn.Module | None:
        """What prompt tuning trains, None without."""
        return self.fusion_backbone.tunable_linear

    def encode_images(self, images: ImageList | Tensor | Sequence[Tensor]) -> list[Tensor]:
        """What comes before the first fused block, see ``FusedSwinTransformer``.

        Every tensor has the images along its first axis, so it can be sliced and repeated.
        """
        return self.fusion_backbone.encode_images(to_image_list(images).pixels().to(self.device))

    def encode_tokens(self, tokens: Mapping[str, Tensor]) -> TextFeatures:
        """What comes before the first fused layer, from ids and mask, each ``[B, T]``."""
        return self.fusion_backbone.encode_text(tokens)

    def fuse(
        self, features: Sequence[Tensor], text: TextFeatures
    ) -> tuple[Sequence[Tensor], TextFeatures]:
        """Run the fused layers and the pyramid on encoded images and text.

        Args:
            features: from ``encode_images``, ``B`` images.
            text: from ``encode_text``, ``B`` captions.

        Returns:
            pyramid maps ``[B, C, H_l, W_l]``, finest first, and the features of the whole text
            encoder.
        """
        return self.fusion_backbone(features, text)
