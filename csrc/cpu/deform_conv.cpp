// Deformable convolution, forward.
//
// Output pixels are taken in blocks. For each kernel point the samples of a block are gathered into a
// matrix (pixels x channels) that stays in the second-level cache and is multiplied at once with that
// kernel point's weights. Channels lie innermost, so that a sample is four contiguous reads; no
// matrix of all columns ever exists.
#include "deform_conv.h"

#include "ops.h"

namespace glip {
namespace {

constexpr int64_t kLargestBlock = 96;   // output pixels
constexpr int64_t kSmallestBlock = 24;
constexpr int64_t kBlockStep = 12;      // whole tiles of the matrix product

// Weights in panels: [group][tap][panel][channel][column in panel]. With bfloat16 products channels
// come in pairs: [group][tap][panel][channel pair][column in panel][2]. Missing columns and the
// missing half of a pair are zero.
template <typename Packed, typename Given, typename Convert>
Buffer<Packed> pack_weight(const DeformGeometry& g, const Given* weight, int64_t panel,
                           int64_t interleave, const Convert& convert) {
  const int64_t inputs = g.group_channels(), outputs = g.group_outputs(), taps = g.taps();
  const int64_t panels = (outputs + panel - 1) / panel;
  const int64_t panel_size = round_up(inputs, interleave) * panel;
  Buffer<Packed> packed(g.groups * taps * panels * panel_size);
  parallel_for(g.groups * panels, 2, [&](int64_t begin, int64_t end) {
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t group = unit / panels, p = unit % panels;
      const Given* const rows = weight + (group * outputs + p * panel) * inputs * taps;
      const int64_t columns = std::min(panel, outputs - p * panel);
      for (int64_t channel = 0; channel < round_up(inputs, interleave); ++channel) {
        for (int64_t tap = 0; tap < taps; ++tap) {
          const Given* const from = rows + channel * taps + tap;
          Packed* const to = packed.data() + ((group * taps + tap) * panels + p) * panel_size +
                             channel / interleave * interleave * panel + channel % interleave;
          const int64_t given = channel < inputs ? columns : 0;
          for (int64_t j = 0; j < given; ++j) to[j * interleave] = convert(from[j * inputs * taps]);
          for (int64_t j = given; j < panel; ++j) to[j * interleave] = Packed{};
        }
      }
    }
  });
  return packed;
}

float widen(BFloat16 value) {
  const uint32_t bits = static_cast<uint32_t>(value.bits) << 16;
  float result;
  std::memcpy(&result, &bits, sizeof(result));
  return result;
}

BFloat16 narrow(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  const uint32_t rounded = bits + 0x7fff + ((bits >> 16) & 1);
  return {static_cast<uint16_t>((value == value ? rounded : bits | 0x400000) >> 16)};
}

float as_sum(BFloat16 value) { return widen(value); }
float as_sum(float value) { return value; }
double as_sum(double value) { return value; }

void from_sum(BFloat16* to, float value) { *to = narrow(value); }
template <typename T>
void from_sum(T* to, T value) {
  *to = value;
}

// Number type of the image, type of the sums, and how a block is gathered and multiplied.
template <typename T>
struct Plain {
  using Image = T;
  using Sum = T;
  using Column = T;
  static constexpr int64_t kInterleave = 1;

  static Buffer<T> pack(const DeformGeometry& g, const T* weight) {
    return pack_weight<T>(g, weight, kernels<T>().gemm_panel, 1, [](T value) { return value; });
  }
  static void gather(const T* image, int64_t stride, const SamplePoint<T>* points, int64_t count,
                     int64_t channels, T* out, int64_t out_stride) {
    kernels<T>().gather(image, stride, points, count, channels, out, out_stride);
  }
  static void multiply(int64_t rows, int64_t columns, int64_t depth, const T* a, int64_t a_row,
                       const T* b, int64_t b_panel, T* c, int64_t c_row) {
    kernels<T>().gemm({rows, columns, depth, a, a_row, 1, b, b_panel, kernels<T>().gemm_panel, c,
                       c_row, true});
  }
};

// bfloat16 without bfloat16 instructions: read as float, so that half the memory is touched.
struct Widened : Plain<float> {
  using Image = BFloat16;

  static Buffer<float> pack(const DeformGeometry& g, const BFloat16* weight) {
    return pack_weight<float>(g, weight, kernels<float>().gemm_panel, 1, widen);
  }
  static void gather(const BFloat16* image, int64_t stride, const SamplePoint<float>* points,
                     int64_t count, int64_t channels, float* out, int64_t out_stride) {
    kernels<float>().gather_widening(image, stride, points, count, channels, out, out_stride);
  }
};

// bfloat16 with the processor's own product of pairs, summed in float.
struct Paired {
  using Image = BFloat16;
  using Sum = float;
  using Column = BFloat16;
  static constexpr int64_t kInterleave = 2;

  static Buffer<BFloat16> pack(const DeformGeometry& g, const BFloat16* weight) {
    return pack_weight<BFloat16>(g, weight, kernels<float>().gemm_panel, 2,
                                 [](BFloat16 value) { return value; });
  }
  static void gather(const BFloat16* image, int64_t stride, const SamplePoint<float>* points,
                     int64_t count, int64_t channels, BFloat16* out, int64_t out_stride) {
    kernels<float>().gather_bfloat16(image, stride, points, count, channels, out, out_stride);
  }
  static void multiply(int64_t rows, int64_t columns, int64_t depth, const BFloat16* a,
                       int64_t a_row, const BFloat16* b, int64_t b_panel, float* c, int64_t c_row) {
    kernels<float>().gemm_bfloat16({rows, columns, depth, a, a_row, b, b_panel, c, c_row, true});
  }
};

// A run of channels that share a group of the convolution and a deformable group.
struct ChannelRun {
  int64_t begin, size, group, deformable_group;
};

std::vector<ChannelRun> channel_runs(const DeformGeometry& g) {
  const int64_t per_group = g.group_channels(), per_deformable = g.channels / g.deformable_groups;
  std::vector<ChannelRun> runs;
  for (int64_t begin = 0; begin < g.channels;) {
    const int64_t group = begin / per_group, deformable_group = begin / per_deformable;
    const int64_t end = std::min({(group + 1) * per_group, (deformable_group + 1) * per_deformable,
                                  begin + kMaxGatherChannels});
    runs.push_back({begin, end - begin, group, deformable_group});
    begin = end;
  }
  return runs;
}

template <typename Mode>
struct Scratch {
  Buffer<SamplePoint<typename Mode::Sum>> points;
  Buffer<typename Mode::Column> columns;
  Buffer<typename Mode::Sum> sums;
};

template <typename Mode>
class Forward {
  using Image = typename Mode::Image;
  using Sum = typename Mode::Sum;
  using Column = typename Mode::Column;

 public:
  Forward(const DeformGeometry& g, const Tensor& input, const DeformMaps<Sum>& maps,
          const Tensor& weight, const std::optional<Tensor>& bias, const Tensor& output,
          bool channels_innermost)
      : g_(g),
        maps_(maps),
        runs_(channel_runs(g)),
        packed_(Mode::pack(g, weight.data<Image>())),
        image_(input.data<Image>()),
        bias_(bias ? bias->data<Image>() : nullptr),
        output_(output.data<Image>()),
        channels_innermost_(channels_innermost) {}

  void run() const {
    const int64_t share = g_.batch * g_.pixels() / num_threads();
    const int64_t block =
        std::clamp(round_up(share, kBlockStep), kSmallestBlock, kLargestBlock);
    const int64_t blocks = (g_.pixels() + block - 1) / block;
    parallel_units(
        g_.batch * blocks,
        [&] {
          return Scratch<Mode>{Buffer<SamplePoint<Sum>>(block),
                               Buffer<Column>(block * row_length()),
                               Buffer<Sum>(block * g_.out_channels)};
        },
        [&](int64_t unit, Scratch<Mode>& scratch) {
          const int64_t first = unit % blocks * block;
          convolve(unit / blocks, first, std::min(block, g_.pixels() - first), scratch);
        });
  }

 private:
  // Length of the rows of the gathered matrix: whole cache lines, and not a power of two, so that
  // the rows of a tile do not compete for the same lines.
  int64_t row_length() const {
    return round_up(std::min(g_.channels, kMaxGatherChannels), 16) + 16;
  }

  void convolve(int64_t image, int64_t first, int64_t count, Scratch<Mode>& scratch) const {
    // Channels-last output of the type of the sums is summed in place.
    constexpr bool kSameType = std::is_same_v<Image, Sum>;
    Image* const out = output_ + image * g_.pixels() * g_.out_channels;
    Sum* sums = scratch.sums.data();
    if constexpr (kSameType) {
      if (channels_innermost_) sums = out + first * g_.out_channels;
    }
    for (int64_t i = 0; i < count; ++i) {
      for (int64_t n = 0; n < g_.out_channels; ++n) {
        sums[i * g_.out_channels + n] = bias_ ? as_sum(bias_[n]) : Sum(0);
      }
    }
    for (int64_t tap = 0; tap < g_.taps(); ++tap) {
      int64_t pointed = -1;  // the deformable group whose points are at hand
      for (const ChannelRun& run : runs_) {
        if (run.deformable_group != pointed) {
          pointed = run.deformable_group;
          make_points(g_, maps_, image, pointed, tap, first, count, scratch.points.data());
        }
        accumulate(image, tap, run, count, scratch, sums);
      }
    }
    if (kSameType && channels_innermost_) return;
    if (channels_innermost_) {
      Image* const to = out + first * g_.out_channels;
      for (int64_t i = 0; i < count * g_.out_channels; ++i) from_sum(to + i, sums[i]);
      return;
    }
    for (int64_t n = 0; n < g_.out_channels; ++n) {
      Image* const to = out + n * g_.pixels() + first;
      for (int64_t i = 0; i < count; ++i) from_sum(to + i, sums[i * g_.out_channels + n]);
    }
  }

  void accumulate(int64_t image, int64_t tap, const ChannelRun& run, int64_t count,
                  Scratch<Mode>& scratch, Sum* sums) const {
    const int64_t depth = round_up(run.size, Mode::kInterleave), row = row_length();
    Column* const columns = scratch.columns.data();
    Mode::gather(image_ + image * g_.height * g_.width * g_.channels + run.begin, g_.channels,
                 scratch.points.data(), count, run.size, columns, row);
    for (int64_t c = run.size; c < depth; ++c) {
      for (int64_t i = 0; i < count; ++i) columns[i * row + c] = Column{};
    }
    const int64_t panel = kernels<Sum>().gemm_panel, outputs = g_.group_outputs();
    const int64_t panels = (outputs + panel - 1) / panel;
    const int64_t panel_size = round_up(g_.group_channels(), Mode::kInterleave) * panel;
    const int64_t first_channel = run.begin - run.group * g_.group_channels();
    Mode::multiply(count, outputs, depth, columns, row,
                   packed_.data() + (run.group * g_.taps() + tap) * panels * panel_size +
                       first_channel * panel,
                   panel_size, sums + run.group * outputs, g_.out_channels);
  }

  const DeformGeometry& g_;
  const DeformMaps<Sum>& maps_;
  std::vector<ChannelRun> runs_;
  Buffer<Column> packed_;
  const Image* image_;
  const Image* bias_;
  Image* output_;
  bool channels_innermost_;
};

template <typename Mode>
Tensor convolve(const DeformGeometry& g, const Tensor& input, const Tensor& offset,
                const std::optional<Tensor>& mask, const Tensor& weight,
                const std::optional<Tensor>& bias) {
  using Sum = typename Mode::Sum;
  const bool innermost = is_channels_last(input);
  const std::array<int64_t, 4> size{g.batch, g.out_channels, g.out_height, g.out_width};
  Tensor output = innermost ? empty_channels_last(size, input.dtype(), input)
                            : empty<4>(size, input.dtype(), input);
  DeformMaps<Sum> maps{MapView<Sum>(offset), mask ? MapView<Sum>(*mask) : MapView<Sum>()};
  Forward<Mode>(g, channels_last(input), maps, weight, bias, output, innermost).run();
  return output;
}

}  // namespace

Tensor deform_conv_cpu(Tensor input, Tensor offset, std::optional<Tensor> mask, Tensor weight,
                       std::optional<Tensor> bias, int64_t stride_height, int64_t stride_width,
                       int64_t padding_height, int64_t padding_width, int64_t dilation_height,
                       int64_t dilation_width, int64_t groups, int64_t deformable_groups) {
  const DeformGeometry g =
      deform_geometry(input, offset, mask, weight, stride_height, stride_width, padding_height,
                      padding_width, dilation_height, dilation_width, groups, deformable_groups);
  const DType dtype = input.dtype();
  check(dtype == DType::kFloat32 || dtype == DType::kFloat64 || dtype == DType::kBFloat16,
        "input must be float32, float64 or bfloat16");
  // Positions need more precision than bfloat16 has.
  const DType map_dtype = dtype == DType::kBFloat16 ? DType::kFloat32 : dtype;
  check(offset.dtype() == map_dtype, "offset must have the dtype of input (float32 for bfloat16)");
  check(!mask || mask->dtype() == map_dtype,
        "mask must have the dtype of input (float32 for bfloat16)");
  check(weight.dtype() == dtype, "weight must have the dtype of input");
  if (bias) {
    check(bias->dim() == 1 && bias->size(0) == g.out_channels && bias->dtype() == dtype,
          "bias must hold ", g.out_channels, " numbers of the dtype of input");
    bias = contiguous(*bias);
  }
  weight = contiguous(weight);
  if (dtype == DType::kFloat64) {
    return convolve<Plain<double>>(g, input, offset, mask, weight, bias);
  }
  if (dtype == DType::kFloat32) {
    return convolve<Plain<float>>(g, input, offset, mask, weight, bias);
  }
  // Pairs of channels must not straddle groups.
  const bool even = g.group_channels() % 2 == 0 && (g.channels / deformable_groups) % 2 == 0;
  const bool paired = even || (groups == 1 && deformable_groups == 1);
  return paired && kernels<float>().gemm_bfloat16 != nullptr
             ? convolve<Paired>(g, input, offset, mask, weight, bias)
             : convolve<Widened>(g, input, offset, mask, weight, bias);
}

}  // namespace glip
