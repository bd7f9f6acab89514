// Weighted means of maps followed by the larger of two lines, pixel by pixel. Part of simd_kernels.h.

namespace glip::GLIP_SIMD_NAMESPACE {
namespace {

// The lines of one vector of channels: slope * mean + offset.
template <typename V>
struct Lines {
  V slope[2], offset[2];
};

template <typename T>
GLIP_INLINE Lines<Vector<T>> load_lines(const T* pieces, int64_t channels, int64_t c) {
  return {{load(pieces + c), load(pieces + 2 * channels + c)},
          {load(pieces + channels + c), load(pieces + 3 * channels + c)}};
}

template <typename T>
GLIP_INLINE Lines<T> read_lines(const T* pieces, int64_t channels, int64_t c) {
  return {{pieces[c], pieces[2 * channels + c]},
          {pieces[channels + c], pieces[3 * channels + c]}};
}

// In this order, each product rounded: as the original computes it.
template <int kMaps, typename V, typename T>
GLIP_INLINE V weighted_mean(const V (&value)[kMaps], const T (&weight)[3]) {
  V total = value[0] * weight[0];
  for (int k = 1; k < kMaps; ++k) total = total + value[k] * weight[k];
  return total / T(kMaps);
}

template <int kMaps, typename T>
GLIP_INLINE void dynamic_mean_pixels(const DynamicMean<T>& task) {
  for (int64_t i = 0; i < task.pixels; ++i) {
    const int64_t pixel = i * task.channels;
    int64_t c = 0;
    for (; c + kLanes<T> <= task.channels; c += kLanes<T>) {
      Vector<T> value[kMaps];
      for (int k = 0; k < kMaps; ++k) value[k] = load(task.maps[k] + pixel + c);
      const Vector<T> mean = weighted_mean<kMaps>(value, task.weights);
      const Lines<Vector<T>> line = load_lines(task.pieces, task.channels, c);
      const Vector<T> first = mean * line.slope[0] + line.offset[0];
      const Vector<T> second = mean * line.slope[1] + line.offset[1];
      store(task.out + pixel + c, first > second ? first : second);
    }
    for (; c < task.channels; ++c) {
      T value[kMaps];
      for (int k = 0; k < kMaps; ++k) value[k] = task.maps[k][pixel + c];
      const T mean = weighted_mean<kMaps>(value, task.weights);
      const Lines<T> line = read_lines(task.pieces, task.channels, c);
      const T first = mean * line.slope[0] + line.offset[0];
      const T second = mean * line.slope[1] + line.offset[1];
      task.out[pixel + c] = first > second ? first : second;
    }
  }
}

template <typename T>
void dynamic_mean(const DynamicMean<T>& task) {
  if (task.count == 1) {
    dynamic_mean_pixels<1>(task);
  } else if (task.count == 2) {
    dynamic_mean_pixels<2>(task);
  } else {
    dynamic_mean_pixels<3>(task);
  }
}

template <int kMaps, typename T>
GLIP_INLINE void dynamic_mean_backward_pixels(DynamicMeanBackward<T>& task) {
  const DynamicMean<T>& forward = task.forward;
  const int64_t channels = forward.channels;
  T share[kMaps];
  for (int k = 0; k < kMaps; ++k) share[k] = forward.weights[k] / T(kMaps);
  T* const slope_sums[2] = {task.piece_sums, task.piece_sums + 2 * channels};
  T* const offset_sums[2] = {task.piece_sums + channels, task.piece_sums + 3 * channels};
  Vector<T> weight_sums[kMaps] = {};
  T rest[kMaps] = {};
  for (int64_t i = 0; i < forward.pixels; ++i) {
    const int64_t pixel = i * channels;
    int64_t c = 0;
    for (; c + kLanes<T> <= channels; c += kLanes<T>) {
      Vector<T> value[kMaps];
      for (int k = 0; k < kMaps; ++k) value[k] = load(forward.maps[k] + pixel + c);
      const Vector<T> mean = weighted_mean<kMaps>(value, forward.weights);
      const Lines<Vector<T>> line = load_lines(forward.pieces, channels, c);
      const auto leads = mean * line.slope[0] + line.offset[0] >
                         mean * line.slope[1] + line.offset[1];
      const Vector<T> upstream = load(task.grad + pixel + c), zero{};
      const Vector<T> grad[2] = {leads ? upstream : zero, leads ? zero : upstream};
      for (int j = 0; j < 2; ++j) {
        store(slope_sums[j] + c, fma(grad[j], mean, load(slope_sums[j] + c)));
        store(offset_sums[j] + c, load(offset_sums[j] + c) + grad[j]);
      }
      const Vector<T> grad_mean = upstream * (leads ? line.slope[0] : line.slope[1]);
      for (int k = 0; k < kMaps; ++k) {
        weight_sums[k] = fma(grad_mean, value[k], weight_sums[k]);
        store(task.grad_maps[k] + pixel + c, grad_mean * share[k]);
      }
    }
    for (; c < channels; ++c) {
      T value[kMaps];
      for (int k = 0; k < kMaps; ++k) value[k] = forward.maps[k][pixel + c];
      const T mean = weighted_mean<kMaps>(value, forward.weights);
      const Lines<T> line = read_lines(forward.pieces, channels, c);
      const int j = mean * line.slope[0] + line.offset[0] > mean * line.slope[1] + line.offset[1]
                        ? 0
                        : 1;
      const T upstream = task.grad[pixel + c], grad_mean = upstream * line.slope[j];
      slope_sums[j][c] += upstream * mean;
      offset_sums[j][c] += upstream;
      for (int k = 0; k < kMaps; ++k) {
        rest[k] += grad_mean * value[k];
        task.grad_maps[k][pixel + c] = grad_mean * share[k];
      }
    }
  }
  for (int k = 0; k < kMaps; ++k) task.weight_sums[k] = sum<T>(weight_sums[k]) + rest[k];
}

template <typename T>
void dynamic_mean_backward(DynamicMeanBackward<T>& task) {
  if (task.forward.count == 1) {
    dynamic_mean_backward_pixels<1>(task);
  } else if (task.forward.count == 2) {
    dynamic_mean_backward_pixels<2>(task);
  } else {
    dynamic_mean_backward_pixels<3>(task);
  }
}

}  // namespace
}  // namespace glip::GLIP_SIMD_NAMESPACE
