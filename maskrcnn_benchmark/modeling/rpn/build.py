"""From the configuration to a dense head."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from torch import nn

from maskrcnn_benchmark.errors import ConfigError
from maskrcnn_benchmark.layers.batch_norm import NaiveSyncBatchNorm
from maskrcnn_benchmark.modeling.fusion import BiAttentionFuse, FeatureResizer, TextToImageFuse
from maskrcnn_benchmark.modeling.language_backbone.prompt_offsets import PROMPT_SLOTS
from maskrcnn_benchmark.modeling.rpn.anchor_generator import make_anchor_generator
from maskrcnn_benchmark.modeling.rpn.dyconv import DyConv
from maskrcnn_benchmark.modeling.rpn.language_layers import (
    BertEncoderLayer,
    CLIPTransformerLayer,
    PassThrough,
)
from maskrcnn_benchmark.modeling.rpn.losses import build_loss_evaluator
from maskrcnn_benchmark.modeling.rpn.post_process import build_post_processor
from maskrcnn_benchmark.modeling.rpn.vldyhead import VLDyHead, VLDyHeadModule

_BERT_HEAD_DIM = 64


def build_rpn(
    cfg: Any,
    in_channels: int,
    *,
    text_dim: int | None = None,
    vocabulary_size: int = 30522,
) -> VLDyHeadModule:
    """Build the dense head that ``MODEL.RPN_ARCHITECTURE`` names.

    Args:
        cfg: the whole configuration.
        in_channels: channels of every pyramid level.
        text_dim: width of the text features; None: ``MODEL.LANGUAGE_BACKBONE.LANG_DIM``.
        vocabulary_size: number of words a masked token is chosen from.

    Raises:
        ConfigError: for an unknown head or options that do not fit each other.
    """
    if cfg.MODEL.RPN_ARCHITECTURE != "VLDYHEAD":
        raise ConfigError(
            f"MODEL.RPN_ARCHITECTURE: {cfg.MODEL.RPN_ARCHITECTURE!r} is not supported, only "
            "'VLDYHEAD'"
        )
    if text_dim is None:
        text_dim = cfg.MODEL.LANGUAGE_BACKBONE.LANG_DIM
    _check(cfg, text_dim)
    dyhead, fuse = cfg.MODEL.DYHEAD, cfg.MODEL.DYHEAD.FUSE_CONFIG
    contrastive = fuse.USE_CONTRASTIVE_ALIGN_LOSS
    head = VLDyHead(
        _tower(cfg, in_channels, text_dim),
        channels=dyhead.CHANNELS,
        text_dim=fuse.JOINT_EMB_SIZE if contrastive else text_dim,
        num_levels=len(cfg.MODEL.RPN.ANCHOR_STRIDE),
        anchors_per_location=_anchors_per_location(cfg),
        num_classes=dyhead.NUM_CLASSES - 1,
        prior_prob=dyhead.PRIOR_PROB,
        predict_classes=_reads_class_logits(cfg),
        dot_product=fuse.USE_DOT_PRODUCT_TOKEN_LOSS,
        log_scale=dyhead.LOG_SCALE,
        clamp_dot_product=fuse.CLAMP_DOT_PRODUCT,
        read_fused_text=fuse.USE_FUSED_FEATURES_DOT_PRODUCT,
        soft_token_slots=(cfg.MODEL.LANGUAGE_BACKBONE.MAX_QUERY_LEN if fuse.USE_TOKEN_LOSS else 0),
        contrastive_dim=fuse.CONTRASTIVE_HIDDEN_DIM if contrastive else 0,
        mlm_vocabulary_size=vocabulary_size if fuse.MLM_LOSS else 0,
        keep_shallow_features=fuse.USE_SHALLOW_CONTRASTIVE_LOSS,
    )
    resizer = None
    if contrastive:
        resizer = FeatureResizer(text_dim, fuse.JOINT_EMB_SIZE, fuse.JOINT_EMB_DROPOUT)
    return VLDyHeadModule(
        head,
        make_anchor_generator(cfg),
        build_loss_evaluator(cfg, text_dim),
        build_post_processor(cfg),
        resizer=resizer,
        # With fusion in the backbone the offsets come before the text encoder's first layer.
        num_prompt_slots=(
            PROMPT_SLOTS if fuse.ADD_LINEAR_LAYER and cfg.MODEL.SWINT.VERSION != "fusion" else 0
        ),
        text_dim=text_dim,
    )


def _anchors_per_location(cfg: Any) -> int:
    return len(cfg.MODEL.RPN.ASPECT_RATIOS) * cfg.MODEL.RPN.SCALES_PER_OCTAVE


def _reads_class_logits(cfg: Any) -> bool:
    """Whether anything reads the fixed vocabulary: its loss, or detection without token logits."""
    fuse = cfg.MODEL.DYHEAD.FUSE_CONFIG
    grounding = fuse.USE_DOT_PRODUCT_TOKEN_LOSS or fuse.USE_TOKEN_LOSS
    return fuse.USE_CLASSIFICATION_LOSS or not grounding


def _check(cfg: Any, text_dim: int) -> None:
    """Refuse options that do not fit each other before modules fail on shapes."""
    dyhead, fuse = cfg.MODEL.DYHEAD, cfg.MODEL.DYHEAD.FUSE_CONFIG
    key = "MODEL.DYHEAD.FUSE_CONFIG"
    contrastive = fuse.USE_CONTRASTIVE_ALIGN_LOSS
    if contrastive and fuse.USE_FUSED_FEATURES_DOT_PRODUCT:
        raise ConfigError(
            f"{key}.USE_CONTRASTIVE_ALIGN_LOSS reads the resized text of the encoder: set "
            f"{key}.USE_FUSED_FEATURES_DOT_PRODUCT False"
        )
    if contrastive and fuse.MLM_LOSS:
        raise ConfigError(f"{key}.USE_CONTRASTIVE_ALIGN_LOSS and {key}.MLM_LOSS exclude each other")
    if contrastive and fuse.ADD_LINEAR_LAYER and text_dim != fuse.JOINT_EMB_SIZE:
        raise ConfigError(
            f"{key}.ADD_LINEAR_LAYER adds to the text of width {text_dim} and cannot follow the "
            f"resizing to {fuse.JOINT_EMB_SIZE} of {key}.USE_CONTRASTIVE_ALIGN_LOSS"
        )
    if dyhead.CONV_FUNC:
        raise ConfigError(
            f"MODEL.DYHEAD.CONV_FUNC: {dyhead.CONV_FUNC!r} is not supported, leave it empty"
        )
    if not fuse.EARLY_FUSE_ON:
        return
    if fuse.TYPE not in FUSIONS:
        raise ConfigError(
            f"{key}.TYPE: unknown fusion {fuse.TYPE!r}; choose of {', '.join(FUSIONS)}, or set "
            f"{key}.EARLY_FUSE_ON False"
        )
    widths = {
        "MODEL.BACKBONE.OUT_CHANNELS": cfg.MODEL.BACKBONE.OUT_CHANNELS,
        "MODEL.DYHEAD.CHANNELS": dyhead.CHANNELS,
        f"{key}.JOINT_EMB_SIZE": fuse.JOINT_EMB_SIZE,
    }
    if len(set(widths.values())) > 1:
        raise ConfigError(
            "fusion needs one width of visual tokens, got "
            + ", ".join(f"{name} {width}" for name, width in widths.items())
        )


def _tower(cfg: Any, in_channels: int, text_dim: int) -> Iterator[nn.Module]:
    """Fusion, language layer, vision layer, and again; without fusion vision layers only."""
    dyhead, fuse = cfg.MODEL.DYHEAD, cfg.MODEL.DYHEAD.FUSE_CONFIG
    for index in range(dyhead.NUM_CONVS):
        if fuse.EARLY_FUSE_ON:
            yield FUSIONS[fuse.TYPE](cfg, text_dim)
            last = index == dyhead.NUM_CONVS - 1
            text_is_read = fuse.USE_FUSED_FEATURES_DOT_PRODUCT or not last
            yield _language_layer(cfg, text_dim) if text_is_read else PassThrough()
        # The options of the first layer need a tower as wide as the pyramid.
        same_width = index > 0 or in_channels == dyhead.CHANNELS
        yield DyConv(
            dyhead.CHANNELS if index else in_channels,
            dyhead.CHANNELS,
            norm=_norm(cfg),
            deformable=dyhead.USE_DFCONV and same_width,
            weigh_neighbours=dyhead.USE_DYFUSE and same_width,
            dynamic_relu=dyhead.USE_DYRELU and same_width,
            identity_init=dyhead.IDENTITY_INIT and same_width,
        )


def _norm(cfg: Any) -> Callable[[int], nn.Module] | None:
    dyhead = cfg.MODEL.DYHEAD
    if dyhead.USE_GN:
        return partial(nn.GroupNorm, cfg.MODEL.GROUP_NORM.NUM_GROUPS)
    if dyhead.USE_NSYNCBN:
        return NaiveSyncBatchNorm
    if dyhead.USE_SYNCBN:
        return nn.SyncBatchNorm
    return None


def _language_layer(cfg: Any, text_dim: int) -> nn.Module:
    if cfg.MODEL.LANGUAGE_BACKBONE.MODEL_TYPE == "clip":
        return CLIPTransformerLayer(text_dim, cfg.MODEL.CLIP.HEADS)
    fuse = cfg.MODEL.DYHEAD.FUSE_CONFIG
    return BertEncoderLayer(
        text_dim,
        num_heads=_num_heads(text_dim),
        feedforward_dim=4 * text_dim,
        clamp_min=fuse.CLAMP_BERTATTN_MIN_FOR_UNDERFLOW,
        clamp_max=fuse.CLAMP_BERTATTN_MAX_FOR_OVERFLOW,
    )


def _num_heads(text_dim: int) -> int:
    """Heads about as wide as BERT's: the greatest number of at least that width that divides."""
    wanted = max(1, text_dim // _BERT_HEAD_DIM)
    return next(heads for heads in range(wanted, 0, -1) if text_dim % heads == 0)


def _bi_attention(cfg: Any, text_dim: int) -> BiAttentionFuse:
    dyhead, fuse = cfg.MODEL.DYHEAD, cfg.MODEL.DYHEAD.FUSE_CONFIG
    return BiAttentionFuse(
        fuse.JOINT_EMB_SIZE,
        text_dim,
        # Always scaled, whatever USE_LAYER_SCALE says.
        initial_scale=fuse.INITIAL_SCALE or 1.0 / dyhead.NUM_CONVS,
        use_checkpoint=dyhead.USE_CHECKPOINT,
        separate_levels=fuse.SEPARATE_BIDIRECTIONAL,
        num_levels=len(cfg.MODEL.RPN.ANCHOR_STRIDE),
        shrink_outside_checkpoint=fuse.DO_LANG_PROJ_OUTSIDE_CHECKPOINT,
        stable_softmax_2d=fuse.STABLE_SOFTMAX_2D,
        clamp_min=fuse.CLAMP_MIN_FOR_UNDERFLOW,
        clamp_max=fuse.CLAMP_MAX_FOR_OVERFLOW,
        implementation=fuse.IMPLEMENTATION,
    )


def _text_to_image(cfg: Any, text_dim: int) -> TextToImageFuse:
    dyhead, fuse = cfg.MODEL.DYHEAD, cfg.MODEL.DYHEAD.FUSE_CONFIG
    return TextToImageFuse(
        fuse.JOINT_EMB_SIZE,
        text_dim,
        initial_scale=(
            fuse.INITIAL_SCALE or 1.0 / dyhead.NUM_CONVS if fuse.USE_LAYER_SCALE else None
        ),
        use_checkpoint=dyhead.USE_CHECKPOINT,
        clamp_min=fuse.CLAMP_MIN_FOR_UNDERFLOW,
        clamp_max=fuse.CLAMP_MAX_FOR_OVERFLOW,
    )


FUSIONS: dict[str, Callable[[Any, int], nn.Module]] = {
    "MHA-B": _bi_attention,
    "MHA-S": _text_to_image,
}
"""Fusion layers of ``MODEL.DYHEAD.FUSE_CONFIG.TYPE``."""
