// ROIAlign on the GPU.
#include "../checks.h"
#include "kernels_roi_align.cuh"
#include "launch.h"
#include "ops.h"

namespace glip {
namespace {

cuda::RoiShape make_shape(const Tensor& map, int64_t pooled_height, int64_t pooled_width,
                          int64_t sampling_ratio, bool aligned) {
  cuda::RoiShape shape{};
  shape.channels = map.size(1);
  shape.height = map.size(2);
  shape.width = map.size(3);
  std::copy_n(map.strides(), 4, shape.stride);
  shape.pooled_height = pooled_height;
  shape.pooled_width = pooled_width;
  shape.sampling_ratio = sampling_ratio;
  shape.aligned = aligned;
  return shape;
}

template <typename T>
void forward(const Tensor& input, const Tensor& rois, const cuda::RoiShape& shape, double scale,
             const Tensor& output) {
  const int64_t count = output.numel();
  cuda::launch("roi_align_kernel", cuda::roi_align_kernel<T>, input, count, input.data<T>(),
               rois.data<T>(), shape, scale, count, output.data<T>());
}

template <typename T>
void backward(const Tensor& grad_output, const Tensor& rois, const cuda::RoiShape& shape,
              double scale, const Tensor& grad_input) {
  const int64_t count = grad_output.numel();
  cuda::launch("roi_align_backward_kernel", cuda::roi_align_backward_kernel<T>, grad_output, count,
               grad_output.data<T>(), rois.data<T>(), shape, scale, count, grad_input.data<T>());
}

}  // namespace

Tensor roi_align_cuda(Tensor input, Tensor rois, double spatial_scale, int64_t pooled_height,
                      int64_t pooled_width, int64_t sampling_ratio, bool aligned) {
  check_roi_input(input, rois, pooled_height, pooled_width);
  cuda::check_on_cuda(input, rois, "rois");
  const cuda::DeviceGuard guard(input);
  rois = contiguous(rois);
  const Tensor output = empty<4>({rois.size(0), input.size(1), pooled_height, pooled_width},
                                 input.dtype(), input);
  const cuda::RoiShape shape =
      make_shape(input, pooled_height, pooled_width, sampling_ratio, aligned);
  if (input.dtype() == DType::kFloat64) {
    forward<double>(input, rois, shape, spatial_scale, output);
  } else {
    forward<float>(input, rois, shape, spatial_scale, output);
  }
  return output;
}

Tensor roi_align_backward_cuda(Tensor grad_output, Tensor rois, double spatial_scale, int64_t batch,
                               int64_t height, int64_t width, int64_t sampling_ratio, bool aligned,
                               bool channels_innermost) {
  check_roi_gradient(grad_output, rois);
  cuda::check_on_cuda(grad_output, rois, "rois");
  const cuda::DeviceGuard guard(grad_output);
  grad_output = contiguous(grad_output);
  rois = contiguous(rois);
  const std::array<int64_t, 4> size{batch, grad_output.size(1), height, width};
  const Tensor grad_input =
      zeros_(channels_innermost ? empty_channels_last(size, grad_output.dtype(), grad_output)
                                : empty<4>(size, grad_output.dtype(), grad_output));
  const cuda::RoiShape shape = make_shape(grad_input, grad_output.size(2), grad_output.size(3),
                                          sampling_ratio, aligned);
  if (grad_output.dtype() == DType::kFloat64) {
    backward<double>(grad_output, rois, shape, spatial_scale, grad_input);
  } else {
    backward<float>(grad_output, rois, shape, spatial_scale, grad_input);
  }
  return grad_input;
}

}  // namespace glip
