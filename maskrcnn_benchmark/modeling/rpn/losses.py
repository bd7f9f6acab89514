"""What the dense head is trained on."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from maskrcnn_benchmark.errors import ConfigError
from maskrcnn_benchmark.layers import sigmoid_focal_loss, token_sigmoid_focal_loss
from maskrcnn_benchmark.layers.iou_loss import giou_loss
from maskrcnn_benchmark.modeling.language_backbone.text_features import TextFeatures
from maskrcnn_benchmark.modeling.rpn.assignment import CENTRE_MARGIN, Assignment, atss_assign
from maskrcnn_benchmark.modeling.rpn.box_coder import BoxCoder
from maskrcnn_benchmark.modeling.rpn.contrastive_losses import (
    ShallowContrastive,
    contrastive_align_loss,
    shallow_contrastive_loss,
)
from maskrcnn_benchmark.modeling.rpn.head_outputs import HeadOutputs
from maskrcnn_benchmark.structures.bounding_box import BoxList


class ATSSLoss(nn.Module):
    """All losses of the dense head; the ones computed are those whose branch the head has.

    ======================== ====================================================================
    loss_reg                 generalised IoU of positive anchors, weighted by centerness
    loss_centerness          binary cross-entropy of positive anchors
    loss_cls                 focal loss on a fixed vocabulary; a constant 0 unless ``classify``
    loss_dot_product_token   focal loss on the similarity of every anchor to every token (GLIP)
    loss_token               the same on logits that a convolution predicts per token slot
    loss_contrastive_align   contrastive alignment of anchors and tokens (MDETR)
    loss_shallow_contrastive contrast on the features of before the tower
    mlm_loss                 cross-entropy of masked tokens
    ======================== ====================================================================

    Sums over anchors are divided by the number of positive anchors per rank, averaged over all
    ranks, so that ranks whose gradients are averaged weigh every positive alike. Everything is
    computed in float32 also under autocast.

    Args:
        topk: ATSS candidates per level and box.
        regression_weight: factor of ``loss_reg``.
        classify: train the fixed-vocabulary branch.
        focal_alpha, focal_gamma: focal loss of that branch.
        token_alpha, token_gamma: focal losses of tokens.
        dot_product_weight, token_weight, contrastive_weight, shallow_weight, mlm_weight: factors
            of the respective losses.
        shallow: settings of the shallow contrastive loss; its projections become parameters of this
            module.
        box_coder: turns boxes into regression targets and back.
    """

    def __init__(
        self,
        *,
        topk: int = 9,
        regression_weight: float = 2.0,
        classify: bool = False,
        focal_alpha: float = 0.25,
        focal_gamma: float = 2.0,
        token_alpha: float = 0.25,
        token_gamma: float = 2.0,
        dot_product_weight: float = 1.0,
        token_weight: float = 1.0,
        contrastive_weight: float = 1.0,
        shallow_weight: float = 1.0,
        mlm_weight: float = 1.0,
        shallow: ShallowContrastive | None = None,
        box_coder: BoxCoder | None = None,
    ) -> None:
        super().__init__()
        self.topk = topk
        self.regression_weight = regression_weight
        self.classify = classify
        self.focal_alpha, self.focal_gamma = focal_alpha, focal_gamma
        self.token_alpha, self.token_gamma = token_alpha, token_gamma
        self.dot_product_weight = dot_product_weight
        self.token_weight = token_weight
        self.contrastive_weight = contrastive_weight
        self.shallow_weight = shallow_weight
        self.mlm_weight = mlm_weight
        self.box_coder = box_coder or BoxCoder()
        self.shallow = shallow
        if shallow is not None:
            image, text = shallow.make_projections()
            self.shallow_contrastive_projection_image = image
            self.shallow_contrastive_projection_text = text
            self.shallow_log_scale = nn.Parameter(torch.tensor([shallow.log_scale]))

    def forward(
        self,
        outputs: HeadOutputs,
        anchors: Sequence[Tensor],
        targets: Sequence[BoxList],
        positive_map: Tensor | None = None,
        text: TextFeatures | None = None,
        normalizers: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Losses of a batch.

        Args:
            outputs: predictions for ``B`` images.
            anchors: per level ``[A_l, 4]`` xyxy.
            targets: per image the ``G_b`` boxes, with the field ``labels`` (1 or more), and the
                fields of :func:`.contrastive_losses.shallow_contrastive_loss` where that is on. An
                image without boxes is all background.
            positive_map: ``[G, tokens]`` with ``G`` the sum of ``G_b``, in batch order: non-zero
                where a token belongs to the phrase of a box. Needed with text; columns beyond the
                text are dropped, missing ones are zero.
            text: its ``masks`` tell real tokens from padding.
            normalizers: ``[2]`` from :func:`shared_normalizers`, where the batch is a part of a
                larger one; None: those of this batch.

        Returns:
            Scalars by name, already weighted: their sum is what is to be minimised.

        Raises:
            ValueError: if there are not as many targets as images, or the rows of ``positive_map``
                do not match the boxes.
        """
        with torch.autocast(device_type=anchors[0].device.type, enabled=False):
            return self._losses(outputs, anchors, targets, positive_map, text, normalizers)

    @torch.no_grad()
    def count(self, anchors: Sequence[Tensor], targets: Sequence[BoxList]) -> Tensor:
        """What the losses of a batch divide by, before it is shared over ranks and parts.

        Depends on boxes and anchors alone, so it can be had without running the network.

        Args:
            anchors: per level ``[A_l, 4]`` xyxy.
            targets: per image its boxes.

        Returns:
            float32 ``[2]``: number of positive anchors, sum of their centerness.
        """
        anchors = [level.float() for level in anchors]
        boxes = _all_boxes(targets, anchors[0])
        assignment = atss_assign(anchors, boxes, [len(target) for target in targets], self.topk)
        _, weights = self._box_targets(torch.cat(anchors), boxes, assignment)
        return _counts(assignment.positive, weights)

    def _losses(
        self,
        outputs: HeadOutputs,
        anchors: Sequence[Tensor],
        targets: Sequence[BoxList],
        positive_map: Tensor | None,
        text: TextFeatures | None,
        normalizers: Tensor | None,
    ) -> dict[str, Tensor]:
        batch_size = len(outputs.centerness[0])
        if len(targets) != batch_size:
            raise ValueError(f"{len(targets)} targets for a batch of {batch_size} images")
        boxes = _all_boxes(targets, anchors[0])
        assignment = atss_assign(anchors, boxes, [len(target) for target in targets], self.topk)

        losses, normalizer = self._box_losses(
            outputs, torch.cat(tuple(anchors)), boxes, assignment, normalizers
        )
        matched_box = assignment.matched_box
        losses["loss_cls"] = self._class_loss(outputs, targets, matched_box, normalizer)
        if text is None:
            return losses

        num_tokens = text.masks.shape[1]
        box_tokens = _box_tokens(positive_map, len(boxes), num_tokens, boxes.device)
        for name, logits, weight in (
            ("loss_dot_product_token", outputs.token_logits, self.dot_product_weight),
            ("loss_token", outputs.soft_token_logits, self.token_weight),
        ):
            if logits is not None:
                loss = self._token_loss(logits, box_tokens, matched_box, text.masks)
                losses[name] = weight * loss / normalizer
        if outputs.contrastive is not None:
            logits = torch.cat(outputs.contrastive.logits(), dim=1).float()
            loss = contrastive_align_loss(logits, box_tokens[matched_box])
            losses["loss_contrastive_align"] = self.contrastive_weight * loss / normalizer
        if self.shallow is not None:
            loss = shallow_contrastive_loss(
                outputs.shallow_contrastive,
                matched_box,
                box_tokens,
                targets,
                text.masks,
                settings=self.shallow,
                project_image=self.shallow_contrastive_projection_image,
                project_text=self.shallow_contrastive_projection_text,
                log_scale=self.shallow_log_scale,
            )
            losses["loss_shallow_contrastive"] = self.shallow_weight * loss / normalizer
        if outputs.mlm_logits is not None:
            loss = masked_language_loss(outputs.mlm_logits.float(), text.mlm_labels)
            losses["mlm_loss"] = self.mlm_weight * loss
        return losses

    def _box_targets(
        self, anchors: Tensor, boxes: Tensor, assignment: Assignment
    ) -> tuple[Tensor, Tensor]:
        """Target box ``[P, 4]`` and centerness ``[P]`` of every pair, 0 for those that do not hold."""
        pair_anchors = anchors[assignment.pair_anchor % len(anchors)]
        # Both boxes go through the coder, which limits how large a target can be.
        targets = self.box_coder.encode(boxes[assignment.pair_box], pair_anchors)
        targets = self.box_coder.decode(targets, pair_anchors)
        centerness = centerness_targets(targets, pair_anchors)
        return targets, torch.where(assignment.positive, centerness, 0.0)

    def _box_losses(
        self,
        outputs: HeadOutputs,
        anchors: Tensor,
        boxes: Tensor,
        assignment: Assignment,
        normalizers: Tensor | None,
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Regression and centerness losses, and the number of positives that others divide by.

        Works on all candidate pairs with those that are not positive blanked out, because picking
        the positive ones would make the host wait for their number.
        """
        positive = assignment.positive
        deltas = _rows(outputs.box_regression, 4).index_select(0, assignment.pair_anchor)
        centerness = _rows(outputs.centerness, 1).index_select(0, assignment.pair_anchor)[:, 0]
        pair_anchors = anchors[assignment.pair_anchor % len(anchors)]
        targets, weights = self._box_targets(anchors, boxes, assignment)
        if normalizers is None:
            normalizers = shared_normalizers(_counts(positive, weights))
        normalizer, sum_of_weights = normalizers.unbind()

        predicted = self.box_coder.decode(torch.where(positive[:, None], deltas, 0.0), pair_anchors)
        regression = (weights * giou_loss(predicted, targets)).sum() / sum_of_weights
        cross_entropy = F.binary_cross_entropy_with_logits(
            torch.where(positive, centerness, 0.0), weights, positive.to(weights), reduction="sum"
        )
        losses = {
            "loss_reg": self.regression_weight * regression,
            "loss_centerness": cross_entropy / normalizer,
        }
        return losses, normalizer

    def _class_loss(
        self,
        outputs: HeadOutputs,
        targets: Sequence[BoxList],
        matched_box: Tensor,
        normalizer: Tensor,
    ) -> Tensor:
        """Focal loss on the fixed vocabulary. Skipped, not multiplied by 0, where it has no weight:
        an overflow in logits that nobody trains would turn the product into NaN.
        """
        if not self.classify or outputs.cls_logits is None:
            return normalizer.new_zeros(())
        anchors_per_location = outputs.centerness[0].shape[1]
        num_classes = outputs.cls_logits[0].shape[1] // anchors_per_location
        labels = [target.get_field("labels").to(matched_box) for target in targets]
        labels = torch.cat((*labels, matched_box.new_zeros(1)))[matched_box]
        loss = sigmoid_focal_loss(
            _rows(outputs.cls_logits, num_classes),
            labels.flatten().int(),
            gamma=self.focal_gamma,
            alpha=self.focal_alpha,
        )
        return loss.sum() / normalizer

    def _token_loss(
        self, logits: Sequence[Tensor], box_tokens: Tensor, matched_box: Tensor, masks: Tensor
    ) -> Tensor:
        """Focal loss summed over anchors and real tokens; level by level, to spare a copy."""
        total = 0.0
        start = 0
        for level in logits:
            matched = matched_box[:, start : start + level.shape[1]]
            start += level.shape[1]
            total = total + token_sigmoid_focal_loss(
                level[..., : masks.shape[1]].float(),
                box_tokens[matched],
                masks,
                alpha=self.token_alpha,
                gamma=self.token_gamma,
            )
        return total


def centerness_targets(boxes: Tensor, anchors: Tensor) -> Tensor:
    """How central anchors lie in their boxes, FCOS https://arxiv.org/abs/1904.01355, equation 3.

    ``sqrt(min(l, r) / max(l, r) * min(t, b) / max(t, b))`` with the distances of the anchor's
    centre to the left, right, upper and lower side.

    Args:
        boxes: ``[..., 4]`` xyxy.
        anchors: ``[..., 4]`` xyxy.

    Returns:
        ``[...]`` in [0, 1]; 0 for an anchor whose centre is not inside.
    """
    centres = (anchors[..., :2] + anchors[..., 2:]) / 2
    before, after = centres - boxes[..., :2], boxes[..., 2:] - centres
    # Kept off zero, where the quotient is undefined: nothing assigned lies closer to a side.
    nearer = torch.minimum(before, after).clamp(min=0)
    farther = torch.maximum(before, after).clamp(min=CENTRE_MARGIN)
    ratio = nearer / farther
    return (ratio[..., 0] * ratio[..., 1]).sqrt()


def masked_language_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy averaged over the tokens to be predicted; 0 where there are none.

    Args:
        logits: ``[B, T, vocabulary]``.
        labels: int64 ``[B, T]``, -100 for tokens that do not count.
    """
    total = F.cross_entropy(
        logits.flatten(0, 1), labels.flatten(), ignore_index=-100, reduction="sum"
    )
    return total / (labels != -100).sum().clamp(min=1)


def build_loss_evaluator(cfg, text_dim: int | None = None) -> ATSSLoss:
    """Losses of the dense head from ``MODEL.ATSS``, ``MODEL.FOCAL`` and ``MODEL.DYHEAD``.

    Args:
        cfg: the whole configuration.
        text_dim: width of the text features; None: ``MODEL.LANGUAGE_BACKBONE.LANG_DIM``.

    Raises:
        ConfigError: for the backbone variant of the shallow contrastive loss, which needs a backbone
            that reads language.
    """
    fuse = cfg.MODEL.DYHEAD.FUSE_CONFIG
    anchors_per_location = len(cfg.MODEL.RPN.ASPECT_RATIOS) * cfg.MODEL.RPN.SCALES_PER_OCTAVE
    if fuse.USE_BACKBONE_SHALLOW_CONTRASTIVE_LOSS:
        raise ConfigError(
            "MODEL.DYHEAD.FUSE_CONFIG.USE_BACKBONE_SHALLOW_CONTRASTIVE_LOSS is not supported: no "
            "backbone here gives its maps before fusion; use USE_SHALLOW_CONTRASTIVE_LOSS"
        )
    shallow = None
    if fuse.USE_SHALLOW_CONTRASTIVE_LOSS:
        if anchors_per_location != 1:
            raise ConfigError(
                "MODEL.DYHEAD.FUSE_CONFIG.USE_SHALLOW_CONTRASTIVE_LOSS needs one anchor per "
                f"location, MODEL.RPN gives {anchors_per_location}"
            )
        shallow = ShallowContrastive(
            image_dim=cfg.MODEL.BACKBONE.OUT_CHANNELS,
            text_dim=text_dim or cfg.MODEL.LANGUAGE_BACKBONE.LANG_DIM,
            hidden_dim=fuse.SHALLOW_CONTRASTIVE_HIDDEN_DIM,
            max_positive_anchors=fuse.SHALLOW_MAX_POSITIVE_ANCHORS,
            zero_pads=fuse.USE_SHALLOW_ZERO_PADS,
            num_tokens=cfg.MODEL.LANGUAGE_BACKBONE.MAX_QUERY_LEN,
            log_scale=cfg.MODEL.DYHEAD.SHALLOW_LOG_SCALE,
        )
    return ATSSLoss(
        topk=cfg.MODEL.ATSS.TOPK * anchors_per_location,
        regression_weight=cfg.MODEL.ATSS.REG_LOSS_WEIGHT,
        classify=fuse.USE_CLASSIFICATION_LOSS,
        focal_alpha=cfg.MODEL.FOCAL.LOSS_ALPHA,
        focal_gamma=cfg.MODEL.FOCAL.LOSS_GAMMA,
        token_alpha=fuse.TOKEN_ALPHA,
        token_gamma=fuse.TOKEN_GAMMA,
        dot_product_weight=fuse.DOT_PRODUCT_TOKEN_LOSS_WEIGHT,
        token_weight=fuse.TOKEN_LOSS_WEIGHT,
        contrastive_weight=fuse.CONTRASTIVE_ALIGN_LOSS_WEIGHT,
        shallow_weight=fuse.SHALLOW_CONTRASTIVE_LOSS_WEIGHT,
        mlm_weight=fuse.MLM_LOSS_COEF,
        shallow=shallow,
    )


def _rows(levels: Sequence[Tensor], width: int) -> Tensor:
    """Maps ``[B, a * width, H_l, W_l]`` as float32 rows ``[B * A, width]`` in anchor order."""
    flat = [level.permute(0, 2, 3, 1).reshape(len(level), -1, width) for level in levels]
    return torch.cat(flat, dim=1).flatten(0, 1).float()


def _box_tokens(
    positive_map: Tensor | None, num_boxes: int, num_tokens: int, device: torch.device
) -> Tensor:
    """Bool ``[G + 1, T]``: the tokens of every box, and a last row, index -1, for background.

    Background has no token at all, not even the last slot, which a long caption fills.
    """
    rows = torch.zeros(num_boxes + 1, num_tokens, dtype=torch.bool, device=device)
    if num_boxes == 0:
        return rows
    if positive_map is None or len(positive_map) != num_boxes:
        found = "none" if positive_map is None else len(positive_map)
        raise ValueError(
            f"positive_map needs one row for each of the {num_boxes} boxes of the batch, got "
            f"{found}"
        )
    columns = min(num_tokens, positive_map.shape[1])
    rows[:-1, :columns] = positive_map[:, :columns].to(device) > 0
    return rows


def shared_normalizers(counts: Tensor, parts: int = 1) -> Tensor:
    """What every rank and every part of a batch divides its sums over anchors by.

    The mean over ranks and parts, so that the mean of their losses is the loss of the whole. Every
    rank has to call it, whatever it holds.

    Args:
        counts: ``[2]`` of this rank, the parts summed up, see :meth:`ATSSLoss.count`.
        parts: number of batches whose gradients are averaged into one update.

    Returns:
        ``[2]``, larger than 0: without positives the sums are zero, and so must be the losses.
    """
    positives, centerness = _mean_over_ranks(counts).unbind()
    return torch.stack((positives.clamp(min=1.0), centerness.clamp(min=1e-6))) / parts


def _counts(positive: Tensor, weights: Tensor) -> Tensor:
    return torch.stack((positive.sum().to(weights), weights.sum()))


def _all_boxes(targets: Sequence[BoxList], like: Tensor) -> Tensor:
    return torch.cat([target.convert("xyxy").bbox for target in targets]).to(like)


def _mean_over_ranks(values: Tensor) -> Tensor:
    """Sum over all ranks divided by their number. Every rank has to call it, whatever it holds."""
    if not (dist.is_available() and dist.is_initialized()):
        return values
    values = values.clone()
    dist.all_reduce(values)
    return values / dist.get_world_size()
