// Mean of neighbouring pyramid levels and dynamic ReLU, in one pass over the maps.
#include <algorithm>
#include <array>
#include <optional>
#include <vector>

#include "kernels.h"
#include "ops.h"
#include "parallel.h"

namespace glip {
namespace {

constexpr int64_t kBlock = 64;  // pixels whose gradients are summed together

struct Maps {
  std::vector<Tensor> tensors;  // channels-last
  int64_t batch, channels, height, width;

  int64_t pixels() const { return height * width; }
  int64_t blocks() const { return (pixels() + kBlock - 1) / kBlock; }
  // Where a block of an image begins in each map.
  int64_t start(int64_t image, int64_t block) const {
    return (image * pixels() + block * kBlock) * channels;
  }
  std::array<int64_t, 4> size() const { return {batch, channels, height, width}; }
};

Maps read_maps(const Tensor& first, const std::optional<Tensor>& second,
               const std::optional<Tensor>& third, const Tensor& weights, const Tensor& pieces) {
  check(first.dim() == 4, "maps must have shape (batch, channels, height, width)");
  check(first.dtype() == DType::kFloat32 || first.dtype() == DType::kFloat64,
        "maps must be float32 or float64");
  check(second || !third, "a third map needs a second");
  Maps maps{{channels_last(first)}, first.size(0), first.size(1), first.size(2), first.size(3)};
  for (const std::optional<Tensor>* other : {&second, &third}) {
    if (!*other) continue;
    const Tensor& map = **other;
    check(map.dim() == 4 && std::equal(map.sizes(), map.sizes() + 4, first.sizes()) &&
              map.dtype() == first.dtype(),
          "all maps must have one shape and dtype");
    maps.tensors.push_back(channels_last(map));
  }
  const int64_t count = maps.tensors.size();
  check(weights.dim() == 2 && weights.size(0) == maps.batch && weights.size(1) == count &&
            weights.dtype() == first.dtype(),
        "weights must have shape (", maps.batch, ", ", count, ") and the dtype of the maps");
  check(pieces.dim() == 3 && pieces.size(0) == maps.batch && pieces.size(1) == 4 &&
            pieces.size(2) == maps.channels && pieces.dtype() == first.dtype(),
        "pieces must have shape (", maps.batch, ", 4, ", maps.channels,
        ") and the dtype of the maps");
  return maps;
}

// What the kernels need of one block of pixels of one image.
template <typename T>
DynamicMean<T> make_task(const Maps& maps, const T* weights, const T* pieces, int64_t image,
                         int64_t block) {
  DynamicMean<T> task{};
  task.count = static_cast<int>(maps.tensors.size());
  const int64_t start = maps.start(image, block);
  for (int k = 0; k < task.count; ++k) {
    task.maps[k] = maps.tensors[k].data<T>() + start;
    task.weights[k] = weights[image * task.count + k];
  }
  task.pieces = pieces + image * 4 * maps.channels;
  task.pixels = std::min(kBlock, maps.pixels() - block * kBlock);
  task.channels = maps.channels;
  return task;
}

template <typename T>
Tensor forward(const Maps& maps, const Tensor& weights, const Tensor& pieces) {
  Tensor output = empty_channels_last(maps.size(), weights.dtype(), weights);
  T* const out = output.data<T>();
  const T* const weight = weights.data<T>();
  const T* const piece = pieces.data<T>();
  const int64_t blocks = maps.blocks();
  parallel_for(maps.batch * blocks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t image = unit / blocks, block = unit % blocks;
      DynamicMean<T> task = make_task(maps, weight, piece, image, block);
      task.out = out + maps.start(image, block);
      kernels<T>().dynamic_mean(task);
    }
  });
  return output;
}

template <typename T>
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> backward(const Tensor& grad_output,
                                                            const Maps& maps,
                                                            const Tensor& weights,
                                                            const Tensor& pieces) {
  const DType dtype = weights.dtype();
  const int64_t count = maps.tensors.size(), blocks = maps.blocks(), lines = 4 * maps.channels;
  // The gradient of a map that does not exist comes back empty.
  std::vector<Tensor> grad_maps;
  for (int64_t k = 0; k < 3; ++k) {
    grad_maps.push_back(k < count ? empty_channels_last(maps.size(), dtype, weights)
                                  : empty<1>({0}, dtype, weights));
  }
  Tensor grad_weights = empty<2>({maps.batch, count}, dtype, weights);
  Tensor grad_pieces = empty<3>({maps.batch, 4, maps.channels}, dtype, weights);
  const T* const upstream = grad_output.data<T>();
  const T* const weight = weights.data<T>();
  const T* const piece = pieces.data<T>();
  // Sums belong to blocks, not to threads, so that they are the same on any number of them.
  std::vector<T> piece_sums(maps.batch * blocks * lines, T(0));
  std::vector<T> weight_sums(maps.batch * blocks * count);
  parallel_for(maps.batch * blocks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t image = unit / blocks, block = unit % blocks;
      const int64_t start = maps.start(image, block);
      DynamicMeanBackward<T> task{};
      task.forward = make_task(maps, weight, piece, image, block);
      task.grad = upstream + start;
      for (int64_t k = 0; k < count; ++k) task.grad_maps[k] = grad_maps[k].data<T>() + start;
      task.piece_sums = piece_sums.data() + unit * lines;
      kernels<T>().dynamic_mean_backward(task);
      std::copy_n(task.weight_sums, count, weight_sums.data() + unit * count);
    }
  });
  const auto sum_blocks = [&](const std::vector<T>& sums, int64_t columns, double divisor, T* to) {
    for (int64_t image = 0; image < maps.batch; ++image) {
      std::vector<double> total(columns, 0.0);
      for (int64_t block = 0; block < blocks; ++block) {
        const T* const part = sums.data() + (image * blocks + block) * columns;
        for (int64_t i = 0; i < columns; ++i) total[i] += part[i];
      }
      for (int64_t i = 0; i < columns; ++i) {
        to[image * columns + i] = static_cast<T>(total[i] / divisor);
      }
    }
  };
  sum_blocks(piece_sums, lines, 1.0, grad_pieces.data<T>());
  sum_blocks(weight_sums, count, static_cast<double>(count), grad_weights.data<T>());
  return {grad_maps[0], grad_maps[1], grad_maps[2], grad_weights, grad_pieces};
}

}  // namespace

Tensor dynamic_mean_cpu(Tensor first, std::optional<Tensor> second, std::optional<Tensor> third,
                        Tensor weights, Tensor pieces) {
  const Maps maps = read_maps(first, second, third, weights, pieces);
  weights = contiguous(weights);
  pieces = contiguous(pieces);
  return weights.dtype() == DType::kFloat64 ? forward<double>(maps, weights, pieces)
                                            : forward<float>(maps, weights, pieces);
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> dynamic_mean_backward_cpu(
    Tensor grad_output, Tensor first, std::optional<Tensor> second, std::optional<Tensor> third,
    Tensor weights, Tensor pieces) {
  const Maps maps = read_maps(first, second, third, weights, pieces);
  check(grad_output.dim() == 4 &&
            std::equal(grad_output.sizes(), grad_output.sizes() + 4, first.sizes()) &&
            grad_output.dtype() == first.dtype(),
        "grad_output must have the shape and dtype of the maps");
  grad_output = channels_last(grad_output);
  weights = contiguous(weights);
  pieces = contiguous(pieces);
  return weights.dtype() == DType::kFloat64
             ? backward<double>(grad_output, maps, weights, pieces)
             : backward<float>(grad_output, maps, weights, pieces);
}

}  // namespace glip
