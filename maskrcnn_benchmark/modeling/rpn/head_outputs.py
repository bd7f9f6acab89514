"""What the dense head hands to the losses and to the post-processing."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor


@dataclass
class ContrastiveEmbeddings:
    """The two sides of the contrastive alignment loss, both of unit length.

    Attributes:
        image: per level ``[B, A_l, D]``, one embedding per anchor, in anchor order.
        text: ``[B, T, D]``, one embedding per token.
        log_scale: ``[1]``; logits are ``image . text / exp(log_scale)``.
    """

    image: list[Tensor]
    text: Tensor
    log_scale: Tensor

    def logits(self) -> list[Tensor]:
        """Similarity of every anchor to every token, per level ``[B, A_l, T]``."""
        scale = self.log_scale.exp()
        return [image @ self.text.transpose(1, 2) / scale for image in self.image]


@dataclass
class ShallowContrastiveInputs:
    """Features of before the tower, for the shallow contrastive loss.

    Attributes:
        text: ``[B, T, text_dim]``, the token embedding that the prediction branches used (of unit
            length where the dot-product branch ran).
        image_levels: the pyramid maps that entered the tower, per level ``[B, C, H_l, W_l]``.
    """

    text: Tensor
    image_levels: list[Tensor]


@dataclass
class HeadOutputs:
    """Predictions of one batch. Lists run over the pyramid levels, finest first.

    With ``a`` anchors per location and ``A_l = a * H_l * W_l`` anchors on a level, everything with
    an ``A_l`` axis is ordered as the anchors are: rows, then columns, then anchors of a location.
    A branch that the model does not have, or that nothing will read, is None.

    Attributes:
        box_regression: per level ``[B, 4a, H_l, W_l]``, encoded box deltas, anchor-major channels.
        centerness: per level ``[B, a, H_l, W_l]`` logits.
        fused_features: per level ``[B, C, H_l, W_l]``, what every branch read.
        token_logits: dot-product grounding logits, per level ``[B, A_l, T]``.
        soft_token_logits: per level ``[B, A_l, max_query_len]``; wider than the text where the
            text was trimmed, its first T columns belong to the tokens.
        cls_logits: fixed-vocabulary logits, per level ``[B, a * num_classes, H_l, W_l]``.
        contrastive: embeddings of the contrastive alignment branch.
        shallow_contrastive: features for the shallow contrastive loss.
        mlm_logits: ``[B, T, vocabulary]`` of the masked-language-model branch.
    """

    box_regression: list[Tensor]
    centerness: list[Tensor]
    fused_features: list[Tensor]
    token_logits: list[Tensor] | None = None
    soft_token_logits: list[Tensor] | None = None
    cls_logits: list[Tensor] | None = None
    contrastive: ContrastiveEmbeddings | None = None
    shallow_contrastive: ShallowContrastiveInputs | None = None
    mlm_logits: Tensor | None = None

    def of_images(self, begin: int, end: int) -> HeadOutputs:
        """What the post-processing reads, for the images ``begin`` to ``end`` of the batch."""
        names = ("box_regression", "centerness", "token_logits", "soft_token_logits", "cls_logits")
        levels = {name: getattr(self, name) for name in names}
        chosen = {
            name: maps if maps is None else [level[begin:end] for level in maps]
            for name, maps in levels.items()
        }
        return replace(self, **chosen)
