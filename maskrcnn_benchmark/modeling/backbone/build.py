"""From the configuration to a visual backbone."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch import nn

from maskrcnn_benchmark.errors import ConfigError
from maskrcnn_benchmark.layers.batch_norm import FrozenBatchNorm2d, NaiveSyncBatchNorm
from maskrcnn_benchmark.layers.drop_block import DropBlock2D
from maskrcnn_benchmark.modeling.backbone import resnet
from maskrcnn_benchmark.modeling.backbone.fpn import (
    FPN,
    LastLevelMaxPool,
    LastLevelP6P7,
    build_conv,
)
from maskrcnn_benchmark.modeling.backbone.fused_swin import FusedSwinTransformer
from maskrcnn_benchmark.modeling.backbone.swin import SwinTransformer


def build_backbone(cfg: Any) -> nn.Sequential:
    """Build the backbone that ``MODEL.BACKBONE.CONV_BODY`` names.

    Returns:
        a Sequential of ``body`` (images ``(batch, 3, H, W)`` to a list of maps) and, for names
        with FPN, ``fpn`` (maps to a tuple of levels, finest first).  Its attribute
        ``out_channels`` is the number of channels of every level (of the last map, without FPN).

    Raises:
        ConfigError: for an unknown name, options that do not fit each other, or variants of the
            original that no published model uses.
    """
    name = cfg.MODEL.BACKBONE.CONV_BODY
    if name not in BUILDERS:
        raise ConfigError(
            f"MODEL.BACKBONE.CONV_BODY: unknown backbone {name!r}; choose one of "
            f"{', '.join(sorted(BUILDERS))}"
        )
    return BUILDERS[name](cfg)


def build_fused_swin(cfg: Any, *, num_fused: int, text_dim: int, norm_query: bool) -> nn.Sequential:
    """Swin whose last blocks read the text, with its pyramid; see ``FusedSwinTransformer``.

    Returns:
        as ``build_backbone``, except that ``body`` stops before its first fused block.

    Raises:
        ConfigError: for a backbone that is not Swin; else see ``build_backbone``.
    """
    name = cfg.MODEL.BACKBONE.CONV_BODY
    if name not in SWIN_PYRAMIDS:
        raise ConfigError(
            f"MODEL.BACKBONE.CONV_BODY: {name!r} cannot be fused with the text; with "
            f"MODEL.SWINT.VERSION 'fusion' choose {' or '.join(SWIN_PYRAMIDS)}"
        )
    make_body = partial(
        FusedSwinTransformer, num_fused=num_fused, text_dim=text_dim, norm_query=norm_query
    )
    return _make_swin_fpn(cfg, make_body, retinanet=SWIN_PYRAMIDS[name])


def _swin_fpn(cfg: Any, retinanet: bool) -> nn.Sequential:
    """Swin with a pyramid on strides 8 to 32 (and P6, P7) or 4 to 32 (and a pooled level)."""
    version = cfg.MODEL.SWINT.VERSION
    if version == "fusion":
        raise ConfigError(
            "MODEL.SWINT.VERSION: 'fusion' needs the text, too; build the whole detector"
        )
    if version != "v1":
        raise ConfigError(
            f"MODEL.SWINT.VERSION: {version!r} is not supported, only 'v1' and 'fusion' are "
            "(no published model uses v2, vl or v2_vl)"
        )
    return _make_swin_fpn(cfg, SwinTransformer, retinanet)


def _make_swin_fpn(
    cfg: Any, make_body: Callable[..., SwinTransformer], retinanet: bool
) -> nn.Sequential:
    swin, backbone = cfg.MODEL.SWINT, cfg.MODEL.BACKBONE
    if swin.LAYER_SCALE or not swin.OUT_NORM:
        raise ConfigError(
            "MODEL.SWINT.LAYER_SCALE and OUT_NORM belong to Swin v2, which is not supported; "
            "leave them at 0 and True"
        )
    body = make_body(
        embed_dim=swin.EMBED_DIM,
        depths=swin.DEPTHS,
        num_heads=swin.NUM_HEADS,
        window_size=swin.WINDOW_SIZE,
        mlp_ratio=swin.MLP_RATIO,
        drop_path_rate=swin.DROP_PATH_RATE,
        absolute_position=swin.APE,
        out_stages=_stage_indices(backbone.OUT_FEATURES, len(swin.DEPTHS)),
        norm_first_stage=not retinanet,
        frozen_stages=backbone.FREEZE_CONV_BODY_AT,
        use_checkpoint=backbone.USE_CHECKPOINT,
    )
    if list(swin.OUT_CHANNELS) != body.num_features:
        raise ConfigError(
            f"MODEL.SWINT.OUT_CHANNELS is {tuple(swin.OUT_CHANNELS)}, but EMBED_DIM "
            f"{swin.EMBED_DIM} makes {tuple(body.num_features)}"
        )
    return _with_fpn(cfg, body, body.out_channels, retinanet)


def _resnet_body(cfg: Any, depth: int, num_stages: int) -> nn.Sequential:
    """ResNet alone; only the map of its last stage comes out."""
    body = _resnet(cfg, resnet.BLOCKS[depth][:num_stages], out_stages=(num_stages,))
    backbone = nn.Sequential(OrderedDict(body=body))
    backbone.out_channels = body.out_channels[-1]
    return backbone


def _resnet_fpn(cfg: Any, depth: int, retinanet: bool) -> nn.Sequential:
    """ResNet with a pyramid on strides 8 to 32 (and P6, P7) or 4 to 32 (and a pooled level)."""
    body = _resnet(cfg, resnet.BLOCKS[depth], out_stages=(1, 2, 3, 4))
    return _with_fpn(cfg, body, body.out_channels, retinanet)


def _resnet(cfg: Any, blocks: Sequence[int], out_stages: Sequence[int]) -> resnet.ResNet:
    options, backbone = cfg.MODEL.RESNETS, cfg.MODEL.BACKBONE
    norm = _batch_norm(backbone)
    return resnet.ResNet(
        blocks,
        out_stages,
        stem_channels=options.STEM_OUT_CHANNELS,
        first_channels=options.RES2_OUT_CHANNELS,
        num_groups=options.NUM_GROUPS,
        width_per_group=options.WIDTH_PER_GROUP,
        stride_in_1x1=options.STRIDE_IN_1X1,
        last_dilation=options.RES5_DILATION,
        stem_norm=_choose_norm(cfg, "STEM_FUNC", "Stem", norm),
        norm=_choose_norm(cfg, "TRANS_FUNC", "Bottleneck", norm),
        norm_level=backbone.NORM_LEVEL,
        stem_3x3=options.USE_STEM3X3,
        avg_down=options.USE_AVG_DOWN,
        with_se=options.WITH_SE,
        deformable=options.STAGE_WITH_DCN,
        modulated=options.WITH_MODULATED_DCN,
        deformable_groups=options.DEFORMABLE_GROUPS,
        frozen_stages=backbone.FREEZE_CONV_BODY_AT,
        use_checkpoint=backbone.USE_CHECKPOINT,
    )


def _batch_norm(backbone: Any) -> resnet.NormBuilder:
    if backbone.USE_BN:
        return nn.BatchNorm2d
    if backbone.USE_NSYNCBN:
        return NaiveSyncBatchNorm
    if backbone.USE_SYNCBN:
        return nn.SyncBatchNorm
    return FrozenBatchNorm2d


def _choose_norm(
    cfg: Any, key: str, prefix: str, batch_norm: resnet.NormBuilder
) -> resnet.NormBuilder:
    name = cfg.MODEL.RESNETS[key]
    if name == f"{prefix}WithGN":
        return partial(_group_norm, cfg)
    if name == f"{prefix}WithFixedBatchNorm":
        return batch_norm
    raise ConfigError(
        f"MODEL.RESNETS.{key}: unknown {name!r}; choose {prefix}WithFixedBatchNorm or "
        f"{prefix}WithGN"
    )


def _group_norm(cfg: Any, channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(_num_groups(cfg, channels), channels, eps=cfg.MODEL.GROUP_NORM.EPSILON)


def _num_groups(cfg: Any, channels: int) -> int:
    """``GROUP_NORM.NUM_GROUPS``, or as many groups as ``DIM_PER_GP`` channels each make."""
    channels_per_group = cfg.MODEL.GROUP_NORM.DIM_PER_GP
    if channels_per_group > 0:
        return channels // channels_per_group
    return cfg.MODEL.GROUP_NORM.NUM_GROUPS


def _with_fpn(
    cfg: Any, body: nn.Module, body_channels: Sequence[int], retinanet: bool
) -> nn.Sequential:
    options = cfg.MODEL.FPN
    out_channels = cfg.MODEL.BACKBONE.OUT_CHANNELS
    if options.USE_DYHEAD or options.RETURN_SWINT_FEATURE_BEFORE_FUSION:
        raise ConfigError(
            "MODEL.FPN.USE_DYHEAD and RETURN_SWINT_FEATURE_BEFORE_FUSION are not supported; no "
            "published model uses them"
        )
    in_channels = list(body_channels)
    if retinanet:
        # The stride-4 map is made but not used; its place keeps the numbering of the modules.
        in_channels = [0, *in_channels[-3:]]
    fpn = FPN(
        in_channels,
        out_channels,
        top_block=LastLevelP6P7(out_channels, out_channels) if retinanet else LastLevelMaxPool(),
        drop_block=DropBlock2D(options.DROP_PROB, options.DROP_SIZE)
        if options.DROP_BLOCK
        else None,
        use_spp=options.USE_SPP,
        use_pan=options.USE_PAN,
        conv=partial(
            build_conv,
            num_groups=_num_groups(cfg, out_channels) if options.USE_GN else None,
            eps=cfg.MODEL.GROUP_NORM.EPSILON,
            use_relu=options.USE_RELU,
        ),
    )
    backbone = nn.Sequential(OrderedDict(body=body, fpn=fpn))
    backbone.out_channels = out_channels
    return backbone


def _stage_indices(names: Sequence[str], num_stages: int) -> list[int]:
    """Indices of stages from names "stage2", "stage3", ..., the first stage being "stage2"."""
    known = {f"stage{index + 2}": index for index in range(num_stages)}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ConfigError(
            f"MODEL.BACKBONE.OUT_FEATURES: unknown {unknown}; choose from {', '.join(known)}"
        )
    return sorted(known[name] for name in names)


Builder = Callable[[Any], nn.Sequential]

SWIN_PYRAMIDS = {"SWINT-FPN-RETINANET": True, "SWINT-FPN": False}
"""Names of Swin with a pyramid, and whether that is RetinaNet's."""

BUILDERS: dict[str, Builder] = {
    name: partial(_swin_fpn, retinanet=retinanet) for name, retinanet in SWIN_PYRAMIDS.items()
}
for _depth in resnet.BLOCKS:
    BUILDERS[f"R-{_depth}-C4"] = partial(_resnet_body, depth=_depth, num_stages=3)
    BUILDERS[f"R-{_depth}-C5"] = partial(_resnet_body, depth=_depth, num_stages=4)
    BUILDERS[f"R-{_depth}-RETINANET"] = partial(_resnet_body, depth=_depth, num_stages=4)
    BUILDERS[f"R-{_depth}-FPN"] = partial(_resnet_fpn, depth=_depth, retinanet=False)
    BUILDERS[f"R-{_depth}-FPN-RETINANET"] = partial(_resnet_fpn, depth=_depth, retinanet=True)
"""Backbone names of ``MODEL.BACKBONE.CONV_BODY``."""
