"""Both streams in, both streams out."""

from maskrcnn_benchmark.modeling.fusion.bi_attention import BiMultiHeadAttention
from maskrcnn_benchmark.modeling.fusion.feature_resizer import FeatureResizer
from maskrcnn_benchmark.modeling.fusion.folded_attention import folded_bi_attention
from maskrcnn_benchmark.modeling.fusion.vl_fuse import (
    BiAttentionBlock,
    BiAttentionFuse,
    TextToImageFuse,
    set_fusion_implementation,
)
