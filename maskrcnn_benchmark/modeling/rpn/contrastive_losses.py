"""Losses that compare anchors and tokens as unit vectors in a common space."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from maskrcnn_benchmark.modeling.rpn.head_outputs import ShallowContrastiveInputs
from maskrcnn_benchmark.structures.bounding_box import BoxList

# Logit of a pair that does not take part: its probability is zero in float32.
EXCLUDED = -1e6

# Detection label of an anchor that stands for no box; no token has it.
NO_LABEL = -100


def contrastive_align_loss(logits: Tensor, positive_map: Tensor) -> Tensor:
    """Contrastive alignment of MDETR, https://arxiv.org/abs/2104.12763, section 2.2.2.

    Half the sum of two terms: every anchor that has tokens shall pick them among all tokens, every
    token that has anchors shall pick these among all anchors. Neither softmax leaves out padding.

    Args:
        logits: ``[B, A, T]`` similarities.
        positive_map: bool ``[B, A, T]``, True where the anchor's box is described by the token.

    Returns:
        Scalar sum over the batch; 0 when nothing is positive.
    """
    return (
        _pick_positives(logits, positive_map, dim=2) + _pick_positives(logits, positive_map, dim=1)
    ) / 2


def _pick_positives(logits: Tensor, positive_map: Tensor, dim: int) -> Tensor:
    count = positive_map.sum(dim=dim)
    mean = torch.where(positive_map, logits, 0.0).sum(dim=dim) / (count + 1e-6)
    loss = logits.logsumexp(dim=dim) - mean
    return torch.where(count > 0, loss, 0.0).sum()


@dataclass(frozen=True)
class ShallowContrastive:
    """Settings of the contrastive loss on features of before the tower.

    Attributes:
        image_dim: channels of the pyramid.
        text_dim: width of a token embedding.
        hidden_dim: width of the common space.
        max_positive_anchors: positives used per image.
        zero_pads: fill up images with fewer positives by zero features instead of negatives.
        num_tokens: token slots of a caption, the same on every rank.
        log_scale: initial logarithm of the temperature.
    """

    image_dim: int
    text_dim: int
    hidden_dim: int = 64
    max_positive_anchors: int = 100
    zero_pads: bool = False
    num_tokens: int = 256
    log_scale: float = 0.0

    def make_projections(self) -> tuple[nn.Linear, nn.Linear]:
        """Projections of image and text features into the common space."""
        projections = (
            nn.Linear(self.image_dim, self.hidden_dim),
            nn.Linear(self.text_dim, self.hidden_dim),
        )
        for projection in projections:
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)
        return projections


def shallow_contrastive_loss(
    inputs: ShallowContrastiveInputs,
    matched_box: Tensor,
    box_tokens: Tensor,
    targets: Sequence[BoxList],
    text_mask: Tensor,
    *,
    settings: ShallowContrastive,
    project_image: nn.Module,
    project_text: nn.Module,
    log_scale: Tensor,
) -> Tensor:
    """Contrast positive anchors and tokens over the images of all ranks.

    Within an image an anchor and a token belong together if the caption says so, across images if
    they carry the same detection label. Gradients flow through the features of this rank.

    Args:
        inputs: pyramid maps of ``B`` images with one anchor per location, and token embeddings.
        matched_box: int64 ``[B, A]``, row of the anchor's box in the batch, -1 for background.
        box_tokens: bool ``[G + 1, T]``, tokens of every box of the batch, a last row of False.
        targets: with the fields ``original_od_label`` (one per box; negative where the data are no
            detection data) and ``positive_map_for_od_labels`` (one per token, -1 for none).
        text_mask: ``[B, T]``, greater than 0 where a token stands.
        settings: sizes and sampling.
        project_image: of ``image_dim`` to ``hidden_dim``.
        project_text: of ``text_dim`` to ``hidden_dim``.
        log_scale: ``[1]``; cosines are divided by its exponential.

    Returns:
        Scalar sum over the anchors and tokens of this rank.

    Raises:
        ValueError: if the labels do not fit the boxes.
    """
    index, is_positive, takes_part = _select_anchors(matched_box, settings)
    pyramid = torch.cat([level.flatten(2).transpose(1, 2) for level in inputs.image_levels], dim=1)
    features = pyramid.gather(1, index[..., None].expand(-1, -1, pyramid.shape[-1]))
    features = torch.where(takes_part[..., None], features, 0.0).float()
    tokens = _fit(inputs.text, settings.num_tokens, dim=1).float()
    image = F.normalize(project_image(features), dim=-1)
    text = F.normalize(project_text(tokens), dim=-1)
    text_mask = _fit(text_mask > 0, settings.num_tokens, dim=1)

    box = torch.where(is_positive, matched_box.gather(1, index), -1)
    own_tokens = _fit(box_tokens, settings.num_tokens, dim=1)[box]
    anchor_labels, token_labels = _detection_labels(targets, box, settings.num_tokens)

    all_images, all_texts = _gather(image), _gather(text)
    rank = dist.get_rank() if _is_distributed() else 0
    own = torch.arange(len(image), device=image.device), rank * len(image)
    image_to_text = torch.einsum("bkd,itd->bkit", image, all_texts) / log_scale.exp()
    text_to_image = torch.einsum("btd,ikd->btik", text, all_images) / log_scale.exp()
    same_as_token = anchor_labels[:, :, None, None] == _gather(token_labels)
    same_as_anchor = token_labels[:, :, None, None] == _gather(anchor_labels)
    same_as_token = _with_own_caption(same_as_token, own_tokens, own)
    same_as_anchor = _with_own_caption(same_as_anchor, own_tokens.transpose(1, 2), own)
    return (
        _soft_cross_entropy(image_to_text, same_as_token, _gather(text_mask))
        + _soft_cross_entropy(text_to_image, same_as_anchor, _gather(takes_part))
    ) / 2


def positive_anchors(matched_box: Tensor) -> list[int]:
    """Anchors of one image that belong to a box, ascending.

    Args:
        matched_box: ``[A]``, -1 for background.
    """
    return (matched_box >= 0).nonzero().flatten().tolist()


def _select_anchors(
    matched_box: Tensor, settings: ShallowContrastive
) -> tuple[Tensor, Tensor, Tensor]:
    """Choose equally many anchors, ``K``, for every image of every rank.

    Draws from Python's ``random``: first the positives of every image, then what fills them up.

    Returns:
        Index ``[B, K]`` into the anchors, bool ``[B, K]`` whether it is one of the positives, bool
        ``[B, K]`` whether it is an anchor at all (zero features otherwise).
    """
    device = matched_box.device
    positives = [positive_anchors(image) for image in matched_box]
    limit = settings.max_positive_anchors
    chosen = [
        sorted(random.sample(anchors, limit)) if len(anchors) >= limit else anchors
        for anchors in positives
    ]
    count = _largest_over_ranks(max(map(len, chosen), default=0), device)
    index = torch.zeros(len(chosen), count, dtype=torch.int64)
    is_positive = torch.zeros(len(chosen), count, dtype=torch.bool)
    takes_part = torch.zeros(len(chosen), count, dtype=torch.bool)
    for row, (anchors, selected) in enumerate(zip(positives, chosen)):
        is_positive[row, : len(selected)] = True
        if not settings.zero_pads:
            others = sorted(set(range(matched_box.shape[1])).difference(anchors))
            # An image smaller than the largest of the batch may lack others: zeros remain.
            missing = min(count - len(selected), len(others))
            selected = selected + sorted(random.sample(others, missing))
        index[row, : len(selected)] = torch.tensor(selected, dtype=torch.int64)
        takes_part[row, : len(selected)] = True
    return index.to(device), is_positive.to(device), takes_part.to(device)


def _detection_labels(
    targets: Sequence[BoxList], box: Tensor, num_tokens: int
) -> tuple[Tensor, Tensor]:
    """Labels of anchors ``[B, K]`` (by their box in the batch) and tokens ``[B, num_tokens]``."""
    for number, target in enumerate(targets):
        if len(target.get_field("original_od_label")) != len(target):
            raise ValueError(
                f"target {number} has {len(target)} boxes and "
                f"{len(target.get_field('original_od_label'))} entries of original_od_label"
            )
    box_labels = torch.cat(
        [target.get_field("original_od_label").to(box) for target in targets]
        + [box.new_full((1,), NO_LABEL)]
    )
    token_labels = torch.stack(
        [
            _fit(target.get_field("positive_map_for_od_labels").to(box), num_tokens, 0, fill=-1)
            for target in targets
        ]
    )
    return box_labels[box], token_labels


def _with_own_caption(same: Tensor, own_map: Tensor, own: tuple[Tensor, int]) -> Tensor:
    """Replace what labels say about an image and its own caption by the exact map."""
    rows, offset = own
    same[rows, :, rows + offset] = own_map
    return same


def _soft_cross_entropy(logits: Tensor, positive: Tensor, takes_part: Tensor) -> Tensor:
    """Sum over rows of ``-t log softmax(z)``, the target ``t`` even over the positives of a row.

    Args:
        logits: ``[B, R, I, C]``, row ``(b, r)`` against column ``(i, c)``.
        positive: bool, same shape.
        takes_part: bool ``[I, C]``.
    """
    logits = logits.masked_fill(~takes_part, EXCLUDED).flatten(2)
    positive = positive.flatten(2)
    share = positive / positive.sum(dim=-1, keepdim=True).clamp(min=1e-6)
    return -(share * logits.log_softmax(dim=-1)).sum()


def _fit(tensor: Tensor, length: int, dim: int, fill: float = 0) -> Tensor:
    """Cut or fill ``dim`` (0 or 1) to ``length``."""
    tensor = tensor.narrow(dim, 0, min(length, tensor.shape[dim]))
    missing = [0, 0] * (tensor.ndim - 1 - dim) + [0, length - tensor.shape[dim]]
    return F.pad(tensor, missing, value=fill)


def _is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized()


def _largest_over_ranks(value: int, device: torch.device) -> int:
    if not _is_distributed():
        return value
    largest = torch.tensor(value, device=device)
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    return int(largest)


def _gather(tensor: Tensor) -> Tensor:
    """Join the batches of all ranks; the part of this rank keeps its gradient."""
    if not _is_distributed():
        return tensor
    # Collectives have no bool; uint8 travels everywhere.
    payload = tensor.detach().contiguous()
    payload = payload.to(torch.uint8) if payload.dtype == torch.bool else payload
    parts = [torch.empty_like(payload) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, payload)
    parts = [part.to(tensor.dtype) for part in parts]
    parts[dist.get_rank()] = tensor
    return torch.cat(parts)
