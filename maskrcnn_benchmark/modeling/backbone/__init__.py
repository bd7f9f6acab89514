"""Image to feature pyramid."""

from maskrcnn_benchmark.modeling.backbone.build import build_backbone
