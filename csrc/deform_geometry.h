// Sizes and settings of a deformable convolution, checked.
#pragma once

#include <limits>
#include <optional>

#include "torch_abi.h"

namespace glip {

struct DeformGeometry {
  int64_t batch, channels, height, width;
  int64_t out_channels, out_height, out_width;
  int64_t kernel_height, kernel_width;
  int64_t stride_height, stride_width;
  int64_t padding_height, padding_width;
  int64_t dilation_height, dilation_width;
  int64_t groups, deformable_groups;

  int64_t taps() const { return kernel_height * kernel_width; }
  int64_t pixels() const { return out_height * out_width; }
  int64_t group_channels() const { return channels / groups; }
  int64_t group_outputs() const { return out_channels / groups; }
};

inline DeformGeometry deform_geometry(const Tensor& input, const Tensor& offset,
                                      const std::optional<Tensor>& mask, const Tensor& weight,
                                      int64_t stride_height, int64_t stride_width,
                                      int64_t padding_height, int64_t padding_width,
                                      int64_t dilation_height, int64_t dilation_width,
                                      int64_t groups, int64_t deformable_groups) {
  check(input.dim() == 4, "input must have shape (batch, in_channels, height, width)");
  check(weight.dim() == 4, "weight must have shape (out_channels, in_channels / groups, h, w)");
  check(stride_height > 0 && stride_width > 0, "stride must be positive");
  check(dilation_height > 0 && dilation_width > 0, "dilation must be positive");
  check(padding_height >= 0 && padding_width >= 0, "padding must not be negative");
  DeformGeometry g{};
  g.batch = input.size(0);
  g.channels = input.size(1);
  g.height = input.size(2);
  g.width = input.size(3);
  g.out_channels = weight.size(0);
  g.kernel_height = weight.size(2);
  g.kernel_width = weight.size(3);
  g.stride_height = stride_height;
  g.stride_width = stride_width;
  g.padding_height = padding_height;
  g.padding_width = padding_width;
  g.dilation_height = dilation_height;
  g.dilation_width = dilation_width;
  g.groups = groups;
  g.deformable_groups = deformable_groups;
  check(groups > 0 && g.channels % groups == 0 && g.out_channels % groups == 0,
        "groups must divide the channels of input and weight");
  check(deformable_groups > 0 && g.channels % deformable_groups == 0,
        "deformable_groups must divide the channels of input");
  check(weight.size(1) == g.group_channels(), "weight must have shape[1] = ", g.group_channels());
  const int64_t reach_height = dilation_height * (g.kernel_height - 1) + 1;
  const int64_t reach_width = dilation_width * (g.kernel_width - 1) + 1;
  check(g.height + 2 * padding_height >= reach_height && g.width + 2 * padding_width >= reach_width,
        "input is too small for the kernel of weight");
  g.out_height = (g.height + 2 * padding_height - reach_height) / stride_height + 1;
  g.out_width = (g.width + 2 * padding_width - reach_width) / stride_width + 1;
  check(g.height * g.width < std::numeric_limits<int32_t>::max(), "input has too many pixels");
  const int64_t points = deformable_groups * g.taps();
  const auto check_map = [&](const Tensor& map, int64_t channels, const char* name) {
    check(map.dim() == 4 && map.size(0) == g.batch && map.size(1) == channels &&
              map.size(2) == g.out_height && map.size(3) == g.out_width,
          name, " must have shape (", g.batch, ", ", channels, ", ", g.out_height, ", ",
          g.out_width, ")");
  };
  check_map(offset, 2 * points, "offset");
  if (mask) check_map(*mask, points, "mask");
  return g;
}

// For the deformable convolution's backward pass.
inline void check_deform_gradient(const DeformGeometry& g, const Tensor& grad_output,
                                  const Tensor& input, const Tensor& offset,
                                  const std::optional<Tensor>& mask, const Tensor& weight) {
  const DType dtype = input.dtype();
  check(dtype == DType::kFloat32 || dtype == DType::kFloat64, "input must be float32 or float64");
  check(grad_output.dim() == 4 && grad_output.size(0) == g.batch &&
            grad_output.size(1) == g.out_channels && grad_output.size(2) == g.out_height &&
            grad_output.size(3) == g.out_width,
        "grad_output must have the shape of the output");
  check(grad_output.dtype() == dtype && offset.dtype() == dtype && weight.dtype() == dtype &&
            (!mask || mask->dtype() == dtype),
        "grad_output, offset, mask and weight must have the dtype of input");
}

}  // namespace glip
