"""Image and text encoder that look at each other before they are done (FIBER).

Dou et al., "Coarse-to-Fine Vision-Language Pre-training with Fusion in the Backbone", NeurIPS 2022.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from maskrcnn_benchmark.errors import ConfigError
from maskrcnn_benchmark.modeling.backbone.build import build_fused_swin
from maskrcnn_benchmark.modeling.language_backbone.build import build_fused_roberta, load_fused_text
from maskrcnn_benchmark.modeling.language_backbone.fused_roberta import padding_scores
from maskrcnn_benchmark.modeling.language_backbone.prompt_offsets import (
    PROMPT_SLOTS,
    make_prompt_offsets,
)
from maskrcnn_benchmark.modeling.language_backbone.text_features import (
    TextFeatures,
    text_features,
)


class FusedBackbone(nn.Module):
    """Both encoders: each up to the first fused layer by itself, from there in step.

    What ``encode_images`` and ``encode_text`` give depends on one input only, so it can be kept
    and combined at will; ``forward`` continues from both.

    Args:
        backbone: a Sequential of ``body`` (a ``FusedSwinTransformer``) and ``fpn``.
        language_backbone: a Sequential of ``body`` (a ``FusedRobertaEncoder``).
        num_prompt_slots: length of a learned offset per token position that is added to the
            embedded tokens (prompt tuning); 0: none.

    Raises:
        ValueError: if the encoders do not have as many fused layers.
    """

    def __init__(
        self, backbone: nn.Sequential, language_backbone: nn.Sequential, num_prompt_slots: int = 0
    ) -> None:
        super().__init__()
        blocks = len(backbone.body.fused_blocks())
        layers = len(language_backbone.body.fused_layers)
        if blocks != layers:
            raise ValueError(f"{blocks} fused blocks of the image, but {layers} of the text")
        self.backbone = backbone
        self.language_backbone = language_backbone
        self.out_channels = backbone.out_channels
        self.language_dim = language_backbone.language_dim
        self.tunable_linear = None
        if num_prompt_slots:
            self.tunable_linear = make_prompt_offsets(num_prompt_slots, self.language_dim)

    def encode_images(self, images: Tensor) -> list[Tensor]:
        """``[B, 3, H, W]`` to finished maps and the input of the first fused block."""
        return self.backbone.body(images)

    def encode_text(self, tokens: Mapping[str, Tensor]) -> TextFeatures:
        """``input_ids`` and ``attention_mask`` ``[B, T]`` to the input of the first fused layer."""
        offsets = None if self.tunable_linear is None else self.tunable_linear.weight
        return self.language_backbone.body(tokens, offsets)

    def forward(
        self, features: Sequence[Tensor], text: TextFeatures
    ) -> tuple[tuple[Tensor, ...], TextFeatures]:
        """Run the fused layers, then the pyramid.

        Args:
            features: from ``encode_images``, ``B`` images.
            text: from ``encode_text``, ``B`` captions.

        Returns:
            pyramid maps ``[B, C, H_l, W_l]``, finest first, and the features of the whole text
            encoder.
        """
        body, encoder = self.backbone.body, self.language_backbone.body
        *maps, visual = features
        hidden = text.hidden
        is_token = text.masks.bool()
        padding = padding_scores(text.masks, hidden.dtype)
        for (index, stage, block), layer in zip(body.fused_blocks(), encoder.fused_layers):
            # Both read what the other was before this step.
            visual, hidden = (
                stage.run_block(block, visual, hidden, is_token),
                encoder.run_layer(layer, hidden, padding, visual),
            )
            if block is stage.blocks[-1]:
                visual = body.leave_stage(index, visual, maps)
        encoded = text_features(hidden, text.masks)._replace(mlm_labels=text.mlm_labels)
        return self.backbone.fpn(maps), encoded


def build_fused_backbone(cfg: Any) -> FusedBackbone:
    """Build the encoders of ``MODEL.SWINT.VERSION`` "fusion".

    The upper half of the text encoder is fused with as many last blocks of Swin: six each with
    RoBERTa-base, as published.

    Raises:
        ConfigError: for an unknown layout or options that do not fit each other.
        FileNotFoundError, PretrainedFilesMissing: if the text encoder's files cannot be had.
    """
    version = cfg.MODEL.BACKBONE.FUSION_VERSION
    if version not in ("v2", "v3"):
        raise ConfigError(
            f"MODEL.BACKBONE.FUSION_VERSION: {version!r} is not supported; choose 'v2' (FIBER's "
            "detection models) or 'v3' (its referring-expression models). 'v1', the default, is a "
            "one-sided fusion that no published model uses"
        )
    text_encoder = load_fused_text(cfg)
    num_fused = text_encoder.config.num_hidden_layers // 2
    backbone = build_fused_swin(
        cfg,
        num_fused=num_fused,
        text_dim=text_encoder.config.hidden_size,
        norm_query=version == "v3",
    )
    language_backbone = build_fused_roberta(cfg, text_encoder, backbone.body.fused_dims)
    prompt_tuning = cfg.MODEL.DYHEAD.FUSE_CONFIG.ADD_LINEAR_LAYER
    return FusedBackbone(backbone, language_backbone, PROMPT_SLOTS if prompt_tuning else 0)
