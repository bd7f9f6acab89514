"""What computes without knowing the configuration: operators, losses, small modules."""

from maskrcnn_benchmark.layers.batch_norm import FrozenBatchNorm2d, NaiveSyncBatchNorm
from maskrcnn_benchmark.layers.deform_conv import (
    DeformConv,
    ModulatedDeformConv,
    deform_conv,
    modulated_deform_conv,
    offset_prefix,
)
from maskrcnn_benchmark.layers.drop_block import DropBlock2D
from maskrcnn_benchmark.layers.dynamic_mean import dynamic_mean
from maskrcnn_benchmark.layers.focal_loss import sigmoid_focal_loss, token_sigmoid_focal_loss
from maskrcnn_benchmark.layers.nms import ml_nms, nms, soft_nms
from maskrcnn_benchmark.layers.roi_align import ROIAlign, roi_align
