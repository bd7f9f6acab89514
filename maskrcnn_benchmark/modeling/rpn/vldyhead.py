"""The dense head: a tower in which image and text meet, and the branches that read its maps."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from maskrcnn_benchmark.layers.scale import Scale
from maskrcnn_benchmark.modeling.fusion.feature_resizer import FeatureResizer
from maskrcnn_benchmark.modeling.language_backbone.prompt_offsets import make_prompt_offsets
from maskrcnn_benchmark.modeling.language_backbone.text_features import TextFeatures
from maskrcnn_benchmark.modeling.rpn.anchor_generator import AnchorGenerator
from maskrcnn_benchmark.modeling.rpn.head_outputs import (
    ContrastiveEmbeddings,
    HeadOutputs,
    ShallowContrastiveInputs,
)
from maskrcnn_benchmark.modeling.rpn.losses import ATSSLoss
from maskrcnn_benchmark.modeling.rpn.post_process import PostProcessor
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.image_list import ImageList

_LOGIT_LIMIT = 50000.0

# Label to the positions of its tokens.
PositiveMap = Mapping[int, Sequence[int]]


class MaskedLanguageHead(nn.Module):
    """Predicts masked tokens: dense, GELU, layer norm, projection onto the vocabulary.

    Its weights are its own, not those of the text encoder. ``bias`` is also ``decoder.bias``.

    Args:
        dim: width of the tokens.
        vocabulary_size: number of words to choose from.
    """

    def __init__(self, dim: int, vocabulary_size: int) -> None:
        super().__init__()
        self.transform = nn.Module()
        self.transform.dense = nn.Linear(dim, dim)
        self.transform.LayerNorm = nn.LayerNorm(dim, eps=1e-12)
        self.bias = nn.Parameter(torch.zeros(vocabulary_size))
        self.decoder = nn.Linear(dim, vocabulary_size, bias=False)
        self.decoder.bias = self.bias

    def forward(self, tokens: Tensor) -> Tensor:
        """``[B, T, dim]`` to logits ``[B, T, vocabulary_size]``."""
        return self.decoder(self.transform.LayerNorm(F.gelu(self.transform.dense(tokens))))


class VLDyHead(nn.Module):
    """Tower and prediction branches. All branches read the same maps, the tower's output.

    Args:
        tower: layers that map ``(maps, text)`` to the same, in order.
        channels: channels of the tower's maps.
        text_dim: width of the text that the branches read.
        num_levels: number of pyramid levels.
        anchors_per_location: number of anchors at a position.
        num_classes: size of the fixed vocabulary, without background.
        prior_prob: probability that a new model gives to any anchor and class or token.
        predict_classes: compute the logits of the fixed vocabulary. Their parameters exist anyway,
            published checkpoints have them.
        dot_product: token logits as similarity of anchors and tokens.
        log_scale: initial logarithm of the temperature that divides similarities.
        clamp_dot_product: keep the token logits within +-50000.
        read_fused_text: the branches read the text that leaves the tower; otherwise the text as
            the encoder gave it.
        soft_token_slots: token slots of the convolutional token branch; 0: no such branch.
        contrastive_dim: width of the contrastive embeddings; 0: no such branch.
        mlm_vocabulary_size: words of the masked-language-model branch; 0: no such branch.
        keep_shallow_features: hand out what the shallow contrastive loss reads.

    Raises:
        ValueError: for the dot product with several anchors per location, or together with the
            contrastive branch.
    """

    def __init__(
        self,
        tower: Iterable[nn.Module],
        *,
        channels: int,
        text_dim: int,
        num_levels: int = 5,
        anchors_per_location: int = 1,
        num_classes: int = 80,
        prior_prob: float = 0.01,
        predict_classes: bool = False,
        dot_product: bool = True,
        log_scale: float = 0.0,
        clamp_dot_product: bool = False,
        read_fused_text: bool = False,
        soft_token_slots: int = 0,
        contrastive_dim: int = 0,
        mlm_vocabulary_size: int = 0,
        keep_shallow_features: bool = False,
    ) -> None:
        super().__init__()
        if dot_product and contrastive_dim:
            raise ValueError("the dot-product and the contrastive branch exclude each other")
        if dot_product and anchors_per_location != 1:
            raise ValueError(
                f"the dot-product branch needs one anchor per location, got {anchors_per_location}"
            )
        self.anchors_per_location = anchors_per_location
        self.predict_classes = predict_classes
        self.dot_product = dot_product
        self.clamp_dot_product = clamp_dot_product
        self.read_fused_text = read_fused_text
        self.soft_token_slots = soft_token_slots
        self.contrastive_dim = contrastive_dim
        self.keep_shallow_features = keep_shallow_features

        prior_logit = -math.log((1 - prior_prob) / prior_prob)

        def branch(size: int, bias: float = 0.0) -> nn.Conv2d:
            conv = nn.Conv2d(channels, anchors_per_location * size, kernel_size=1)
            nn.init.normal_(conv.weight, std=0.01)
            nn.init.constant_(conv.bias, bias)
            return conv

        self.dyhead_tower = nn.ModuleList(tower)
        self.cls_logits = branch(num_classes, prior_logit)
        self.bbox_pred = branch(4)
        self.centerness = branch(1)
        self.scales = nn.ModuleList(Scale() for _ in range(num_levels))
        if dot_product or contrastive_dim:
            self.log_scale = nn.Parameter(torch.tensor([float(log_scale)]))
        if dot_product:
            self.dot_product_projection_text = nn.Linear(text_dim, channels)
            self.bias_lang = nn.Parameter(torch.zeros(text_dim))
            self.bias0 = nn.Parameter(torch.tensor([prior_logit]))
        if soft_token_slots:
            self.token_logits = branch(soft_token_slots, prior_logit)
        if contrastive_dim:
            self.contrastive_align_projection_image = branch(contrastive_dim)
            self.contrastive_align_projection_text = nn.Linear(text_dim, contrastive_dim)
        self.mlm_head = None
        if mlm_vocabulary_size:
            self.mlm_head = MaskedLanguageHead(text_dim, mlm_vocabulary_size)

    def forward(
        self, features: Sequence[Tensor], text: TextFeatures, embedding: Tensor
    ) -> HeadOutputs:
        """Predictions of a batch.

        Args:
            features: pyramid maps ``[B, C, H_l, W_l]``, finest first.
            text: ``B`` captions of ``T`` token slots.
            embedding: ``[B, T, text_dim]``, what the branches read unless they read fused text.
        """
        fused = list(features)
        for layer in self.dyhead_tower:
            fused, text = layer(fused, text)
        if self.read_fused_text:
            embedding = text.hidden

        token_logits = None
        branch_text = embedding
        if self.dot_product:
            branch_text = F.normalize(embedding, dim=-1)
            token_logits = self.token_similarity(fused, branch_text)
        shallow = None
        if self.keep_shallow_features:
            shallow = ShallowContrastiveInputs(branch_text, list(features))
        return HeadOutputs(
            box_regression=[scale(self.bbox_pred(x)) for scale, x in zip(self.scales, fused)],
            centerness=[self.centerness(x) for x in fused],
            fused_features=fused,
            token_logits=token_logits,
            soft_token_logits=(
                [self._per_anchor(self.token_logits(x)) for x in fused]
                if self.soft_token_slots
                else None
            ),
            cls_logits=[self.cls_logits(x) for x in fused] if self.predict_classes else None,
            contrastive=self._contrastive(fused, embedding) if self.contrastive_dim else None,
            shallow_contrastive=shallow,
            mlm_logits=None if self.mlm_head is None else self.mlm_head(embedding),
        )

    def _per_anchor(self, maps: Tensor) -> Tensor:
        """``[B, a * size, H, W]`` to ``[B, H * W * a, size]``, in the order of the anchors."""
        maps = maps.unflatten(1, (self.anchors_per_location, -1))
        return maps.permute(0, 3, 4, 1, 2).flatten(1, 3)

    def token_similarity(self, fused: list[Tensor], unit_text: Tensor) -> list[Tensor]:
        """Per level ``[B, H_l * W_l, T]`` from tokens of unit length ``[B, T, text_dim]``.

        The tokens are halved before the projection, but not for the bias: so are the published
        weights.
        """
        keys = self.dot_product_projection_text(unit_text / 2.0).transpose(1, 2)
        bias = (unit_text @ self.bias_lang + self.bias0)[:, None]
        temperature = self.log_scale.exp()
        logits = [x.flatten(2).transpose(1, 2) @ keys / temperature + bias for x in fused]
        if self.clamp_dot_product:
            logits = [level.clamp(-_LOGIT_LIMIT, _LOGIT_LIMIT) for level in logits]
        return logits

    def _contrastive(self, fused: list[Tensor], embedding: Tensor) -> ContrastiveEmbeddings:
        image = [self._per_anchor(self.contrastive_align_projection_image(x)) for x in fused]
        text = self.contrastive_align_projection_text(embedding)
        return ContrastiveEmbeddings(
            image=[F.normalize(level, dim=-1) for level in image],
            text=F.normalize(text, dim=-1),
            log_scale=self.log_scale,
        )


class VLDyHeadModule(nn.Module):
    """Dense head with its anchors, its losses and its post-processing.

    Args:
        head: tower and branches.
        anchor_generator: lays anchors over the maps.
        loss_evaluator: losses in training.
        post_processor: detections in evaluation.
        resizer: maps the text embedding to the width that the contrastive branch reads.
        num_prompt_slots: length of a learned offset per token position that is added to the text
            (prompt tuning); 0: none.
        text_dim: width of the text, for that offset.
    """

    def __init__(
        self,
        head: VLDyHead,
        anchor_generator: AnchorGenerator,
        loss_evaluator: ATSSLoss,
        post_processor: PostProcessor,
        *,
        resizer: FeatureResizer | None = None,
        num_prompt_slots: int = 0,
        text_dim: int = 768,
    ) -> None:
        super().__init__()
        self.head = head
        self.anchor_generator = anchor_generator
        self.loss_evaluator = loss_evaluator
        self.post_processor = post_processor
        self.resizer = resizer
        self.tunable_linear = None
        if num_prompt_slots:
            self.tunable_linear = make_prompt_offsets(num_prompt_slots, text_dim)

    def forward(
        self,
        images: ImageList,
        features: Sequence[Tensor],
        targets: Sequence[BoxList] | None = None,
        text: TextFeatures | None = None,
        positive_map: Tensor | Mapping[int, Sequence[int]] | None = None,
    ) -> tuple[list[BoxList] | None, dict[str, Tensor]]:
        """``(None, losses)`` in training, ``(detections, {})`` in evaluation.

        Arguments as in ``losses`` and ``detect``.
        """
        if self.training:
            return None, self.losses(features, text, targets, positive_map)
        return self.detect(images, features, text, positive_map), {}

    def losses(
        self,
        features: Sequence[Tensor],
        text: TextFeatures,
        targets: Sequence[BoxList],
        positive_map: Tensor,
        normalizers: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Scalar losses by name.

        Args:
            features: pyramid maps ``[B, C, H_l, W_l]``, finest first.
            text: ``B`` captions.
            targets: ground truth of ``B`` images.
            positive_map: ``[boxes of the batch, tokens]``, non-zero where a token describes a box.
            normalizers: what to divide by where the batch is a part of a larger one.
        """
        outputs = self.predict(features, text)
        anchors = self.anchor_generator(features)
        return self.loss_evaluator(outputs, anchors, targets, positive_map, text, normalizers)

    def count(self, image_size: tuple[int, int], targets: Sequence[BoxList]) -> Tensor:
        """``[2]``, see ``ATSSLoss.count``, without running the network.

        Args:
            image_size: height and width of the padded batch.
            targets: ground truth of ``B`` images, on the device of the anchors.
        """
        return self.loss_evaluator.count(self.anchor_generator.for_image(*image_size), targets)

    def detect(
        self,
        images: ImageList,
        features: Sequence[Tensor],
        text: TextFeatures,
        positive_map: PositiveMap | Sequence[PositiveMap] | None,
    ) -> list[BoxList]:
        """Boxes with ``scores`` and ``labels`` for every image.

        Args:
            images: for the true size of each of the ``B`` images.
            features: pyramid maps ``[B, C, H_l, W_l]``, finest first.
            text: ``B`` captions.
            positive_map: label to token positions; in a sequence, one for each of the images.
        """
        outputs = self.predict(features, text)
        anchors = self.anchor_generator(features)
        sizes = images.image_sizes
        if positive_map is None or isinstance(positive_map, Mapping):
            return self.post_processor(outputs, anchors, sizes, positive_map)
        found: list[BoxList] = []
        for _, group in groupby(zip(sizes, positive_map, strict=True), key=lambda row: id(row[1])):
            rows = list(group)
            begin, end = len(found), len(found) + len(rows)
            found += self.post_processor(
                outputs.of_images(begin, end), anchors, sizes[begin:end], rows[0][1]
            )
        return found

    def predict(self, features: Sequence[Tensor], text: TextFeatures) -> HeadOutputs:
        """Raw predictions of the head."""
        embedding = text.embedded
        if self.resizer is not None:
            embedding = self.resizer(embedding)
        if self.tunable_linear is not None:
            offset = self.tunable_linear.weight[: embedding.shape[1]]
            embedding = embedding + offset
            text = text._replace(embedded=embedding, hidden=text.hidden + offset)
        return self.head(features, text, embedding)
