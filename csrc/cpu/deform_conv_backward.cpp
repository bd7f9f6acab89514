// Deformable convolution, backward.
//
// A unit of work owns a slice of the input channels of one image. For every block of output pixels
// and every kernel point it makes the gradient of the sampled values (a matrix product of the
// upstream gradient with the slice's weights), scatters it into its slice of the gradient of the
// input, sums up the slice's share of the gradients of offset and mask, and adds the product of the
// sampled values with the upstream gradient to the gradient of its weights. No two units write the
// same numbers and the slices do not depend on the number of threads, so neither do the sums.
#include "deform_conv.h"

#include "ops.h"

namespace glip {
namespace {

constexpr int64_t kBlock = 96;  // output pixels
// Input channels of a slice: wide ones take a little less time, narrow ones keep more threads busy.
constexpr int64_t kWideSlice = 64, kNarrowSlice = 32;
constexpr int64_t kManyUnits = 16;

// Channels that share a group of the convolution and a deformable group.
struct Slice {
  int64_t begin, size, group, deformable_group;
};

// By shape alone, so that sums do not depend on the number of threads.
int64_t slice_width(const DeformGeometry& g) {
  return g.batch * g.channels >= kManyUnits * kWideSlice ? kWideSlice : kNarrowSlice;
}

std::vector<Slice> make_slices(const DeformGeometry& g) {
  const int64_t per_group = g.group_channels(), per_deformable = g.channels / g.deformable_groups;
  std::vector<Slice> slices;
  for (int64_t begin = 0; begin < g.channels;) {
    const int64_t group = begin / per_group, deformable_group = begin / per_deformable;
    const int64_t end = std::min(
        {(group + 1) * per_group, (deformable_group + 1) * per_deformable, begin + slice_width(g)});
    slices.push_back({begin, end - begin, group, deformable_group});
    begin = end;
  }
  return slices;
}

template <typename T>
struct Scratch {
  Buffer<T> grad_weight;  // [tap][output][row of the slice]
  Buffer<T> grad_columns, columns, corner_sums;
};

template <typename T>
class Backward {
 public:
  Backward(const DeformGeometry& g, const Tensor& grad_output, const Tensor& input,
           const DeformMaps<T>& maps, const Tensor& weight, bool need_samples, bool need_weight)
      : g_(g),
        simd_(kernels<T>()),
        slices_(make_slices(g)),
        row_(round_up(std::min(slice_width(g), g.channels), simd_.gemm_panel)),
        need_samples_(need_samples),
        need_weight_(need_weight),
        upstream_(grad_output.data<T>()),
        image_(input.data<T>()),
        weight_(weight.data<T>()),
        packed_weight_(need_samples ? num_slices() * packed_size() : 0),
        points_(g.batch * g.deformable_groups * g.taps() * g.pixels()),
        // Shares of the gradients of (dy, dx, mask): [image][slice][tap][3][pixel].
        shares_(need_samples ? g.batch * num_slices() * g.taps() * 3 * g.pixels() : 0),
        // Gradients of the weights per image, in the layout of the weights.
        grad_weights_(need_weight ? g.batch * weight_size() : 0) {
    if (need_samples) {
      parallel_for(num_slices(), 1, [&](int64_t begin, int64_t end) {
        for (int64_t slice = begin; slice < end; ++slice) {
          pack_weight(slices_[slice], packed_weight_.data() + slice * packed_size());
        }
      });
    }
    parallel_for(g.batch * g.deformable_groups * g.taps(), 1, [&](int64_t begin, int64_t end) {
      for (int64_t unit = begin; unit < end; ++unit) {
        const int64_t tap = unit % g.taps(), rest = unit / g.taps();
        make_points(g, maps, rest / g.deformable_groups, rest % g.deformable_groups, tap, 0,
                    g.pixels(), points_.data() + unit * g.pixels());
      }
    });
  }

  void run(T* grad_input) {
    const int64_t sums = need_weight_ ? packed_size() : 0, columns = need_weight_ ? kBlock * row_ : 0;
    parallel_units(
        g_.batch * num_slices(),
        [&] {
          return Scratch<T>{Buffer<T>(sums), Buffer<T>(kBlock * row_), Buffer<T>(columns),
                            Buffer<T>(4 * kBlock)};
        },
        [&](int64_t unit, Scratch<T>& scratch) {
          const int64_t image = unit / num_slices(), slice = unit % num_slices();
          std::fill_n(scratch.grad_weight.data(), sums, T(0));
          std::fill_n(scratch.columns.data(), columns, T(0));
          for (int64_t first = 0; first < g_.pixels(); first += kBlock) {
            const int64_t count = std::min(kBlock, g_.pixels() - first);
            for (int64_t tap = 0; tap < g_.taps(); ++tap) {
              process(image, slice, tap, first, count, scratch, grad_input);
            }
          }
          if (need_weight_) {
            store_grad_weight(slices_[slice], scratch.grad_weight.data(),
                              grad_weights_.data() + image * weight_size());
          }
        });
  }

  void sum_weight(T* grad_weight) const {
    parallel_for(weight_size(), 1 << 14, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        T total = 0;
        for (int64_t image = 0; image < g_.batch; ++image) {
          total += grad_weights_.data()[image * weight_size() + i];
        }
        grad_weight[i] = total;
      }
    });
  }

  // Adds the slices' shares up, in their order.
  void sum_maps(T* grad_offset, T* grad_mask) const {
    const int64_t taps = g_.taps(), maps = g_.deformable_groups * taps, pixels = g_.pixels();
    parallel_for(g_.batch * maps, 1, [&](int64_t begin, int64_t end) {
      for (int64_t unit = begin; unit < end; ++unit) {
        const int64_t image = unit / maps, map = unit % maps;
        T* const target[3] = {grad_offset + (image * 2 * maps + 2 * map) * pixels,
                              grad_offset + (image * 2 * maps + 2 * map + 1) * pixels,
                              grad_mask == nullptr ? nullptr : grad_mask + unit * pixels};
        for (int part = 0; part < (grad_mask == nullptr ? 2 : 3); ++part) {
          std::fill_n(target[part], pixels, T(0));
          for (int64_t slice = 0; slice < num_slices(); ++slice) {
            if (slices_[slice].deformable_group != map / taps) continue;
            const T* const share = share_of(image, slice, map % taps) + part * pixels;
            for (int64_t i = 0; i < pixels; ++i) target[part][i] += share[i];
          }
        }
      }
    });
  }

 private:
  int64_t num_slices() const { return static_cast<int64_t>(slices_.size()); }
  int64_t packed_size() const { return g_.taps() * g_.group_outputs() * row_; }
  int64_t weight_size() const { return g_.out_channels * g_.group_channels() * g_.taps(); }

  const T* share_of(int64_t image, int64_t slice, int64_t tap) const {
    return shares_.data() + ((image * num_slices() + slice) * g_.taps() + tap) * 3 * g_.pixels();
  }

  // Where the weight of (output of the group, channel of the slice, tap) lies.
  int64_t weight_at(const Slice& slice, int64_t output, int64_t channel, int64_t tap) const {
    const int64_t first = slice.begin - slice.group * g_.group_channels();
    return ((slice.group * g_.group_outputs() + output) * g_.group_channels() + first + channel) *
               g_.taps() +
           tap;
  }

  void pack_weight(const Slice& slice, T* packed) const {
    const int64_t panel = simd_.gemm_panel, outputs = g_.group_outputs(), taps = g_.taps();
    for (int64_t first = 0; first < row_; first += panel) {
      const int64_t columns = std::clamp<int64_t>(slice.size - first, 0, panel);
      for (int64_t n = 0; n < outputs; ++n) {
        const T* const from = weight_ + weight_at(slice, n, first, 0);
        for (int64_t tap = 0; tap < taps; ++tap) {
          T* const to = packed + tap * outputs * row_ + (first / panel * outputs + n) * panel;
          for (int64_t c = 0; c < columns; ++c) to[c] = from[c * taps + tap];
          std::fill_n(to + columns, panel - columns, T(0));
        }
      }
    }
  }

  void store_grad_weight(const Slice& slice, const T* sums, T* grad_weight) const {
    const int64_t outputs = g_.group_outputs();
    for (int64_t n = 0; n < outputs; ++n) {
      for (int64_t c = 0; c < slice.size; ++c) {
        T* const to = grad_weight + weight_at(slice, n, c, 0);
        for (int64_t tap = 0; tap < g_.taps(); ++tap) to[tap] = sums[(tap * outputs + n) * row_ + c];
      }
    }
  }

  void process(int64_t image, int64_t slice_index, int64_t tap, int64_t first, int64_t count,
               Scratch<T>& scratch, T* grad_input) {
    const Slice& slice = slices_[slice_index];
    const int64_t outputs = g_.group_outputs(), panel = simd_.gemm_panel;
    const int64_t image_start = image * g_.height * g_.width * g_.channels + slice.begin;
    const SamplePoint<T>* const points =
        points_.data() +
        ((image * g_.deformable_groups + slice.deformable_group) * g_.taps() + tap) * g_.pixels() +
        first;
    const T* const upstream =
        upstream_ + (image * g_.pixels() + first) * g_.out_channels + slice.group * outputs;
    if (need_samples_) {
      simd_.gemm({count, slice.size, outputs, upstream, g_.out_channels, 1,
                  packed_weight_.data() + slice_index * packed_size() + tap * outputs * row_,
                  outputs * panel, panel,
                  scratch.grad_columns.data(), row_, false});
      simd_.deform_backward({points, count, slice.size, image_ + image_start,
                             grad_input + image_start, g_.channels, scratch.grad_columns.data(),
                             need_weight_ ? scratch.columns.data() : nullptr, row_,
                             scratch.corner_sums.data()});
      store_shares(points, count, scratch.corner_sums.data(),
                   const_cast<T*>(share_of(image, slice_index, tap)) + first);
    } else {
      simd_.gather(image_ + image_start, g_.channels, points, count, slice.size,
                   scratch.columns.data(), row_);
    }
    if (need_weight_) {
      // The upstream gradient transposed, by its strides.
      simd_.gemm({outputs, slice.size, count, upstream, 1, g_.out_channels,
                  scratch.columns.data(), panel, row_, scratch.grad_weight.data() + tap * outputs * row_,
                  row_, true});
    }
  }

  // From the sums over channels of (corner value times gradient) to the derivatives of the bilinear
  // sample by y, x and mask.
  void store_shares(const SamplePoint<T>* points, int64_t count, const T* sums, T* share) const {
    for (int64_t i = 0; i < count; ++i, sums += 4) {
      const T y = points[i].fraction_y, x = points[i].fraction_x, mask = points[i].mask;
      share[i] = mask * ((1 - x) * (sums[2] - sums[0]) + x * (sums[3] - sums[1]));
      share[g_.pixels() + i] = mask * ((1 - y) * (sums[1] - sums[0]) + y * (sums[3] - sums[2]));
      share[2 * g_.pixels() + i] = (1 - y) * ((1 - x) * sums[0] + x * sums[1]) +
                                   y * ((1 - x) * sums[2] + x * sums[3]);
    }
  }

  const DeformGeometry& g_;
  const Kernels<T>& simd_;
  std::vector<Slice> slices_;
  int64_t row_;
  bool need_samples_, need_weight_;
  const T* upstream_;
  const T* image_;
  const T* weight_;
  Buffer<T> packed_weight_;  // of every slice: [tap][panel][output][column in panel]
  Buffer<SamplePoint<T>> points_;
  Buffer<T> shares_;
  Buffer<T> grad_weights_;
};

template <typename T>
std::tuple<Tensor, Tensor, Tensor, Tensor> backward(const DeformGeometry& g,
                                                    const Tensor& grad_output, const Tensor& input,
                                                    const Tensor& offset,
                                                    const std::optional<Tensor>& mask,
                                                    const Tensor& weight, bool need_samples,
                                                    bool need_weight) {
  const DType dtype = input.dtype();
  const Tensor image = channels_last(input), upstream = channels_last(grad_output);
  const DeformMaps<T> maps{MapView<T>(offset), mask ? MapView<T>(*mask) : MapView<T>()};
  const int64_t points = g.deformable_groups * g.taps();
  // What is not asked for comes back empty.
  Tensor grad_input = empty<1>({0}, dtype, input), grad_offset = empty<1>({0}, dtype, input);
  Tensor grad_mask = empty<1>({0}, dtype, input), grad_weight = empty<1>({0}, dtype, input);
  if (need_samples) {
    grad_input = zeros_(
        empty_channels_last({g.batch, g.channels, g.height, g.width}, dtype, input));
    grad_offset = empty<4>({g.batch, 2 * points, g.out_height, g.out_width}, dtype, input);
    if (mask) grad_mask = empty<4>({g.batch, points, g.out_height, g.out_width}, dtype, input);
  }
  if (need_weight) {
    grad_weight = empty<4>({g.out_channels, g.group_channels(), g.kernel_height, g.kernel_width},
                           dtype, input);
  }
  Backward<T> pass(g, upstream, image, maps, weight, need_samples, need_weight);
  pass.run(grad_input.data<T>());
  if (need_samples) {
    pass.sum_maps(grad_offset.data<T>(), mask ? grad_mask.data<T>() : nullptr);
  }
  if (need_weight) pass.sum_weight(grad_weight.data<T>());
  if (need_samples && !is_channels_last(input)) grad_input = contiguous(grad_input);
  return {grad_input, grad_offset, grad_mask, grad_weight};
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor, Tensor> deform_conv_backward_cpu(
    Tensor grad_output, Tensor input, Tensor offset, std::optional<Tensor> mask, Tensor weight,
    int64_t stride_height, int64_t stride_width, int64_t padding_height, int64_t padding_width,
    int64_t dilation_height, int64_t dilation_width, int64_t groups, int64_t deformable_groups,
    bool need_samples, bool need_weight) {
  const DeformGeometry g =
      deform_geometry(input, offset, mask, weight, stride_height, stride_width, padding_height,
                      padding_width, dilation_height, dilation_width, groups, deformable_groups);
  const DType dtype = input.dtype();
  check_deform_gradient(g, grad_output, input, offset, mask, weight);
  check(need_samples || need_weight, "at least one gradient must be asked for");
  weight = contiguous(weight);
  return dtype == DType::kFloat64 ? backward<double>(g, grad_output, input, offset, mask, weight,
                                                     need_samples, need_weight)
                                  : backward<float>(g, grad_output, input, offset, mask, weight,
                                                    need_samples, need_weight);
}

}  // namespace glip
