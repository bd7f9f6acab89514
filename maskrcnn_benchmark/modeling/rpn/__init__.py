"""Fused features to scores and boxes."""

from maskrcnn_benchmark.modeling.rpn.build import build_rpn
