"""From the configuration to a detector."""

from __future__ import annotations

from typing import Any

from maskrcnn_benchmark.modeling.backbone import build_backbone
from maskrcnn_benchmark.modeling.detector.generalized_vl_rcnn import (
    Freezing,
    GeneralizedVLRCNN,
    TextOptions,
)
from maskrcnn_benchmark.modeling.language_backbone import build_language_backbone, build_tokenizer
from maskrcnn_benchmark.modeling.rpn import build_rpn


def build_detection_model(cfg: Any) -> GeneralizedVLRCNN:
    """Build the detector that ``MODEL.META_ARCHITECTURE`` names.

    Raises:
        ValueError: for an unknown detector or options that do not fit each other.
    """
    _check(cfg)
    tokenizer = build_tokenizer(cfg)
    backbone = build_backbone(cfg)
    language_backbone = build_language_backbone(cfg)
    rpn = build_rpn(
        cfg,
        backbone.out_channels,
        text_dim=language_backbone.language_dim,
        vocabulary_size=len(tokenizer),
    )
    language, fuse = cfg.MODEL.LANGUAGE_BACKBONE, cfg.MODEL.DYHEAD.FUSE_CONFIG
    # Without the dot product the softmax of the contrastive loss runs over padding too: the number
    # of slots counts, and is that of the longest caption.
    exact = not fuse.USE_DOT_PRODUCT_TOKEN_LOSS
    text = TextOptions(
        max_tokens=language.MAX_QUERY_LEN,
        # The positional table of CLIP has to be filled.
        trim=language.MODEL_TYPE != "clip",
        multiple=1 if exact else 8,
        mask_special=language.MASK_SPECIAL,
        one_hot_classes=cfg.MODEL.DYHEAD.NUM_CLASSES if cfg.DATASETS.ONE_HOT else 0,
        mask_for_prediction=fuse.MLM_LOSS,
        only_greenlit=fuse.MLM_LOSS_FOR_ONLY_POSITIVES,
    )
    freezing = Freezing(
        backbone_body=cfg.MODEL.BACKBONE.FREEZE,
        fpn=cfg.MODEL.FPN.FREEZE,
        rpn=cfg.MODEL.RPN.FREEZE,
        language_backbone=language.FREEZE,
        linear_probe=cfg.MODEL.LINEAR_PROB,
        prompt_offsets=fuse.ADD_LINEAR_LAYER,
    )
    return GeneralizedVLRCNN(
        backbone, language_backbone, rpn, tokenizer, text=text, freezing=freezing
    )


def _check(cfg: Any) -> None:
    model = cfg.MODEL
    if model.META_ARCHITECTURE != "GeneralizedVLRCNN":
        raise ValueError(
            f"MODEL.META_ARCHITECTURE: {model.META_ARCHITECTURE!r} is not supported, only "
            "'GeneralizedVLRCNN'"
        )
    if not model.RPN_ONLY or model.MASK_ON:
        raise ValueError(
            "box, mask and keypoint heads are not supported: set MODEL.RPN_ONLY True and "
            "MODEL.MASK_ON False, as the published configurations do"
        )
    if model.RPN.FORCE_BOXES:
        raise ValueError("MODEL.RPN.FORCE_BOXES needs a second stage, which is not supported")
    if cfg.GLIPKNOW.PARALLEL_LANGUAGE_INPUT:
        raise ValueError(
            "GLIPKNOW.PARALLEL_LANGUAGE_INPUT (one caption per class) is not supported: set it "
            "False"
        )
