// ROIAlign: the average of bilinear samples over a grid in every bin of every box.
//
// The grid is a product of positions along y and along x, and so is the bilinear weight. Samples are
// therefore summed per axis first: a bin becomes a weighted sum over the few rows and columns that
// its samples touch, each pixel read once, instead of four reads per sample. Channels lie innermost.
#include <algorithm>
#include <cmath>
#include <vector>

#include "../checks.h"
#include "kernels.h"
#include "ops.h"
#include "parallel.h"

namespace glip {
namespace {

constexpr int64_t kSlice = 32;            // channels per unit of the backward pass
constexpr double kLargestGrid = 1 << 20;  // samples per bin and axis

struct Settings {
  double spatial_scale;
  int64_t height, width;  // of the feature map
  int64_t pooled_height, pooled_width;
  int64_t sampling_ratio;
  bool aligned;
};

// For each bin along one axis: which indices its samples touch, and with what weight.
template <typename T>
class AxisTable {
 public:
  void fill(T start, T length, int64_t bins, int64_t sampling_ratio, int64_t size) {
    index_.clear();
    weight_.clear();
    ends_.clear();
    const T bin = length / static_cast<T>(bins);
    const int64_t grid = grid_size(bin, sampling_ratio);
    const T share = T(1) / static_cast<T>(std::max<int64_t>(grid, 1));
    for (int64_t b = 0; b < bins; ++b) {
      const size_t first = index_.size();
      for (int64_t i = 0; i < grid; ++i) {
        const T position = start + static_cast<T>(b) * bin +
                           (static_cast<T>(i) + T(0.5)) * bin / static_cast<T>(grid);
        add_sample(position, size, share, first);
      }
      ends_.push_back(index_.size());
    }
  }

  AxisWeights<T> bin(int64_t b) const {
    const size_t begin = b == 0 ? 0 : ends_[b - 1];
    return {index_.data() + begin, weight_.data() + begin,
            static_cast<int64_t>(ends_[b] - begin)};
  }

  // Samples per bin; none if the box has no proper size.
  static int64_t grid_size(T bin, int64_t sampling_ratio) {
    if (sampling_ratio > 0) return sampling_ratio;
    const T grid = std::ceil(bin);
    return grid > T(0) && grid <= T(kLargestGrid) ? static_cast<int64_t>(grid) : 0;
  }

 private:
  void add_sample(T position, int64_t size, T share, size_t first) {
    if (!(position >= T(-1) && position <= static_cast<T>(size))) return;
    position = std::max(position, T(0));
    int64_t low = static_cast<int64_t>(position);
    if (low >= size - 1) {
      add(static_cast<int32_t>(size - 1), share, first);
      return;
    }
    const T fraction = position - static_cast<T>(low);
    add(static_cast<int32_t>(low), (1 - fraction) * share, first);
    add(static_cast<int32_t>(low + 1), fraction * share, first);
  }

  // Neighbouring samples share pixels, which are among the last two added.
  void add(int32_t index, T weight, size_t first) {
    for (size_t back = 1; back <= 2 && index_.size() >= first + back; ++back) {
      const size_t at = index_.size() - back;
      if (index_[at] == index) {
        weight_[at] += weight;
        return;
      }
    }
    index_.push_back(index);
    weight_.push_back(weight);
  }

  std::vector<int32_t> index_;
  std::vector<T> weight_;
  std::vector<size_t> ends_;
};

template <typename T>
struct BoxTables {
  int64_t image;
  AxisTable<T> rows, columns;
};

template <typename T>
std::vector<BoxTables<T>> make_tables(const Tensor& rois, int64_t batch, const Settings& s) {
  const int64_t count = rois.size(0);
  const T* const values = rois.data<T>();
  const T scale = static_cast<T>(s.spatial_scale), shift = s.aligned ? T(0.5) : T(0);
  std::vector<BoxTables<T>> tables(count);
  for (int64_t i = 0; i < count; ++i) {
    const T image = values[5 * i];
    check(image >= 0 && image < static_cast<T>(batch), "rois: row ", i, " names image ", image,
          " of a batch of ", batch);
    tables[i].image = static_cast<int64_t>(image);
  }
  parallel_for(count, 64, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const T* const roi = values + 5 * i;
      const T x = roi[1] * scale - shift, y = roi[2] * scale - shift;
      T width = roi[3] * scale - shift - x, height = roi[4] * scale - shift - y;
      if (!s.aligned) {
        width = std::max(width, T(1));
        height = std::max(height, T(1));
      }
      tables[i].rows.fill(y, height, s.pooled_height, s.sampling_ratio, s.height);
      tables[i].columns.fill(x, width, s.pooled_width, s.sampling_ratio, s.width);
    }
  });
  return tables;
}

// (rows x columns) -> (columns x rows).
template <typename T>
void transpose(const T* from, int64_t rows, int64_t columns, T* to) {
  constexpr int64_t kTile = 16;
  for (int64_t r0 = 0; r0 < rows; r0 += kTile) {
    const int64_t r1 = std::min(rows, r0 + kTile);
    for (int64_t c = 0; c < columns; ++c) {
      for (int64_t r = r0; r < r1; ++r) to[c * rows + r] = from[r * columns + c];
    }
  }
}

template <typename T>
void pool_channels_last(const T* image, int64_t channels, const BoxTables<T>& box,
                        const Settings& s, std::vector<T>& bins, T* out) {
  const Kernels<T>& simd = kernels<T>();
  T* bin = bins.data();
  for (int64_t y = 0; y < s.pooled_height; ++y) {
    for (int64_t x = 0; x < s.pooled_width; ++x, bin += channels) {
      simd.weighted_sum(image, s.width * channels, channels, box.rows.bin(y), box.columns.bin(x),
                        channels, bin);
    }
  }
  transpose(bins.data(), s.pooled_height * s.pooled_width, channels, out);
}

template <typename T>
void pool_planes(const T* image, int64_t channels, const BoxTables<T>& box, const Settings& s,
                 T* out) {
  for (int64_t c = 0; c < channels; ++c, image += s.height * s.width) {
    for (int64_t py = 0; py < s.pooled_height; ++py) {
      const AxisWeights<T> rows = box.rows.bin(py);
      for (int64_t px = 0; px < s.pooled_width; ++px) {
        const AxisWeights<T> columns = box.columns.bin(px);
        T total = 0;
        for (int64_t y = 0; y < rows.count; ++y) {
          const T* const row = image + rows.index[y] * s.width;
          T line = 0;
          for (int64_t x = 0; x < columns.count; ++x) {
            line += columns.weight[x] * row[columns.index[x]];
          }
          total += rows.weight[y] * line;
        }
        *out++ = total;
      }
    }
  }
}

// Bringing the channels innermost costs a pass over the map, which a few boxes do not repay.
bool few_boxes(int64_t count, int64_t batch, const Settings& s) {
  return count * s.pooled_height * s.pooled_width * 16 < batch * s.height * s.width;
}

template <typename T>
Tensor forward(const Tensor& given, const Tensor& rois, const Settings& s) {
  const int64_t batch = given.size(0), channels = given.size(1), count = rois.size(0);
  const int64_t bins = s.pooled_height * s.pooled_width;
  Tensor output = empty<4>({count, channels, s.pooled_height, s.pooled_width}, given.dtype(), given);
  const std::vector<BoxTables<T>> boxes = make_tables<T>(rois, batch, s);
  const bool planes = !is_channels_last(given) && few_boxes(count, batch, s);
  const Tensor input = planes ? contiguous(given) : channels_last(given);
  const T* const features = input.data<T>();
  T* const out = output.data<T>();
  parallel_units(
      count, [&] { return std::vector<T>(planes ? 0 : bins * channels); },
      [&](int64_t i, std::vector<T>& scratch) {
        const T* const image = features + boxes[i].image * channels * s.height * s.width;
        T* const target = out + i * channels * bins;
        if (planes) {
          pool_planes(image, channels, boxes[i], s, target);
        } else {
          pool_channels_last(image, channels, boxes[i], s, scratch, target);
        }
      });
  return output;
}

template <typename T>
void scatter_channels_last(const T* upstream, int64_t bins, const BoxTables<T>& box,
                           const Settings& s, int64_t width, std::vector<T>& values, T* grad,
                           int64_t channels) {
  const Kernels<T>& simd = kernels<T>();
  transpose(upstream, width, bins, values.data());
  const T* value = values.data();
  for (int64_t y = 0; y < s.pooled_height; ++y) {
    for (int64_t x = 0; x < s.pooled_width; ++x, value += width) {
      simd.weighted_scatter(grad, s.width * channels, channels, box.rows.bin(y),
                            box.columns.bin(x), width, value);
    }
  }
}

template <typename T>
void scatter_planes(const T* upstream, const BoxTables<T>& box, const Settings& s, int64_t width,
                    T* grad) {
  for (int64_t c = 0; c < width; ++c, grad += s.height * s.width) {
    for (int64_t py = 0; py < s.pooled_height; ++py) {
      const AxisWeights<T> rows = box.rows.bin(py);
      for (int64_t px = 0; px < s.pooled_width; ++px, ++upstream) {
        const AxisWeights<T> columns = box.columns.bin(px);
        for (int64_t y = 0; y < rows.count; ++y) {
          T* const row = grad + rows.index[y] * s.width;
          for (int64_t x = 0; x < columns.count; ++x) {
            row[columns.index[x]] += rows.weight[y] * columns.weight[x] * *upstream;
          }
        }
      }
    }
  }
}

// One unit owns one slice of the channels of one image, so that sums need no locks and do not
// depend on the number of threads.
template <typename T>
Tensor backward(const Tensor& grad_output, const Tensor& rois, int64_t batch, const Settings& s,
                bool channels_innermost) {
  const int64_t channels = grad_output.size(1), count = rois.size(0);
  const int64_t bins = s.pooled_height * s.pooled_width;
  const bool planes = !channels_innermost && few_boxes(count, batch, s);
  const std::array<int64_t, 4> size{batch, channels, s.height, s.width};
  const Tensor grad_input =
      zeros_(planes ? empty<4>(size, grad_output.dtype(), grad_output)
                    : empty_channels_last(size, grad_output.dtype(), grad_output));
  const std::vector<BoxTables<T>> boxes = make_tables<T>(rois, batch, s);
  const T* const upstream = grad_output.data<T>();
  T* const grad = grad_input.data<T>();
  const int64_t slices = (channels + kSlice - 1) / kSlice, pixels = s.height * s.width;
  parallel_units(
      batch * slices, [&] { return std::vector<T>(bins * kSlice); },
      [&](int64_t unit, std::vector<T>& values) {
        const int64_t image = unit / slices, first = unit % slices * kSlice;
        const int64_t width = std::min(kSlice, channels - first);
        T* const start = grad + image * pixels * channels;
        for (int64_t i = 0; i < count; ++i) {
          if (boxes[i].image != image) continue;
          const T* const here = upstream + (i * channels + first) * bins;
          if (planes) {
            scatter_planes(here, boxes[i], s, width, start + first * pixels);
          } else {
            scatter_channels_last(here, bins, boxes[i], s, width, values, start + first, channels);
          }
        }
      });
  return channels_innermost ? grad_input : contiguous(grad_input);
}

}  // namespace

Tensor roi_align_cpu(Tensor input, Tensor rois, double spatial_scale, int64_t pooled_height,
                     int64_t pooled_width, int64_t sampling_ratio, bool aligned) {
  check_roi_input(input, rois, pooled_height, pooled_width);
  rois = contiguous(rois);
  const Settings settings{spatial_scale, input.size(2),  input.size(3), pooled_height,
                          pooled_width,  sampling_ratio, aligned};
  return input.dtype() == DType::kFloat64 ? forward<double>(input, rois, settings)
                                          : forward<float>(input, rois, settings);
}

Tensor roi_align_backward_cpu(Tensor grad_output, Tensor rois, double spatial_scale, int64_t batch,
                              int64_t height, int64_t width, int64_t sampling_ratio, bool aligned,
                              bool channels_innermost) {
  check_roi_gradient(grad_output, rois);
  grad_output = contiguous(grad_output);
  rois = contiguous(rois);
  const Settings settings{spatial_scale,       height,         width,  grad_output.size(2),
                          grad_output.size(3), sampling_ratio, aligned};
  return grad_output.dtype() == DType::kFloat64
             ? backward<double>(grad_output, rois, batch, settings, channels_innermost)
             : backward<float>(grad_output, rois, batch, settings, channels_innermost);
}

}  // namespace glip
