// Deformable convolution on the GPU: columns of one image at a time, and matrix products by PyTorch.
#include "../checks.h"
#include "kernels_deform_conv.cuh"
#include "launch.h"
#include "ops.h"

namespace glip {
namespace {

// out = a b, a product per group of the convolution.
void multiply_groups(const Tensor& a, const Tensor& b, const Tensor& out) {
  const Tensor result = call("aten::bmm", "out", a, b, out);
}

// Views of one image, or of the weight, as one matrix per group.
struct GroupViews {
  const DeformGeometry& g;

  int64_t depth() const { return g.group_channels() * g.taps(); }

  Tensor weight(const Tensor& tensor) const {
    return cuda::view<3>(tensor, {g.groups, g.group_outputs(), depth()},
                         {g.group_outputs() * depth(), depth(), 1});
  }
  Tensor weight_transposed(const Tensor& tensor) const {
    return cuda::view<3>(tensor, {g.groups, depth(), g.group_outputs()},
                         {g.group_outputs() * depth(), 1, depth()});
  }
  Tensor columns(const Tensor& tensor) const {
    return cuda::view<3>(tensor, {g.groups, depth(), g.pixels()},
                         {depth() * g.pixels(), g.pixels(), 1});
  }
  Tensor columns_transposed(const Tensor& tensor) const {
    return cuda::view<3>(tensor, {g.groups, g.pixels(), depth()},
                         {depth() * g.pixels(), 1, g.pixels()});
  }
  Tensor output(const Tensor& tensor, int64_t image) const {
    return cuda::view<3>(tensor, {g.groups, g.group_outputs(), g.pixels()},
                         {g.group_outputs() * g.pixels(), g.pixels(), 1},
                         image * g.out_channels * g.pixels());
  }
};

// Pointers to the maps of one image.
template <typename T>
struct ImageMaps {
  ImageMaps(const DeformGeometry& g, const Tensor& input, const Tensor& offset,
            const std::optional<Tensor>& mask, int64_t image)
      : pixels(input.data<T>() + image * g.channels * g.height * g.width),
        offset(offset.data<T>() + image * 2 * g.deformable_groups * g.taps() * g.pixels()),
        mask(mask ? mask->data<T>() + image * g.deformable_groups * g.taps() * g.pixels()
                  : nullptr) {}

  const T* pixels;
  const T* offset;
  const T* mask;
};

template <typename T>
void make_columns(const DeformGeometry& g, const ImageMaps<T>& maps, const Tensor& columns) {
  cuda::launch("deform_columns_kernel", cuda::deform_columns_kernel<T>, columns,
               g.channels * g.pixels(), maps.pixels, maps.offset, maps.mask, g, columns.data<T>());
}

template <typename T>
Tensor forward(const DeformGeometry& g, const Tensor& input, const Tensor& offset,
               const std::optional<Tensor>& mask, const Tensor& weight,
               const std::optional<Tensor>& bias) {
  const Tensor output =
      empty<4>({g.batch, g.out_channels, g.out_height, g.out_width}, input.dtype(), input);
  const Tensor columns = empty<2>({g.channels * g.taps(), g.pixels()}, input.dtype(), input);
  const GroupViews views{g};
  for (int64_t image = 0; image < g.batch; ++image) {
    make_columns(g, ImageMaps<T>(g, input, offset, mask, image), columns);
    multiply_groups(views.weight(weight), views.columns(columns), views.output(output, image));
  }
  if (bias) {
    cuda::launch("add_bias_kernel", cuda::add_bias_kernel<T>, output, output.numel(),
                 output.data<T>(), bias->data<T>(), g.out_channels, g.pixels(), output.numel());
  }
  return output;
}

template <typename T>
std::tuple<Tensor, Tensor, Tensor, Tensor> backward(const DeformGeometry& g,
                                                    const Tensor& grad_output, const Tensor& input,
                                                    const Tensor& offset,
                                                    const std::optional<Tensor>& mask,
                                                    const Tensor& weight, bool need_samples,
                                                    bool need_weight) {
  const DType dtype = input.dtype();
  const int64_t points = g.deformable_groups * g.taps();
  // What is not asked for comes back empty.
  Tensor grad_input = empty<1>({0}, dtype, input), grad_offset = empty<1>({0}, dtype, input);
  Tensor grad_mask = empty<1>({0}, dtype, input), grad_weight = empty<1>({0}, dtype, input);
  if (need_samples) {
    grad_input = zeros_(empty<4>({g.batch, g.channels, g.height, g.width}, dtype, input));
    grad_offset = empty<4>({g.batch, 2 * points, g.out_height, g.out_width}, dtype, input);
    if (mask) grad_mask = empty<4>({g.batch, points, g.out_height, g.out_width}, dtype, input);
  }
  if (need_weight) {
    grad_weight = zeros_(empty<4>(
        {g.out_channels, g.group_channels(), g.kernel_height, g.kernel_width}, dtype, input));
  }
  const Tensor columns = empty<2>({g.channels * g.taps(), g.pixels()}, dtype, input);
  const Tensor part = empty<1>({need_weight ? weight.numel() : 0}, dtype, input);
  const GroupViews views{g};
  for (int64_t image = 0; image < g.batch; ++image) {
    const ImageMaps<T> maps(g, input, offset, mask, image);
    const Tensor upstream = views.output(grad_output, image);
    if (need_samples) {
      multiply_groups(views.weight_transposed(weight), upstream, views.columns(columns));
      cuda::launch("deform_image_gradient_kernel", cuda::deform_image_gradient_kernel<T>, input,
                   columns.numel(), columns.data<T>(), maps.offset, maps.mask, g,
                   grad_input.data<T>() + image * g.channels * g.height * g.width);
      cuda::launch("deform_maps_gradient_kernel", cuda::deform_maps_gradient_kernel<T>, input,
                   points * g.pixels(), columns.data<T>(), maps.pixels, maps.offset, maps.mask, g,
                   grad_offset.data<T>() + image * 2 * points * g.pixels(),
                   mask ? grad_mask.data<T>() + image * points * g.pixels() : nullptr);
    }
    if (need_weight) {
      make_columns(g, maps, columns);
      multiply_groups(upstream, views.columns_transposed(columns), views.weight(part));
      cuda::launch("add_kernel", cuda::add_kernel<T>, input, part.numel(), grad_weight.data<T>(),
                   part.data<T>(), part.numel());
    }
  }
  return {grad_input, grad_offset, grad_mask, grad_weight};
}

void check_devices(const Tensor& input, const Tensor& offset, const std::optional<Tensor>& mask,
                   const Tensor& weight) {
  cuda::check_on_cuda(input, offset, "offset");
  if (mask) cuda::check_on_cuda(input, *mask, "mask");
  cuda::check_on_cuda(input, weight, "weight");
}

}  // namespace

Tensor deform_conv_cuda(Tensor input, Tensor offset, std::optional<Tensor> mask, Tensor weight,
                        std::optional<Tensor> bias, int64_t stride_height, int64_t stride_width,
                        int64_t padding_height, int64_t padding_width, int64_t dilation_height,
                        int64_t dilation_width, int64_t groups, int64_t deformable_groups) {
  const DeformGeometry g =
      deform_geometry(input, offset, mask, weight, stride_height, stride_width, padding_height,
                      padding_width, dilation_height, dilation_width, groups, deformable_groups);
  const DType dtype = input.dtype();
  check(dtype == DType::kFloat32 || dtype == DType::kFloat64, "input must be float32 or float64");
  check(offset.dtype() == dtype && weight.dtype() == dtype && (!mask || mask->dtype() == dtype),
        "offset, mask and weight must have the dtype of input");
  check_devices(input, offset, mask, weight);
  const cuda::DeviceGuard guard(input);
  const bool innermost = is_channels_last(input);
  if (mask) mask = contiguous(*mask);
  if (bias) {
    check(bias->dim() == 1 && bias->size(0) == g.out_channels && bias->dtype() == dtype,
          "bias must hold ", g.out_channels, " numbers of the dtype of input");
    cuda::check_on_cuda(input, *bias, "bias");
    bias = contiguous(*bias);
  }
  input = contiguous(input);
  offset = contiguous(offset);
  weight = contiguous(weight);
  const Tensor output = dtype == DType::kFloat64
                            ? forward<double>(g, input, offset, mask, weight, bias)
                            : forward<float>(g, input, offset, mask, weight, bias);
  return innermost ? channels_last(output) : output;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> deform_conv_backward_cuda(
    Tensor grad_output, Tensor input, Tensor offset, std::optional<Tensor> mask, Tensor weight,
    int64_t stride_height, int64_t stride_width, int64_t padding_height, int64_t padding_width,
    int64_t dilation_height, int64_t dilation_width, int64_t groups, int64_t deformable_groups,
    bool need_samples, bool need_weight) {
  const DeformGeometry g =
      deform_geometry(input, offset, mask, weight, stride_height, stride_width, padding_height,
                      padding_width, dilation_height, dilation_width, groups, deformable_groups);
  check_deform_gradient(g, grad_output, input, offset, mask, weight);
  check_devices(input, offset, mask, weight);
  cuda::check_on_cuda(input, grad_output, "grad_output");
  const cuda::DeviceGuard guard(input);
  const bool innermost = is_channels_last(input);
  grad_output = contiguous(grad_output);
  input = contiguous(input);
  offset = contiguous(offset);
  if (mask) mask = contiguous(*mask);
  weight = contiguous(weight);
  auto grads = input.dtype() == DType::kFloat64
                   ? backward<double>(g, grad_output, input, offset, mask, weight, need_samples,
                                      need_weight)
                   : backward<float>(g, grad_output, input, offset, mask, weight, need_samples,
                                     need_weight);
  if (need_samples && innermost) std::get<0>(grads) = channels_last(std::get<0>(grads));
  return grads;
}

}  // namespace glip
