// The operators on the CPU; their contracts are in maskrcnn_benchmark/layers.
#pragma once

#include <optional>
#include <tuple>

#include "../torch_abi.h"

namespace glip {

Tensor nms_cpu(Tensor boxes, Tensor scores, double iou_threshold);
Tensor ml_nms_cpu(Tensor boxes, Tensor scores, Tensor labels, double iou_threshold);
std::tuple<Tensor, Tensor> soft_nms_cpu(Tensor boxes, Tensor scores, double score_threshold,
                                        double sigma);

Tensor roi_align_cpu(Tensor input, Tensor rois, double spatial_scale, int64_t pooled_height,
                     int64_t pooled_width, int64_t sampling_ratio, bool aligned);
Tensor roi_align_backward_cpu(Tensor grad_output, Tensor rois, double spatial_scale, int64_t batch,
                              int64_t height, int64_t width, int64_t sampling_ratio, bool aligned,
                              bool channels_innermost);

Tensor deform_conv_cpu(Tensor input, Tensor offset, std::optional<Tensor> mask, Tensor weight,
                       std::optional<Tensor> bias, int64_t stride_height, int64_t stride_width,
                       int64_t padding_height, int64_t padding_width, int64_t dilation_height,
                       int64_t dilation_width, int64_t groups, int64_t deformable_groups);
std::tuple<Tensor, Tensor, Tensor, Tensor> deform_conv_backward_cpu(
    Tensor grad_output, Tensor input, Tensor offset, std::optional<Tensor> mask, Tensor weight,
    int64_t stride_height, int64_t stride_width, int64_t padding_height, int64_t padding_width,
    int64_t dilation_height, int64_t dilation_width, int64_t groups, int64_t deformable_groups,
    bool need_samples, bool need_weight);

Tensor dynamic_mean_cpu(Tensor first, std::optional<Tensor> second, std::optional<Tensor> third,
                        Tensor weights, Tensor pieces);
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> dynamic_mean_backward_cpu(
    Tensor grad_output, Tensor first, std::optional<Tensor> second, std::optional<Tensor> third,
    Tensor weights, Tensor pieces);

Tensor sigmoid_focal_loss_cpu(Tensor logits, Tensor targets, double gamma, double alpha);
Tensor sigmoid_focal_loss_backward_cpu(Tensor grad_loss, Tensor logits, Tensor targets, double gamma,
                                       double alpha);
Tensor token_sigmoid_focal_loss_cpu(Tensor logits, Tensor targets, Tensor counted, double alpha,
                                    double gamma);
Tensor token_sigmoid_focal_loss_backward_cpu(Tensor grad_loss, Tensor logits, Tensor targets,
                                             Tensor counted, double alpha, double gamma);

}  // namespace glip
