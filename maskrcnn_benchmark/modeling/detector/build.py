"""From the configuration to a detector."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import nn

from maskrcnn_benchmark.errors import ConfigError
from maskrcnn_benchmark.modeling.backbone import build_backbone
from maskrcnn_benchmark.modeling.detector.fused_vl_rcnn import FusedVLRCNN
from maskrcnn_benchmark.modeling.detector.generalized_vl_rcnn import (
    Freezing,
    GeneralizedVLRCNN,
    TextOptions,
)
from maskrcnn_benchmark.modeling.fusion.fused_backbone import build_fused_backbone
from maskrcnn_benchmark.modeling.language_backbone import build_language_backbone, build_tokenizer
from maskrcnn_benchmark.modeling.rpn import build_rpn
from maskrcnn_benchmark.modeling.rpn.vldyhead import VLDyHeadModule


def build_detection_model(cfg: Any) -> GeneralizedVLRCNN:
    """Build the detector that ``MODEL.META_ARCHITECTURE`` names.

    With ``MODEL.SWINT.VERSION`` "fusion" image and text meet in the backbone (FIBER), otherwise in
    the head (GLIP).

    Raises:
        ConfigError: for an unknown detector or options that do not fit each other.
    """
    _check(cfg)
    tokenizer = build_tokenizer(cfg)
    freezing = _freezing(cfg)
    if cfg.MODEL.SWINT.VERSION == "fusion":
        fused = build_fused_backbone(cfg)
        _check_vocabulary(cfg, tokenizer, fused.language_backbone)
        rpn = _rpn(cfg, fused.out_channels, fused.language_dim, tokenizer)
        return FusedVLRCNN(fused, rpn, tokenizer, text=_fused_text_options(cfg), freezing=freezing)
    encoders = {
        "backbone": build_backbone(cfg),
        "language_backbone": build_language_backbone(cfg),
    }
    _check_vocabulary(cfg, tokenizer, encoders["language_backbone"])
    out_channels = encoders["backbone"].out_channels
    rpn = _rpn(cfg, out_channels, encoders["language_backbone"].language_dim, tokenizer)
    return GeneralizedVLRCNN(encoders, rpn, tokenizer, text=_text_options(cfg), freezing=freezing)


def _rpn(cfg: Any, in_channels: int, text_dim: int, tokenizer: Any) -> VLDyHeadModule:
    return build_rpn(cfg, in_channels, text_dim=text_dim, vocabulary_size=len(tokenizer))


def _check_vocabulary(cfg: Any, tokenizer: Any, language_backbone: nn.Sequential) -> None:
    """Refuse a tokenizer with words that the text encoder has no embedding for."""
    known = language_backbone.body.vocabulary_size
    if len(tokenizer) > known:
        options = cfg.MODEL.LANGUAGE_BACKBONE
        raise ConfigError(
            f"MODEL.LANGUAGE_BACKBONE.TOKENIZER_TYPE {options.TOKENIZER_TYPE!r} has "
            f"{len(tokenizer)} words, but MODEL_TYPE {options.MODEL_TYPE!r} knows {known}: they do "
            "not belong together"
        )


def _text_options(cfg: Any) -> TextOptions:
    language, fuse = cfg.MODEL.LANGUAGE_BACKBONE, cfg.MODEL.DYHEAD.FUSE_CONFIG
    # Without the dot product the softmax of the contrastive loss runs over padding too: the number
    # of slots counts, and is that of the longest caption.
    exact = not fuse.USE_DOT_PRODUCT_TOKEN_LOSS
    trim = language.TRIM_PADDING or not language.PAD_MAX or exact
    return TextOptions(
        max_tokens=language.MAX_QUERY_LEN,
        # The positional table of CLIP has to be filled.
        trim=trim and language.MODEL_TYPE != "clip",
        multiple=1 if exact else 8,
        mask_special=language.MASK_SPECIAL,
        one_hot_classes=cfg.MODEL.DYHEAD.NUM_CLASSES if cfg.DATASETS.ONE_HOT else 0,
        mask_for_prediction=fuse.MLM_LOSS,
        only_greenlit=fuse.MLM_LOSS_FOR_ONLY_POSITIVES,
    )


def _fused_text_options(cfg: Any) -> TextOptions:
    """Every real token is seen by the image: none may be treated as padding by the head alone."""
    return replace(_text_options(cfg), mask_special=False, one_hot_classes=0)


def _freezing(cfg: Any) -> Freezing:
    return Freezing(
        backbone_body=cfg.MODEL.BACKBONE.FREEZE,
        fpn=cfg.MODEL.FPN.FREEZE,
        rpn=cfg.MODEL.RPN.FREEZE,
        language_backbone=cfg.MODEL.LANGUAGE_BACKBONE.FREEZE,
        linear_probe=cfg.MODEL.LINEAR_PROB,
        prompt_offsets=cfg.MODEL.DYHEAD.FUSE_CONFIG.ADD_LINEAR_LAYER,
    )


def _check(cfg: Any) -> None:
    model = cfg.MODEL
    if model.META_ARCHITECTURE != "GeneralizedVLRCNN":
        raise ConfigError(
            f"MODEL.META_ARCHITECTURE: {model.META_ARCHITECTURE!r} is not supported, only "
            "'GeneralizedVLRCNN'"
        )
    if not model.RPN_ONLY or model.MASK_ON:
        raise ConfigError(
            "box, mask and keypoint heads are not supported: set MODEL.RPN_ONLY True and "
            "MODEL.MASK_ON False, as the published configurations do"
        )
    if model.RPN.FORCE_BOXES:
        raise ConfigError("MODEL.RPN.FORCE_BOXES needs a second stage, which is not supported")
