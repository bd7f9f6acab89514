// Reading images between pixels, and the way back. Part of simd_kernels.h.

namespace glip::GLIP_SIMD_NAMESPACE {
namespace {

GLIP_INLINE float widen(BFloat16 value) {
  const uint32_t bits = static_cast<uint32_t>(value.bits) << 16;
  float result;
  __builtin_memcpy(&result, &bits, sizeof(result));
  return result;
}

template <typename T>
GLIP_INLINE T widen(T value) {
  return value;
}

// Round to nearest, ties to even; NaN stays NaN.
GLIP_INLINE void narrow(BFloat16* to, float value) {
  uint32_t bits;
  __builtin_memcpy(&bits, &value, sizeof(bits));
  const uint32_t rounded = bits + 0x7fff + ((bits >> 16) & 1);
  to->bits = static_cast<uint16_t>((value == value ? rounded : bits | 0x400000) >> 16);
}

template <typename T>
GLIP_INLINE void narrow(T* to, T value) {
  *to = value;
}

typedef uint16_t HalfWidth __attribute__((vector_size(GLIP_SIMD_BYTES / 2)));
typedef uint32_t FullWidth __attribute__((vector_size(GLIP_SIMD_BYTES)));

GLIP_INLINE Vector<float> load_wide(const BFloat16* from) {
  HalfWidth bits;
  __builtin_memcpy(&bits, from, sizeof(bits));
  return (Vector<float>)(__builtin_convertvector(bits, FullWidth) << 16);
}

template <typename T>
GLIP_INLINE Vector<T> load_wide(const T* from) {
  return load(from);
}

GLIP_INLINE void store_narrow(BFloat16* to, Vector<float> value) {
  const FullWidth bits = (FullWidth)value;
  const FullWidth rounded = bits + 0x7fff + ((bits >> 16) & 1);
  const FullWidth kept = value == value ? rounded : bits | 0x400000;
  const HalfWidth result = __builtin_convertvector(kept >> 16, HalfWidth);
  __builtin_memcpy(to, &result, sizeof(result));
}

template <typename T>
GLIP_INLINE void store_narrow(T* to, Vector<T> value) {
  store(to, value);
}

// What a corner outside the image is read as: zeros, whatever the image holds elsewhere.
alignas(64) const double kZeros[kMaxGatherChannels] = {};

template <typename T>
GLIP_INLINE void corner_weights(const SamplePoint<T>& point, T (&weight)[4]) {
  const T y = point.fraction_y, x = point.fraction_x;
  weight[0] = (1 - y) * (1 - x);
  weight[1] = (1 - y) * x;
  weight[2] = y * (1 - x);
  weight[3] = y * x;
}

template <typename T>
GLIP_INLINE bool outside(const SamplePoint<T>& point) {
  return (point.pixel[0] & point.pixel[1] & point.pixel[2] & point.pixel[3]) < 0;
}

template <typename T, typename In>
GLIP_INLINE void find_corners(const SamplePoint<T>& point, const In* image, int64_t pixel_stride,
                              const In* (&corner)[4]) {
  for (int k = 0; k < 4; ++k) {
    corner[k] = point.pixel[k] >= 0 ? image + point.pixel[k] * pixel_stride
                                    : reinterpret_cast<const In*>(kZeros);
  }
}

template <typename T, typename In, typename Out>
GLIP_INLINE void gather_points(const In* image, int64_t pixel_stride, const SamplePoint<T>* points,
                               int64_t count, int64_t channels, Out* out, int64_t out_stride) {
  for (int64_t i = 0; i < count; ++i, out += out_stride) {
    const SamplePoint<T>& point = points[i];
    if (outside(point)) {
      for (int64_t c = 0; c < channels; ++c) out[c] = Out{};
      continue;
    }
    const In* corner[4];
    find_corners(point, image, pixel_stride, corner);
    T weight[4];
    corner_weights(point, weight);
    for (T& each : weight) each *= point.mask;
    int64_t c = 0;
    for (; c + kLanes<T> <= channels; c += kLanes<T>) {
      Vector<T> value = load_wide(corner[0] + c) * weight[0];
      value = fma(load_wide(corner[1] + c), splat(weight[1]), value);
      value = fma(load_wide(corner[2] + c), splat(weight[2]), value);
      value = fma(load_wide(corner[3] + c), splat(weight[3]), value);
      store_narrow(out + c, value);
    }
    for (; c < channels; ++c) {
      narrow(out + c, widen(corner[0][c]) * weight[0] + widen(corner[1][c]) * weight[1] +
                          widen(corner[2][c]) * weight[2] + widen(corner[3][c]) * weight[3]);
    }
  }
}

template <typename T>
void gather(const T* image, int64_t pixel_stride, const SamplePoint<T>* points, int64_t count,
            int64_t channels, T* out, int64_t out_stride) {
  gather_points<T>(image, pixel_stride, points, count, channels, out, out_stride);
}

void gather_widening(const BFloat16* image, int64_t pixel_stride, const SamplePoint<float>* points,
                     int64_t count, int64_t channels, float* out, int64_t out_stride) {
  gather_points<float>(image, pixel_stride, points, count, channels, out, out_stride);
}

void gather_bfloat16(const BFloat16* image, int64_t pixel_stride, const SamplePoint<float>* points,
                     int64_t count, int64_t channels, BFloat16* out, int64_t out_stride) {
  gather_points<float>(image, pixel_stride, points, count, channels, out, out_stride);
}

template <bool kColumns, typename T>
GLIP_INLINE void deform_backward_points(const DeformBackward<T>& task) {
  const T* grad = task.grad;
  T* columns = task.columns;
  T* sums = task.corner_sums;
  // What corners outside the image get.
  alignas(64) T nowhere[kMaxGatherChannels] = {};
  for (int64_t i = 0; i < task.count; ++i, grad += task.row_stride, sums += 4) {
    const SamplePoint<T>& point = task.points[i];
    if (outside(point)) {
      for (int64_t c = 0; kColumns && c < task.channels; ++c) columns[c] = 0;
      for (int k = 0; k < 4; ++k) sums[k] = 0;
    } else {
      const T* corner[4];
      find_corners(point, task.image, task.pixel_stride, corner);
      T* target[4];
      for (int k = 0; k < 4; ++k) {
        target[k] = point.pixel[k] >= 0 ? task.grad_image + point.pixel[k] * task.pixel_stride
                                        : nowhere;
      }
      T weight[4];
      corner_weights(point, weight);
      for (T& each : weight) each *= point.mask;
      Vector<T> total[4] = {};
      int64_t c = 0;
      for (; c + kLanes<T> <= task.channels; c += kLanes<T>) {
        const Vector<T> upstream = load(grad + c);
        Vector<T> value{};
#pragma GCC unroll 4
        for (int k = 0; k < 4; ++k) {
          const Vector<T> pixel = load(corner[k] + c), factor = splat(weight[k]);
          if (kColumns) value = fma(pixel, factor, value);
          total[k] = fma(pixel, upstream, total[k]);
          store(target[k] + c, fma(upstream, factor, load(target[k] + c)));
        }
        if (kColumns) store(columns + c, value);
      }
      T rest[4] = {};
      for (; c < task.channels; ++c) {
        T value = 0;
        for (int k = 0; k < 4; ++k) {
          value += corner[k][c] * weight[k];
          rest[k] += corner[k][c] * grad[c];
          target[k][c] += grad[c] * weight[k];
        }
        if (kColumns) columns[c] = value;
      }
      for (int k = 0; k < 4; ++k) sums[k] = sum<T>(total[k]) + rest[k];
    }
    if (kColumns) columns += task.row_stride;
  }
}

template <typename T>
void deform_backward(const DeformBackward<T>& task) {
  if (task.columns != nullptr) {
    deform_backward_points<true>(task);
  } else {
    deform_backward_points<false>(task);
  }
}

// Channels [c, c + kVectors * lanes) of a weighted sum, kept in registers over all pixels.
template <int kVectors, typename T>
GLIP_INLINE void weighted_sum_lanes(const T* image, int64_t row_stride, int64_t pixel_stride,
                                    const AxisWeights<T>& rows, const AxisWeights<T>& columns,
                                    int64_t c, T* out) {
  Vector<T> total[kVectors] = {};
  for (int64_t y = 0; y < rows.count; ++y) {
    const T* const row = image + rows.index[y] * row_stride + c;
    for (int64_t x = 0; x < columns.count; ++x) {
      const T* const pixel = row + columns.index[x] * pixel_stride;
      const Vector<T> weight = splat(rows.weight[y] * columns.weight[x]);
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) {
        total[v] = fma(load(pixel + v * kLanes<T>), weight, total[v]);
      }
    }
  }
#pragma GCC unroll 8
  for (int v = 0; v < kVectors; ++v) store(out + c + v * kLanes<T>, total[v]);
}

template <typename T>
void weighted_sum(const T* image, int64_t row_stride, int64_t pixel_stride,
                  const AxisWeights<T>& rows, const AxisWeights<T>& columns, int64_t channels,
                  T* out) {
  int64_t c = 0;
  for (; c + 8 * kLanes<T> <= channels; c += 8 * kLanes<T>) {
    weighted_sum_lanes<8>(image, row_stride, pixel_stride, rows, columns, c, out);
  }
  for (; c + kLanes<T> <= channels; c += kLanes<T>) {
    weighted_sum_lanes<1>(image, row_stride, pixel_stride, rows, columns, c, out);
  }
  for (; c < channels; ++c) {
    T total = 0;
    for (int64_t y = 0; y < rows.count; ++y) {
      for (int64_t x = 0; x < columns.count; ++x) {
        total += rows.weight[y] * columns.weight[x] *
                 image[rows.index[y] * row_stride + columns.index[x] * pixel_stride + c];
      }
    }
    out[c] = total;
  }
}

template <typename T>
void weighted_scatter(T* image, int64_t row_stride, int64_t pixel_stride,
                      const AxisWeights<T>& rows, const AxisWeights<T>& columns, int64_t channels,
                      const T* values) {
  for (int64_t y = 0; y < rows.count; ++y) {
    T* const row = image + rows.index[y] * row_stride;
    for (int64_t x = 0; x < columns.count; ++x) {
      T* const pixel = row + columns.index[x] * pixel_stride;
      const T weight = rows.weight[y] * columns.weight[x];
      int64_t c = 0;
      for (; c + kLanes<T> <= channels; c += kLanes<T>) {
        store(pixel + c, fma(load(values + c), splat(weight), load(pixel + c)));
      }
      for (; c < channels; ++c) pixel[c] += weight * values[c];
    }
  }
}

}  // namespace
}  // namespace glip::GLIP_SIMD_NAMESPACE
