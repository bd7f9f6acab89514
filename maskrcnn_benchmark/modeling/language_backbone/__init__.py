"""Captions to text features."""

from maskrcnn_benchmark.modeling.language_backbone.build import build_language_backbone
from maskrcnn_benchmark.modeling.language_backbone.masking import mask_tokens
from maskrcnn_benchmark.modeling.language_backbone.text_features import TextFeatures
from maskrcnn_benchmark.modeling.language_backbone.tokenizer import (
    build_tokenizer,
    encode_captions,
)
