// Focal losses on logits, in one pass, row by row.
#include <vector>

#include "../checks.h"
#include "kernels.h"
#include "ops.h"
#include "parallel.h"

namespace glip {
namespace {

constexpr int64_t kGrain = 1 << 13;      // logits that are worth a thread
constexpr int64_t kRowsPerBlock = 256;   // rows whose losses are summed together

int64_t rows_per_thread(int64_t columns) {
  return std::max<int64_t>(1, kGrain / std::max<int64_t>(columns, 1));
}

template <typename T>
Tensor class_loss(const Tensor& logits, const Tensor& targets, double gamma, double alpha) {
  const int64_t rows = logits.size(0), columns = logits.size(1);
  Tensor loss = empty<2>({rows, columns}, logits.dtype(), logits);
  const T* const z = logits.data<T>();
  const int32_t* const label = targets.data<int32_t>();
  T* const out = loss.data<T>();
  parallel_for(rows, rows_per_thread(columns), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      kernels<T>().focal_row(z + i * columns, columns, label[i], static_cast<T>(gamma),
                             static_cast<T>(alpha), out + i * columns);
    }
  });
  return loss;
}

template <typename T>
Tensor class_loss_backward(const Tensor& grad_loss, const Tensor& logits, const Tensor& targets,
                           double gamma, double alpha) {
  const int64_t rows = logits.size(0), columns = logits.size(1);
  Tensor grad = empty<2>({rows, columns}, logits.dtype(), logits);
  const T* const upstream = grad_loss.data<T>();
  const T* const z = logits.data<T>();
  const int32_t* const label = targets.data<int32_t>();
  T* const out = grad.data<T>();
  parallel_for(rows, rows_per_thread(columns), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      kernels<T>().focal_row_backward(z + i * columns, upstream + i * columns, columns, label[i],
                                      static_cast<T>(gamma), static_cast<T>(alpha),
                                      out + i * columns);
    }
  });
  return grad;
}

// 1 where a token counts, else 0, in the type of the logits.
template <typename T>
std::vector<T> as_numbers(const Tensor& counted) {
  const bool* const flags = counted.data<bool>();
  return std::vector<T>(flags, flags + counted.numel());
}

template <typename T>
Tensor token_loss(const Tensor& logits, const Tensor& targets, const Tensor& counted, double alpha,
                  double gamma) {
  const int64_t batch = logits.size(0), anchors = logits.size(1), tokens = logits.size(2);
  const T* const z = logits.data<T>();
  const T* const y = targets.data<T>();
  const std::vector<T> flags = as_numbers<T>(counted);
  // Partial sums belong to rows, not to threads, so that the total is the same on any number.
  const int64_t rows = batch * anchors, blocks = (rows + kRowsPerBlock - 1) / kRowsPerBlock;
  std::vector<double> partial(blocks, 0.0);
  const int64_t grain = std::max<int64_t>(1, rows_per_thread(tokens) / kRowsPerBlock);
  parallel_for(blocks, grain, [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block) {
      const int64_t last = std::min(rows, (block + 1) * kRowsPerBlock);
      for (int64_t row = block * kRowsPerBlock; row < last; ++row) {
        partial[block] += kernels<T>().token_focal_row(
            z + row * tokens, y + row * tokens, flags.data() + row / anchors * tokens, tokens,
            static_cast<T>(alpha), static_cast<T>(gamma));
      }
    }
  });
  double total = 0;
  for (const double part : partial) total += part;
  Tensor loss = empty<0>({}, logits.dtype(), logits);
  *loss.data<T>() = static_cast<T>(total);
  return loss;
}

template <typename T>
Tensor token_loss_backward(const Tensor& grad_loss, const Tensor& logits, const Tensor& targets,
                           const Tensor& counted, double alpha, double gamma) {
  const int64_t batch = logits.size(0), anchors = logits.size(1), tokens = logits.size(2);
  Tensor grad = empty<3>({batch, anchors, tokens}, logits.dtype(), logits);
  const T scale = *grad_loss.data<T>();
  const T* const z = logits.data<T>();
  const T* const y = targets.data<T>();
  T* const out = grad.data<T>();
  const std::vector<T> flags = as_numbers<T>(counted);
  parallel_for(batch * anchors, rows_per_thread(tokens), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      kernels<T>().token_focal_row_backward(z + row * tokens, y + row * tokens,
                                            flags.data() + row / anchors * tokens, tokens,
                                            static_cast<T>(alpha), static_cast<T>(gamma), scale,
                                            out + row * tokens);
    }
  });
  return grad;
}

}  // namespace

Tensor sigmoid_focal_loss_cpu(Tensor logits, Tensor targets, double gamma, double alpha) {
  check_class_targets(logits, targets);
  logits = contiguous(logits);
  targets = contiguous(targets);
  return logits.dtype() == DType::kFloat64 ? class_loss<double>(logits, targets, gamma, alpha)
                                           : class_loss<float>(logits, targets, gamma, alpha);
}

Tensor sigmoid_focal_loss_backward_cpu(Tensor grad_loss, Tensor logits, Tensor targets, double gamma,
                                       double alpha) {
  check_class_targets(logits, targets);
  check_like(grad_loss, logits, "grad_loss");
  grad_loss = contiguous(grad_loss);
  logits = contiguous(logits);
  targets = contiguous(targets);
  return logits.dtype() == DType::kFloat64
             ? class_loss_backward<double>(grad_loss, logits, targets, gamma, alpha)
             : class_loss_backward<float>(grad_loss, logits, targets, gamma, alpha);
}

Tensor token_sigmoid_focal_loss_cpu(Tensor logits, Tensor targets, Tensor counted, double alpha,
                                    double gamma) {
  check_token_targets(logits, targets, counted);
  logits = contiguous(logits);
  targets = contiguous(targets);
  counted = contiguous(counted);
  return logits.dtype() == DType::kFloat64
             ? token_loss<double>(logits, targets, counted, alpha, gamma)
             : token_loss<float>(logits, targets, counted, alpha, gamma);
}

Tensor token_sigmoid_focal_loss_backward_cpu(Tensor grad_loss, Tensor logits, Tensor targets,
                                             Tensor counted, double alpha, double gamma) {
  check_token_targets(logits, targets, counted);
  check_total(grad_loss, logits);
  logits = contiguous(logits);
  targets = contiguous(targets);
  counted = contiguous(counted);
  return logits.dtype() == DType::kFloat64
             ? token_loss_backward<double>(grad_loss, logits, targets, counted, alpha, gamma)
             : token_loss_backward<float>(grad_loss, logits, targets, counted, alpha, gamma);
}

}  // namespace glip
