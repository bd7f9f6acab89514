// The operators' signatures.
#pragma once

#include "torch_abi.h"

namespace glip {

inline const char* const kSchemas[] = {
    "nms(Tensor boxes, Tensor scores, float iou_threshold) -> Tensor",
    "ml_nms(Tensor boxes, Tensor scores, Tensor labels, float iou_threshold) -> Tensor",
    "soft_nms(Tensor boxes, Tensor scores, float score_threshold, float sigma) -> (Tensor, Tensor)",
    "roi_align(Tensor input, Tensor rois, float spatial_scale, int pooled_height, int pooled_width, "
    "int sampling_ratio, bool aligned) -> Tensor",
    "roi_align_backward(Tensor grad_output, Tensor rois, float spatial_scale, int batch, int height, "
    "int width, int sampling_ratio, bool aligned, bool channels_innermost) -> Tensor",
    "deform_conv(Tensor input, Tensor offset, Tensor? mask, Tensor weight, Tensor? bias, "
    "int stride_height, int stride_width, int padding_height, int padding_width, "
    "int dilation_height, int dilation_width, int groups, int deformable_groups) -> Tensor",
    "deform_conv_backward(Tensor grad_output, Tensor input, Tensor offset, Tensor? mask, "
    "Tensor weight, int stride_height, int stride_width, int padding_height, int padding_width, "
    "int dilation_height, int dilation_width, int groups, int deformable_groups, "
    "bool need_samples, bool need_weight) -> (Tensor, Tensor, Tensor, Tensor)",
    "dynamic_mean(Tensor first, Tensor? second, Tensor? third, Tensor weights, Tensor pieces) "
    "-> Tensor",
    "dynamic_mean_backward(Tensor grad_output, Tensor first, Tensor? second, Tensor? third, "
    "Tensor weights, Tensor pieces) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    "sigmoid_focal_loss(Tensor logits, Tensor targets, float gamma, float alpha) -> Tensor",
    "sigmoid_focal_loss_backward(Tensor grad_loss, Tensor logits, Tensor targets, float gamma, "
    "float alpha) -> Tensor",
    "token_sigmoid_focal_loss(Tensor logits, Tensor targets, Tensor counted, float alpha, "
    "float gamma) -> Tensor",
    "token_sigmoid_focal_loss_backward(Tensor grad_loss, Tensor logits, Tensor targets, "
    "Tensor counted, float alpha, float gamma) -> Tensor",
};

// Makes the operators known under `name_space`. What is registered lives as long as the process.
inline void define_schemas(const char* name_space, const char* file, uint32_t line) {
  TorchLibraryHandle library = nullptr;
  succeed(aoti_torch_library_init_def(name_space, file, line, &library), "library_init_def");
  for (const char* schema : kSchemas) succeed(aoti_torch_library_def(library, schema), schema);
}

}  // namespace glip
