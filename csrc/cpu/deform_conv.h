// What the forward and the backward pass of the deformable convolution share.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <memory>
#include <optional>
#include <vector>

#include "../deform_geometry.h"
#include "kernels.h"
#include "parallel.h"

namespace glip {

// Numbers on a cache line, not initialised.
template <typename T>
class Buffer {
 public:
  explicit Buffer(int64_t count)
      : data_(static_cast<T*>(std::aligned_alloc(64, round_up(count * sizeof(T)))), &std::free) {
    if (data_ == nullptr) throw std::bad_alloc();
  }
  T* data() const { return data_.get(); }

 private:
  static size_t round_up(size_t bytes) { return (bytes + 64) / 64 * 64; }

  std::unique_ptr<T, decltype(&std::free)> data_;
};

// A map (batch, channels, height, width) in any layout.
template <typename T>
struct MapView {
  const T* data = nullptr;
  int64_t stride[4] = {};

  MapView() = default;
  explicit MapView(const Tensor& tensor) : data(tensor.data<T>()) {
    std::copy_n(tensor.strides(), 4, stride);
  }
  const T* channel(int64_t image, int64_t c) const {
    return data + image * stride[0] + c * stride[1];
  }
};

template <typename T>
struct DeformMaps {
  MapView<T> offset;
  MapView<T> mask;  // data is null for version 1, whose mask is 1 throughout
};

// The samples of kernel point `tap` at output pixels [first, first + count) of one image.
template <typename T>
void make_points(const DeformGeometry& g, const DeformMaps<T>& maps, int64_t image,
                 int64_t deformable_group, int64_t tap, int64_t first, int64_t count,
                 SamplePoint<T>* points) {
  const int64_t map_channel = deformable_group * g.taps() + tap;
  const T* const dy = maps.offset.channel(image, 2 * map_channel);
  const T* const dx = maps.offset.channel(image, 2 * map_channel + 1);
  const T* const mask = maps.mask.data ? maps.mask.channel(image, map_channel) : nullptr;
  const int64_t* const step = maps.offset.stride;
  const int64_t* const mask_step = maps.mask.stride;
  const T shift_y = static_cast<T>(tap / g.kernel_width * g.dilation_height - g.padding_height);
  const T shift_x = static_cast<T>(tap % g.kernel_width * g.dilation_width - g.padding_width);
  const T bottom = static_cast<T>(g.height), right = static_cast<T>(g.width);
  const int32_t width = static_cast<int32_t>(g.width);
  int64_t row = first / g.out_width, column = first % g.out_width;
  for (int64_t i = 0; i < count; ++i) {
    SamplePoint<T>& point = points[i];
    const int64_t at = row * step[2] + column * step[3];
    const T y = static_cast<T>(row * g.stride_height) + shift_y + dy[at];
    const T x = static_cast<T>(column * g.stride_width) + shift_x + dx[at];
    if (y > T(-1) && y < bottom && x > T(-1) && x < right) {
      const T low_y = std::floor(y), low_x = std::floor(x);
      const int32_t y0 = static_cast<int32_t>(low_y), x0 = static_cast<int32_t>(low_x);
      const bool up = y0 >= 0, down = y0 + 1 < g.height, left = x0 >= 0, over = x0 + 1 < width;
      const int32_t pixel = y0 * width + x0;
      point.pixel[0] = up && left ? pixel : -1;
      point.pixel[1] = up && over ? pixel + 1 : -1;
      point.pixel[2] = down && left ? pixel + width : -1;
      point.pixel[3] = down && over ? pixel + width + 1 : -1;
      point.fraction_y = y - low_y;
      point.fraction_x = x - low_x;
      point.mask = mask ? mask[row * mask_step[2] + column * mask_step[3]] : T(1);
    } else {
      // Also where the offset is not a number.
      std::fill_n(point.pixel, 4, -1);
      point.fraction_y = point.fraction_x = point.mask = T(0);
    }
    if (++column == g.out_width) {
      column = 0;
      ++row;
    }
  }
}

inline int64_t round_up(int64_t value, int64_t step) { return (value + step - 1) / step * step; }

}  // namespace glip
