// The CUDA operators compiled as plain C++ and registered for CPU tensors as glip_emulated::*, so
// that kernels and host code can be compared with the CPU operators on a machine without a GPU.
#include <cuda_runtime.h>

#include "deform_conv.cu"
#include "focal_loss.cu"
#include "nms.cu"
#include "roi_align.cu"
#include "schemas.h"

extern "C" {
__attribute__((visibility("hidden"))) AOTITorchError aoti_torch_create_cuda_guard(
    int32_t, CUDAGuardHandle* guard) {
  *guard = nullptr;
  return 0;
}
__attribute__((visibility("hidden"))) AOTITorchError aoti_torch_delete_cuda_guard(CUDAGuardHandle) {
  return 0;
}
__attribute__((visibility("hidden"))) AOTITorchError aoti_torch_get_current_cuda_stream(
    int32_t, void** stream) {
  *stream = nullptr;
  return 0;
}
}

namespace glip {
namespace {

bool register_all() {
  define_schemas("glip_emulated", __FILE__, __LINE__);
  Registration("glip_emulated", "CPU", __FILE__, __LINE__)
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
