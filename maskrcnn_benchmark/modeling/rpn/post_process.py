"""From the predictions of the dense head to detections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate

import torch
from torch import Tensor, nn

from maskrcnn_benchmark.layers import ml_nms
from maskrcnn_benchmark.modeling.rpn.box_coder import BoxCoder
from maskrcnn_benchmark.modeling.rpn.head_outputs import HeadOutputs
from maskrcnn_benchmark.modeling.rpn.token_scores import TokenAggregator
from maskrcnn_benchmark.structures.bounding_box import BoxList

LabelToTokens = Mapping[int, Sequence[int] | int]


class PostProcessor(nn.Module):
    """Selects, decodes and suppresses.

    A pair of anchor and label is a candidate when its class score alone exceeds the threshold. What
    is ranked and reported is ``sqrt(class score * centerness)``.

    Args:
        score_threshold: candidates score strictly more, before centerness.
        pre_nms_top_n: candidates kept per image and pyramid level.
        nms_threshold: overlap above which the weaker box of a label goes; 0 or less keeps all.
        detections_per_image: kept in the end; 0 or less keeps all.
        score_aggregation: how tokens make a label's score, see :mod:`.token_scores`.
        suppress: False returns the candidates of all levels without the last two steps, for
            merging over several views of an image.
        box_coder: decodes the box regression.
    """

    def __init__(
        self,
        *,
        score_threshold: float = 0.05,
        pre_nms_top_n: int = 1000,
        nms_threshold: float = 0.6,
        detections_per_image: int = 100,
        score_aggregation: str = "MEAN",
        suppress: bool = True,
        box_coder: BoxCoder | None = None,
    ) -> None:
        super().__init__()
        self.score_threshold = score_threshold
        self.pre_nms_top_n = pre_nms_top_n
        self.nms_threshold = nms_threshold
        self.detections_per_image = detections_per_image
        self.score_aggregation = score_aggregation
        self.suppress = suppress
        self.box_coder = box_coder or BoxCoder()

    @torch.no_grad()
    def forward(
        self,
        outputs: HeadOutputs,
        anchors: Sequence[Tensor],
        image_sizes: Sequence[tuple[int, int]],
        label_to_tokens: LabelToTokens | None = None,
    ) -> list[BoxList]:
        """Detections of a batch.

        Args:
            outputs: predictions for ``B`` images. Dot-product token logits are read before soft
                token logits, these before logits of a fixed vocabulary.
            anchors: per level ``[A_l, 4]`` xyxy.
            image_sizes: ``(height, width)`` of each image without padding; boxes are clipped to it.
            label_to_tokens: label to token positions, the same for all images. Without it a
                grounding model detects nothing; a fixed vocabulary does not need it.

        Returns:
            For each image a list of xyxy boxes with the fields ``scores`` (float32) and ``labels``
            (int64), best score first.

        Raises:
            ValueError: if ``label_to_tokens`` does not fit the text, see :class:`TokenAggregator`.
        """
        logits, label_to_tokens = _score_logits(outputs, label_to_tokens)
        aggregator = TokenAggregator(label_to_tokens, logits[0].shape[-1], self.score_aggregation)
        if not aggregator.labels:
            return [_empty(size, logits[0].device) for size in image_sizes]

        with torch.autocast(device_type=logits[0].device.type, enabled=False):
            image, boxes, scores, labels = self._candidates(
                outputs, logits, anchors, image_sizes, aggregator
            )
            if self.suppress and self.nms_threshold > 0:
                # Boxes of different images never meet: to the kernel they are different labels.
                group = image * (max(aggregator.labels) + 1) + labels
                keep = ml_nms(boxes, scores, group, self.nms_threshold)
                image, boxes, scores, labels = (x[keep] for x in (image, boxes, scores, labels))
        counts = torch.bincount(image, minlength=len(image_sizes)).tolist()
        limit = self.detections_per_image if self.suppress else 0
        return [
            _best(size, *fields, limit)
            for size, *fields in zip(
                image_sizes, boxes.split(counts), scores.split(counts), labels.split(counts)
            )
        ]

    def _candidates(
        self,
        outputs: HeadOutputs,
        logits: Sequence[Tensor],
        anchors: Sequence[Tensor],
        image_sizes: Sequence[tuple[int, int]],
        aggregator: TokenAggregator,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Image, box, score and label of each candidate, image after image, level after level."""
        device = logits[0].device
        # Mean, maximum and geometric mean above the threshold imply some token above it: whole
        # labels are scored only where that is so. The range may hold separators at little cost.
        first, last = aggregator.tokens[0], aggregator.tokens[-1] + 1
        logits = torch.cat([level[..., first:last] for level in logits], dim=1)
        best = logits.amax(dim=-1).float().sigmoid()
        found = (best.flatten() > self.score_threshold).nonzero().squeeze(1)

        probabilities = logits.flatten(0, 1).index_select(0, found).float().sigmoid()
        if len(aggregator.tokens) < last - first:
            columns = torch.tensor(aggregator.tokens, device=device) - first
            probabilities = probabilities.index_select(1, columns)
        class_scores = aggregator(probabilities)
        centerness = _flatten_levels(outputs.centerness, 1).index_select(0, found).float().sigmoid()
        deltas = _flatten_levels(outputs.box_regression, 4).index_select(0, found).float()
        broken = centerness.isnan().any(-1) | deltas.isnan().any(-1)
        passed = (class_scores > self.score_threshold) & ~broken[:, None]
        row, column = passed.nonzero(as_tuple=True)
        scores = class_scores[row, column] * centerness[row, 0]

        num_anchors = sum(map(len, anchors))
        image, anchor = found[row] // num_anchors, found[row] % num_anchors
        level_ends = torch.tensor(list(accumulate(map(len, anchors))), device=device)
        group = image * len(anchors) + torch.bucketize(anchor, level_ends, right=True)
        chosen = self._top_of_each_group(scores, group, len(image_sizes) * len(anchors))
        row, column, scores, image, anchor = (
            x[chosen] for x in (row, column, scores, image, anchor)
        )

        boxes = self.box_coder.decode(deltas[row], torch.cat(tuple(anchors))[anchor])
        limits = boxes.new_tensor([(w - 1, h - 1, w - 1, h - 1) for h, w in image_sizes])
        boxes = boxes.clamp(min=0).minimum(limits[image])
        labels = torch.tensor(aggregator.labels, device=device)[column]
        return image, boxes, scores.sqrt(), labels

    def _top_of_each_group(self, scores: Tensor, group: Tensor, num_groups: int) -> Tensor:
        """Indices of the ``pre_nms_top_n`` best scores of every group; groups come in order."""
        counts = torch.bincount(group, minlength=num_groups).tolist()
        chosen = []
        start = 0
        for count in counts:
            if count > self.pre_nms_top_n:
                top = scores[start : start + count].topk(self.pre_nms_top_n, sorted=False)[1]
                chosen.append(top + start)
            else:
                chosen.append(torch.arange(start, start + count, device=scores.device))
            start += count
        return torch.cat(chosen)


def build_post_processor(cfg) -> PostProcessor:
    """Post-processor from ``MODEL.ATSS``."""
    atss = cfg.MODEL.ATSS
    return PostProcessor(
        score_threshold=atss.INFERENCE_TH,
        pre_nms_top_n=atss.PRE_NMS_TOP_N,
        nms_threshold=atss.NMS_TH,
        detections_per_image=atss.DETECTIONS_PER_IMG,
        score_aggregation=cfg.MODEL.DYHEAD.SCORE_AGG,
        suppress=not cfg.TEST.USE_MULTISCALE,
    )


def _score_logits(
    outputs: HeadOutputs, label_to_tokens: LabelToTokens | None
) -> tuple[list[Tensor], LabelToTokens]:
    """The logits that tell what an anchor shows, per level ``[B, A_l, columns]``, and their map."""
    for grounding in (outputs.token_logits, outputs.soft_token_logits):
        if grounding is not None:
            return grounding, label_to_tokens or {}
    if outputs.cls_logits is None:
        raise ValueError("the head gave neither token logits nor class logits")
    anchors_per_location = outputs.centerness[0].shape[1]
    num_classes = outputs.cls_logits[0].shape[1] // anchors_per_location
    logits = [_flatten(level, num_classes) for level in outputs.cls_logits]
    return logits, {column + 1: [column] for column in range(num_classes)}


def _flatten(level: Tensor, width: int) -> Tensor:
    """``[B, a * width, H, W]`` to ``[B, H * W * a, width]``, in the order of the anchors."""
    return level.permute(0, 2, 3, 1).reshape(len(level), -1, width)


def _flatten_levels(levels: Sequence[Tensor], width: int) -> Tensor:
    """Maps of all levels as rows ``[B * A, width]``."""
    return torch.cat([_flatten(level, width) for level in levels], dim=1).flatten(0, 1)


def _best(
    size: tuple[int, int], boxes: Tensor, scores: Tensor, labels: Tensor, limit: int
) -> BoxList:
    """Detections of one image by descending score, at most ``limit`` if that is positive."""
    order = scores.argsort(descending=True, stable=True)
    if limit > 0:
        order = order[:limit]
    height, width = size
    detections = BoxList(boxes[order], (width, height), mode="xyxy")
    detections.add_field("scores", scores[order])
    detections.add_field("labels", labels[order])
    return detections


def _empty(size: tuple[int, int], device: torch.device) -> BoxList:
    boxes = torch.empty(0, 4, device=device)
    return _best(size, boxes, boxes[:, 0], boxes.new_empty(0, dtype=torch.int64), 0)
