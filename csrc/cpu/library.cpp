// Operator schemas, and their CPU kernels.
#include "ops.h"

namespace glip {
namespace {

const char* const kSchemas[] = {
    "nms(Tensor boxes, Tensor scores, float iou_threshold) -> Tensor",
    "ml_nms(Tensor boxes, Tensor scores, Tensor labels, float iou_threshold) -> Tensor",
    "soft_nms(Tensor boxes, Tensor scores, float score_threshold, float sigma) -> (Tensor, Tensor)",
    "roi_align(Tensor input, Tensor rois, float spatial_scale, int pooled_height, int pooled_width, "
    "int sampling_ratio, bool aligned) -> Tensor",
    "roi_align_backward(Tensor grad_output, Tensor rois, float spatial_scale, int batch, int height, "
    "int width, int sampling_ratio, bool aligned) -> Tensor",
    "deform_conv(Tensor input, Tensor offset, Tensor? mask, Tensor weight, Tensor? bias, "
    "int stride_height, int stride_width, int padding_height, int padding_width, "
    "int dilation_height, int dilation_width, int groups, int deformable_groups) -> Tensor",
    "deform_conv_backward(Tensor grad_output, Tensor input, Tensor offset, Tensor? mask, "
    "Tensor weight, int stride_height, int stride_width, int padding_height, int padding_width, "
    "int dilation_height, int dilation_width, int groups, int deformable_groups, "
    "bool need_samples, bool need_weight) -> (Tensor, Tensor, Tensor, Tensor)",
    "sigmoid_focal_loss(Tensor logits, Tensor targets, float gamma, float alpha) -> Tensor",
    "sigmoid_focal_loss_backward(Tensor grad_loss, Tensor logits, Tensor targets, float gamma, "
    "float alpha) -> Tensor",
    "token_sigmoid_focal_loss(Tensor logits, Tensor targets, Tensor counted, float alpha, "
    "float gamma) -> Tensor",
    "token_sigmoid_focal_loss_backward(Tensor grad_loss, Tensor logits, Tensor targets, "
    "Tensor counted, float alpha, float gamma) -> Tensor",
};

bool register_all() {
  // Kept for as long as the process lives, like the operators.
  TorchLibraryHandle definitions = nullptr;
  succeed(aoti_torch_library_init_def("glip", __FILE__, __LINE__, &definitions),
          "library_init_def");
  for (const char* schema : kSchemas) {
    succeed(aoti_torch_library_def(definitions, schema), schema);
  }
  Registration("CPU", __FILE__, __LINE__)
      .add<&nms_cpu>("nms")
      .add<&ml_nms_cpu>("ml_nms")
      .add<&soft_nms_cpu>("soft_nms")
      .add<&roi_align_cpu>("roi_align")
      .add<&roi_align_backward_cpu>("roi_align_backward")
      .add<&deform_conv_cpu>("deform_conv")
      .add<&deform_conv_backward_cpu>("deform_conv_backward")
      .add<&sigmoid_focal_loss_cpu>("sigmoid_focal_loss")
      .add<&sigmoid_focal_loss_backward_cpu>("sigmoid_focal_loss_backward")
      .add<&token_sigmoid_focal_loss_cpu>("token_sigmoid_focal_loss")
      .add<&token_sigmoid_focal_loss_backward_cpu>("token_sigmoid_focal_loss_backward");
  return true;
}

[[maybe_unused]] const bool registered = register_all();

}  // namespace
}  // namespace glip
