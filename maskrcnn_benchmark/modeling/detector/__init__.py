"""Images and captions to losses or detections."""

from maskrcnn_benchmark.modeling.detector.build import build_detection_model
from maskrcnn_benchmark.modeling.detector.fused_vl_rcnn import FusedVLRCNN
from maskrcnn_benchmark.modeling.detector.generalized_vl_rcnn import GeneralizedVLRCNN
