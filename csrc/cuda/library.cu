// The CUDA kernels of the operators, whose schemas the CPU library brings.
#include "ops.h"

namespace glip {
namespace {

bool register_all() {
  Registration("glip", "CUDA", __FILE__, __LINE__)
      .add<&nms_cuda>("nms")
      .add<&ml_nms_cuda>("ml_nms")
      .add<&roi_align_cuda>("roi_align")
      .add<&roi_align_backward_cuda>("roi_align_backward")
      .add<&deform_conv_cuda>("deform_conv")
      .add<&deform_conv_backward_cuda>("deform_conv_backward")
      .add<&sigmoid_focal_loss_cuda>("sigmoid_focal_loss")
      .add<&sigmoid_focal_loss_backward_cuda>("sigmoid_focal_loss_backward")
      .add<&token_sigmoid_focal_loss_cuda>("token_sigmoid_focal_loss")
      .add<&token_sigmoid_focal_loss_backward_cuda>("token_sigmoid_focal_loss_backward");
  return true;
}

[[maybe_unused]] const bool registered = register_all();

}  // namespace
}  // namespace glip
