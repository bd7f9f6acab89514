// Deformable convolution of one image: its columns, and the way back from their gradient.
//
// Columns are (channels * kernel points, output pixels), row-major, so that neighbouring threads
// write neighbouring numbers and sample neighbouring places.
#pragma once

#include "../deform_geometry.h"
#include "grid.cuh"

namespace glip::cuda {

// A sample of a plane: corners (y0, x0) to (y0 + 1, x0 + 1), which may lie outside.
template <typename T>
struct DeformSample {
  bool inside;
  int64_t y0, x0;
  T fraction_y, fraction_x, mask;
};

// offset and mask are those of one image; mask may be null.
template <typename T>
__device__ DeformSample<T> find_sample(const DeformGeometry& s, const T* offset, const T* mask,
                                       int64_t deformable_group, int64_t tap, int64_t pixel) {
  const int64_t pixels = s.out_height * s.out_width, taps = s.kernel_height * s.kernel_width;
  const int64_t map = deformable_group * taps + tap;
  const int64_t row = pixel / s.out_width, column = pixel % s.out_width;
  const T y = static_cast<T>(row * s.stride_height - s.padding_height +
                             tap / s.kernel_width * s.dilation_height) +
              offset[2 * map * pixels + pixel];
  const T x = static_cast<T>(column * s.stride_width - s.padding_width +
                             tap % s.kernel_width * s.dilation_width) +
              offset[(2 * map + 1) * pixels + pixel];
  DeformSample<T> sample{};
  sample.inside = y > T(-1) && y < static_cast<T>(s.height) && x > T(-1) && x < static_cast<T>(s.width);
  if (sample.inside) {
    const T low_y = floor(y), low_x = floor(x);
    sample.y0 = static_cast<int64_t>(low_y);
    sample.x0 = static_cast<int64_t>(low_x);
    sample.fraction_y = y - low_y;
    sample.fraction_x = x - low_x;
    sample.mask = mask == nullptr ? T(1) : mask[map * pixels + pixel];
  }
  return sample;
}

// The number at (y, x), 0 outside.
template <typename T>
__device__ T read(const T* plane, const DeformGeometry& s, int64_t y, int64_t x) {
  return y >= 0 && y < s.height && x >= 0 && x < s.width ? plane[y * s.width + x] : T(0);
}

// One thread per (channel, output pixel), over all kernel points.
template <typename T>
__global__ void deform_columns_kernel(const T* image, const T* offset, const T* mask, DeformGeometry s,
                                      T* columns) {
  const int64_t pixels = s.out_height * s.out_width, taps = s.kernel_height * s.kernel_width;
  GLIP_GRID_LOOP(index, s.channels * pixels) {
    const int64_t pixel = index % pixels, channel = index / pixels;
    const int64_t deformable_group = channel / (s.channels / s.deformable_groups);
    const T* const plane = image + channel * s.height * s.width;
    for (int64_t tap = 0; tap < taps; ++tap) {
      const DeformSample<T> at = find_sample(s, offset, mask, deformable_group, tap, pixel);
      T value = T(0);
      if (at.inside) {
        const T y = at.fraction_y, x = at.fraction_x;
        value = at.mask * ((1 - y) * ((1 - x) * read(plane, s, at.y0, at.x0) +
                                      x * read(plane, s, at.y0, at.x0 + 1)) +
                           y * ((1 - x) * read(plane, s, at.y0 + 1, at.x0) +
                                x * read(plane, s, at.y0 + 1, at.x0 + 1)));
      }
      columns[(channel * taps + tap) * pixels + pixel] = value;
    }
  }
}

template <typename T>
__device__ void add_inside(T* plane, const DeformGeometry& s, int64_t y, int64_t x, T value) {
  if (y >= 0 && y < s.height && x >= 0 && x < s.width) atomicAdd(plane + y * s.width + x, value);
}

// From the gradient of the columns to that of the image; one thread per column entry.
template <typename T>
__global__ void deform_image_gradient_kernel(const T* grad_columns, const T* offset, const T* mask,
                                             DeformGeometry s, T* grad_image) {
  const int64_t pixels = s.out_height * s.out_width, taps = s.kernel_height * s.kernel_width;
  GLIP_GRID_LOOP(index, s.channels * taps * pixels) {
    const int64_t pixel = index % pixels, tap = index / pixels % taps;
    const int64_t channel = index / (pixels * taps);
    const int64_t deformable_group = channel / (s.channels / s.deformable_groups);
    const DeformSample<T> at = find_sample(s, offset, mask, deformable_group, tap, pixel);
    if (!at.inside) continue;
    T* const plane = grad_image + channel * s.height * s.width;
    const T upstream = grad_columns[index] * at.mask, y = at.fraction_y, x = at.fraction_x;
    add_inside(plane, s, at.y0, at.x0, (1 - y) * (1 - x) * upstream);
    add_inside(plane, s, at.y0, at.x0 + 1, (1 - y) * x * upstream);
    add_inside(plane, s, at.y0 + 1, at.x0, y * (1 - x) * upstream);
    add_inside(plane, s, at.y0 + 1, at.x0 + 1, y * x * upstream);
  }
}

// From the gradient of the columns to those of offset and mask (grad_mask may be null); one thread
// per (deformable group, kernel point, output pixel), over the group's channels.
template <typename T>
__global__ void deform_maps_gradient_kernel(const T* grad_columns, const T* image, const T* offset,
                                            const T* mask, DeformGeometry s, T* grad_offset,
                                            T* grad_mask) {
  const int64_t pixels = s.out_height * s.out_width, taps = s.kernel_height * s.kernel_width;
  const int64_t group_channels = s.channels / s.deformable_groups;
  GLIP_GRID_LOOP(index, s.deformable_groups * taps * pixels) {
    const int64_t pixel = index % pixels, map = index / pixels;
    const int64_t tap = map % taps, deformable_group = map / taps;
    const DeformSample<T> at = find_sample(s, offset, mask, deformable_group, tap, pixel);
    T sum00 = T(0), sum01 = T(0), sum10 = T(0), sum11 = T(0);
    if (at.inside) {
      for (int64_t c = 0; c < group_channels; ++c) {
        const int64_t channel = deformable_group * group_channels + c;
        const T* const plane = image + channel * s.height * s.width;
        const T upstream = grad_columns[(channel * taps + tap) * pixels + pixel];
        sum00 += upstream * read(plane, s, at.y0, at.x0);
        sum01 += upstream * read(plane, s, at.y0, at.x0 + 1);
        sum10 += upstream * read(plane, s, at.y0 + 1, at.x0);
        sum11 += upstream * read(plane, s, at.y0 + 1, at.x0 + 1);
      }
    }
    const T y = at.fraction_y, x = at.fraction_x;
    grad_offset[2 * map * pixels + pixel] =
        at.mask * ((1 - x) * (sum10 - sum00) + x * (sum11 - sum01));
    grad_offset[(2 * map + 1) * pixels + pixel] =
        at.mask * ((1 - y) * (sum01 - sum00) + y * (sum11 - sum10));
    if (grad_mask != nullptr) {
      grad_mask[map * pixels + pixel] =
          (1 - y) * ((1 - x) * sum00 + x * sum01) + y * ((1 - x) * sum10 + x * sum11);
    }
  }
}

// output[c][pixel] += bias[c], for one or more images.
template <typename T>
__global__ void add_bias_kernel(T* output, const T* bias, int64_t channels, int64_t pixels,
                                int64_t count) {
  GLIP_GRID_LOOP(index, count) { output[index] += bias[index / pixels % channels]; }
}

template <typename T>
__global__ void add_kernel(T* total, const T* part, int64_t count) {
  GLIP_GRID_LOOP(index, count) { total[index] += part[index]; }
}

}  // namespace glip::cuda
