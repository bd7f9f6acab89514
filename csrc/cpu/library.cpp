// Operator schemas, and their CPU kernels.
#include "../schemas.h"
#include "kernels.h"
#include "ops.h"

// The tests build the operators a second time under another name.
#if !defined(GLIP_OPERATOR_NAMESPACE)
#define GLIP_OPERATOR_NAMESPACE "glip"
#endif

namespace glip {
namespace {

bool register_all() {
  define_schemas(GLIP_OPERATOR_NAMESPACE, __FILE__, __LINE__);
  Registration(GLIP_OPERATOR_NAMESPACE, "CPU", __FILE__, __LINE__)
      .add<&nms_cpu>("nms")
      .add<&ml_nms_cpu>("ml_nms")
      .add<&soft_nms_cpu>("soft_nms")
      .add<&roi_align_cpu>("roi_align")
      .add<&roi_align_backward_cpu>("roi_align_backward")
      .add<&deform_conv_cpu>("deform_conv")
      .add<&deform_conv_backward_cpu>("deform_conv_backward")
      .add<&dynamic_mean_cpu>("dynamic_mean")
      .add<&dynamic_mean_backward_cpu>("dynamic_mean_backward")
      .add<&sigmoid_focal_loss_cpu>("sigmoid_focal_loss")
      .add<&sigmoid_focal_loss_backward_cpu>("sigmoid_focal_loss_backward")
      .add<&token_sigmoid_focal_loss_cpu>("token_sigmoid_focal_loss")
      .add<&token_sigmoid_focal_loss_backward_cpu>("token_sigmoid_focal_loss_backward");
  return true;
}

[[maybe_unused]] const bool registered = register_all();

}  // namespace
}  // namespace glip

// The instruction set whose kernels this processor gets, for reports.
extern "C" __attribute__((visibility("default"))) const char* glip_cpu_capability() {
  return glip::kernels<float>().name;
}
