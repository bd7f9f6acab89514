// ROIAlign, one thread per output number.
#pragma once

#include "grid.cuh"

namespace glip::cuda {

struct RoiShape {
  int64_t channels, height, width;                    // of the feature map
  int64_t stride[4];                                  // of its memory
  int64_t pooled_height, pooled_width, sampling_ratio;
  bool aligned;
};

// Where the samples of one bin lie.
template <typename T>
struct RoiBin {
  int64_t image, channel, grid_height, grid_width;
  T start_y, start_x, step_y, step_x, share;
};

template <typename T>
__device__ RoiBin<T> find_bin(const RoiShape& s, const T* rois, T scale, int64_t index) {
  const int64_t px = index % s.pooled_width, py = index / s.pooled_width % s.pooled_height;
  const int64_t plane = index / (s.pooled_width * s.pooled_height);
  const T* const roi = rois + plane / s.channels * 5;
  const T shift = s.aligned ? T(0.5) : T(0);
  const T x = roi[1] * scale - shift, y = roi[2] * scale - shift;
  T width = roi[3] * scale - shift - x, height = roi[4] * scale - shift - y;
  if (!s.aligned) {
    width = width > T(1) ? width : T(1);
    height = height > T(1) ? height : T(1);
  }
  const T bin_width = width / static_cast<T>(s.pooled_width);
  const T bin_height = height / static_cast<T>(s.pooled_height);
  RoiBin<T> bin{};
  bin.image = static_cast<int64_t>(roi[0]);
  bin.channel = plane % s.channels;
  // A box of no proper size has no samples.
  constexpr double kLargestGrid = 1 << 20;
  const T grid_width = s.sampling_ratio > 0 ? static_cast<T>(s.sampling_ratio) : ceil(bin_width);
  const T grid_height = s.sampling_ratio > 0 ? static_cast<T>(s.sampling_ratio) : ceil(bin_height);
  if (grid_width > T(0) && grid_width <= T(kLargestGrid)) {
    bin.grid_width = static_cast<int64_t>(grid_width);
  }
  if (grid_height > T(0) && grid_height <= T(kLargestGrid)) {
    bin.grid_height = static_cast<int64_t>(grid_height);
  }
  bin.step_x = bin_width / static_cast<T>(bin.grid_width > 0 ? bin.grid_width : 1);
  bin.step_y = bin_height / static_cast<T>(bin.grid_height > 0 ? bin.grid_height : 1);
  bin.start_x = x + static_cast<T>(px) * bin_width;
  bin.start_y = y + static_cast<T>(py) * bin_height;
  const int64_t samples = bin.grid_width * bin.grid_height;
  bin.share = T(1) / static_cast<T>(samples > 0 ? samples : 1);
  return bin;
}

// The two pixels along one axis that a position lies between; false outside the map.
template <typename T>
__device__ bool find_pixels(T position, int64_t size, int64_t& low, int64_t& high, T& fraction) {
  if (!(position >= T(-1) && position <= static_cast<T>(size))) return false;
  position = position > T(0) ? position : T(0);
  low = static_cast<int64_t>(position);
  if (low >= size - 1) {
    low = high = size - 1;
    fraction = T(0);
  } else {
    high = low + 1;
    fraction = position - static_cast<T>(low);
  }
  return true;
}

template <typename T>
__global__ void roi_align_kernel(const T* input, const T* rois, RoiShape s, T scale, int64_t count,
                                 T* output) {
  GLIP_GRID_LOOP(index, count) {
    const RoiBin<T> bin = find_bin(s, rois, scale, index);
    const T* const plane = input + bin.image * s.stride[0] + bin.channel * s.stride[1];
    T total = T(0);
    for (int64_t gy = 0; gy < bin.grid_height; ++gy) {
      int64_t y0, y1;
      T fy;
      const T y = bin.start_y + (static_cast<T>(gy) + T(0.5)) * bin.step_y;
      if (!find_pixels(y, s.height, y0, y1, fy)) continue;
      for (int64_t gx = 0; gx < bin.grid_width; ++gx) {
        int64_t x0, x1;
        T fx;
        const T x = bin.start_x + (static_cast<T>(gx) + T(0.5)) * bin.step_x;
        if (!find_pixels(x, s.width, x0, x1, fx)) continue;
        const T* const up = plane + y0 * s.stride[2];
        const T* const down = plane + y1 * s.stride[2];
        total += (1 - fy) * ((1 - fx) * up[x0 * s.stride[3]] + fx * up[x1 * s.stride[3]]) +
                 fy * ((1 - fx) * down[x0 * s.stride[3]] + fx * down[x1 * s.stride[3]]);
      }
    }
    output[index] = total * bin.share;
  }
}

template <typename T>
__global__ void roi_align_backward_kernel(const T* grad_output, const T* rois, RoiShape s, T scale,
                                          int64_t count, T* grad_input) {
  GLIP_GRID_LOOP(index, count) {
    const RoiBin<T> bin = find_bin(s, rois, scale, index);
    T* const plane = grad_input + bin.image * s.stride[0] + bin.channel * s.stride[1];
    const T upstream = grad_output[index] * bin.share;
    for (int64_t gy = 0; gy < bin.grid_height; ++gy) {
      int64_t y0, y1;
      T fy;
      const T y = bin.start_y + (static_cast<T>(gy) + T(0.5)) * bin.step_y;
      if (!find_pixels(y, s.height, y0, y1, fy)) continue;
      for (int64_t gx = 0; gx < bin.grid_width; ++gx) {
        int64_t x0, x1;
        T fx;
        const T x = bin.start_x + (static_cast<T>(gx) + T(0.5)) * bin.step_x;
        if (!find_pixels(x, s.width, x0, x1, fx)) continue;
        T* const up = plane + y0 * s.stride[2];
        T* const down = plane + y1 * s.stride[2];
        atomicAdd(up + x0 * s.stride[3], (1 - fy) * (1 - fx) * upstream);
        atomicAdd(up + x1 * s.stride[3], (1 - fy) * fx * upstream);
        atomicAdd(down + x0 * s.stride[3], fy * (1 - fx) * upstream);
        atomicAdd(down + x1 * s.stride[3], fy * fx * upstream);
      }
    }
  }
}

}  // namespace glip::cuda
